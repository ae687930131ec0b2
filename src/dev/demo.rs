//! A running demo: one folder, N edges, two gateways and an upstream, from start to end.
//!
//! Called by `edge dev`. Owns the child processes and the order in which they start and end.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use super::child::Child;
use super::layout::{Edge, Folder, GATEWAY, Gateway, Layout};
use super::probe::Probe;
use super::show::{Audience, Process, Target, show};
use super::upstream::{Listen, Upstream, UpstreamConfig};
use super::{DevArgs, Failure, Signals};
use crate::exit::Exit;
use crate::task::{Shutdown, Tasks};

/// From the last ready line to the first answer.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// For each child to drain. The last PoP would wait longer for its gateways to move to another one.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// For each child to end by force.
const FORCE_TIMEOUT: Duration = Duration::from_secs(4);
/// The gateways.
const GATEWAYS: [&str; 2] = [GATEWAY, "gw-2"];
/// Keys that outlive a restart: old clients of a killed PoP hear at once that it is gone.
const EDGE_TOP: &str = "state_dir = \"state\"\n";
/// The time of a drain where drains are shown: longer than a download and a conversation of the show.
const SHORT_DRAIN: &str = "[drain]\ntimeout = \"15s\"\n";
/// Where outages are shown a gateway holds one PoP and keeps the next one warm, so that it migrates.
const ONE_POP: &str = "pops_wanted = 1\n";
/// The host in printed URLs.
const HOST: &str = "localhost";

/// The processes of a demo, in the order in which they end.
pub struct Demo {
    /// The PoPs.
    pub edges: Vec<Child>,
    /// The gateways, all for the same service.
    pub gateways: Vec<Child>,
    tasks: Tasks,
    folder: Folder,
}

/// Starts everything, and ends it at the first signal; a second one ends it at once.
///
/// # Errors
/// When something cannot be started or the chain gives no answer; everything is gone then.
pub async fn demo(args: DevArgs) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let folder = args.dir.as_deref().map_or_else(Folder::temporary, Folder::keep)?;
    let demo = Demo { edges: Vec::new(), gateways: Vec::new(), tasks: Tasks::new(Shutdown::default()), folder };
    let mut demo = tokio::select! {
        demo = demo.start(&args) => demo?,
        () = signals.next() => return Ok(Exit::Ok),
    };
    let well = demo.run(&args, &mut signals).await;
    println!("\nEnding.");
    tokio::select! {
        () = demo.end() => {}
        () = signals.next() => {}
    }
    Ok(if well? { Exit::Ok } else { Exit::Failed })
}

impl Demo {
    async fn start(mut self, args: &DevArgs) -> Result<Self, Failure> {
        let names: Vec<String> =
            (b'a'..).take(args.pops.into()).map(|letter| format!("pop-{}", char::from(letter))).collect();
        let hosts = hosts(args.listen.ip());
        Layout::new(self.folder.path()).certificates(&names, &hosts)?;
        let upstream = self.upstream(args).await?;
        let (mut listen, patterns) = (args.listen, as_patterns(&hosts));
        for name in &names {
            let tables = if args.outages { SHORT_DRAIN } else { "" };
            let edge = Edge { top: EDGE_TOP, tables, ..Edge::new(listen_or_any(listen), &patterns) };
            self.edge(name, edge).await?;
            listen.set_port(listen.port().checked_add(u16::from(listen.port() != 0)).unwrap_or(0));
        }
        self.gateways(&upstream, if args.outages { (ONE_POP, SHORT_DRAIN) } else { ("", "") }).await?;
        self.prove(&upstream, args).await?;
        Ok(self)
    }

    /// The URL of what is served.
    async fn upstream(&self, args: &DevArgs) -> Result<String, Failure> {
        if let Some(url) = &args.upstream {
            return Ok(url.clone());
        }
        let listen = Listen::Tcp((Ipv4Addr::LOCALHOST, 0).into());
        let upstream = Upstream::bind(UpstreamConfig { listen, root: args.root.clone() }).await?;
        let url = upstream.url();
        self.tasks.spawn(upstream.run(self.tasks.clone()));
        Ok(url)
    }

    async fn edge(&mut self, name: &str, edge: Edge<'_>) -> Result<(), Failure> {
        let layout = Layout::new(self.folder.path());
        layout.edge(name, &edge)?;
        let child = start(&layout, "edge", name).await?;
        // So that `edge run -c` brings a killed PoP back where the origin and the printed lines look for it.
        layout.edge(name, &edge.at(&child.ready))?;
        self.edges.push(child);
        Ok(())
    }

    async fn gateways(&mut self, upstream: &str, (top, tables): (&str, &str)) -> Result<(), Failure> {
        let layout = Layout::new(self.folder.path());
        let pops: Vec<String> = self.edges.iter().flat_map(|edge| edge.ready.tunnel.first().cloned()).collect();
        let upstreams = [upstream.to_owned()];
        for name in GATEWAYS {
            layout.gateway_certificate(name)?;
            let gateway = Gateway { top, tables, ..Gateway::new(&pops, &upstreams) };
            layout.gateway(name, &gateway)?;
            let child = start(&layout, "origin", name).await?;
            // So that `origin status -c` finds it, and it comes back there.
            let admin = child.ready.admin.first().ok_or("no admin address")?;
            layout.gateway(name, &Gateway { admin, ..gateway })?;
            self.gateways.push(child);
        }
        Ok(())
    }

    /// Starts a process again that has ended, where it was.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self, process: Process) -> Result<(), Failure> {
        let program = match process {
            Process::Pop(_) => "edge",
            Process::Gateway(_) => "origin",
        };
        let child = start(&Layout::new(self.folder.path()), program, self.name(process)).await?;
        if let Some(place) = self.child(process) {
            *place = child;
        }
        Ok(())
    }

    /// A process.
    pub fn child(&mut self, process: Process) -> Option<&mut Child> {
        match process {
            Process::Pop(index) => self.edges.get_mut(index),
            Process::Gateway(index) => self.gateways.get_mut(index),
        }
    }

    /// The name of a process.
    pub fn name(&self, process: Process) -> &str {
        let child = match process {
            Process::Pop(index) => self.edges.get(index),
            Process::Gateway(index) => self.gateways.get(index),
        };
        child.map_or("", |child| child.name.as_str())
    }

    /// Where all processes are asked; a process that is started again is there too.
    pub fn admins(&self) -> Vec<SocketAddr> {
        let children = self.edges.iter().chain(&self.gateways);
        children.filter_map(|child| child.ready.admin.first()?.parse().ok()).collect()
    }

    /// How many links each gateway has when all is well: to the PoPs that it holds and to the warm one.
    pub fn links(&self) -> u64 {
        const LINKS: u64 = 2;
        const POPS: usize = 2;
        LINKS * self.edges.len().min(POPS) as u64
    }

    /// Until its end: a show, or nothing but news. False if the show had failures.
    async fn run(&mut self, args: &DevArgs, signals: &mut Signals) -> Result<bool, Failure> {
        let time = args.time;
        let end = async {
            tokio::select! {
                () = signals.next() => {}
                () = async { tokio::time::sleep(time.unwrap_or_default()).await }, if time.is_some() => {}
            }
        };
        if !args.outages {
            self.watch(end).await;
            return Ok(true);
        }
        let audience = Audience {
            ca: Layout::new(self.folder.path()).site_ca(),
            host: HOST.to_owned(),
            http3: self.edges.iter().map(peer).collect::<Result<_, _>>()?,
            http2: self.edges.iter().map(peer).collect::<Result<_, _>>()?,
            target: if args.upstream.is_some() { Target::Other } else { Target::BuiltIn },
        };
        show(self, &audience, end).await
    }

    /// One HTTP/3 request through each PoP, and what to do next.
    async fn prove(&self, upstream: &str, args: &DevArgs) -> Result<(), Failure> {
        let built_in = args.upstream.is_none();
        let ca = Layout::new(self.folder.path()).site_ca();
        let path = if built_in { "/echo" } else { "/" };
        println!("Trunkline serves {upstream}{}\n", if built_in { " (built in)" } else { "" });
        for edge in &self.edges {
            let peer = peer(edge)?;
            let probe = Probe::new(&ca, HOST, peer)?;
            let found = probe.until_served(peer, path, CHAIN_TIMEOUT).await;
            let found = found.map_err(|error| format!("no answer through {}: {error}\n{}", edge.name, self.logs()))?;
            let (name, pid, port, status) = (&edge.name, edge.pid(), peer.port(), found.status.as_u16());
            println!("  {name}  https://{HOST}:{port}/  pid {pid}  HTTP/3: {status} in {:.1?}", found.took);
        }
        self.explain(&ca.display().to_string(), path, args.outages)
    }

    fn explain(&self, ca: &str, path: &str, outages: bool) -> Result<(), Failure> {
        let Some(first) = self.edges.first() else { return Ok(()) };
        let port = peer(first)?.port();
        println!("\nTry:\n  curl --http3 --cacert {ca} https://{HOST}:{port}{path}");
        println!("  curl --http2 --cacert {ca} https://{HOST}:{port}{path}");
        if let Some(last) = self.edges.last() {
            let config = Layout::new(self.folder.path()).config(&last.name);
            println!("  kill -9 {}   # {} vanishes", last.pid(), last.name);
            if outages {
                println!("  # as do tunnels, gateways and PoPs in turn from now on; each is started again");
            } else {
                println!("  {} run -c {}   # and comes back", sibling("edge")?.display(), config.display());
            }
        }
        if let Some(gateway) = self.gateways.first() {
            let config = Layout::new(self.folder.path()).config(&gateway.name);
            println!("  {} status -c {}   # its tunnels", sibling("origin")?.display(), config.display());
        }
        let kept = if self.folder.is_temporary() { "removed at the end" } else { "kept" };
        println!("\nLogs, certificates and configuration: {} ({kept}). Ctrl-C ends it.", self.folder.path().display());
        Ok(())
    }

    fn logs(&self) -> String {
        let children = self.edges.iter().chain(&self.gateways);
        children.map(|child| format!("--- {}\n{}", child.name, child.log_text())).collect()
    }

    /// Waits for `end`. A child that dies is news, not an end: that is what a demo is for.
    async fn watch(&mut self, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        // By name, not by whether it has ended: one may end before anybody looks.
        let mut told: Vec<String> = Vec::new();
        loop {
            let children = self.edges.iter_mut().chain(&mut self.gateways);
            let mut children: Vec<&mut Child> = children.filter(|child| !told.contains(&child.name)).collect();
            tokio::select! {
                () = &mut end => return,
                (name, status) = first_end(&mut children) => {
                    println!("{name} is gone ({status}).");
                    told.push(name);
                }
            }
        }
    }

    /// Edges first, so that they finish requests while the rest still works; then the gateways, then the upstream.
    async fn end(&mut self) {
        for child in self.edges.iter_mut().chain(&mut self.gateways) {
            child.signal(libc::SIGTERM);
            // A frozen one would not hear.
            child.signal(libc::SIGCONT);
            if tokio::time::timeout(DRAIN_TIMEOUT, child.ended()).await.is_ok() {
                continue;
            }
            child.signal(libc::SIGTERM);
            if tokio::time::timeout(FORCE_TIMEOUT, child.ended()).await.is_err() {
                println!("{} does not end and is killed.", child.name);
                child.signal(libc::SIGKILL);
            }
        }
        self.tasks.shutdown().start_force();
        self.tasks.wait().await;
    }
}

/// The first of `children` to end; never, if there are none.
async fn first_end(children: &mut [&mut Child]) -> (String, std::process::ExitStatus) {
    let ends = children.iter_mut().map(|child| {
        Box::pin(async move {
            let status = child.ended().await;
            (child.name.clone(), status)
        })
    });
    let ends: Vec<_> = ends.collect();
    if ends.is_empty() {
        return std::future::pending().await;
    }
    futures_util::future::select_all(ends).await.0
}

async fn start(layout: &Layout<'_>, program: &str, name: &str) -> Result<Child, Failure> {
    let config = layout.config(name);
    let config = config.to_str().ok_or("the folder's name is not UTF-8")?;
    Ok(Child::start(name, &sibling(program)?, &["run", "-c", config], &layout.log(name)).await?)
}

/// The other binary, installed beside this one.
fn sibling(program: &str) -> Result<PathBuf, Failure> {
    Ok(std::env::current_exe()?.with_file_name(program))
}

/// Hosts in the site certificate: loopback and the address that was asked for.
fn hosts(listen: IpAddr) -> Vec<String> {
    let mut hosts: Vec<String> = [HOST, "127.0.0.1", "::1"].map(ToOwned::to_owned).into();
    let listen = listen.to_string();
    if !hosts.contains(&listen) {
        hosts.push(listen);
    }
    hosts
}

/// The same hosts as a configuration has them: IPv6 addresses in brackets.
fn as_patterns(hosts: &[String]) -> Vec<String> {
    hosts.iter().map(|host| if host.contains(':') { format!("[{host}]") } else { host.clone() }).collect()
}

/// `addr`, or any port of its address if that one is in use.
fn listen_or_any(addr: SocketAddr) -> SocketAddr {
    let free = std::net::TcpListener::bind(addr).is_ok() && std::net::UdpSocket::bind(addr).is_ok();
    if free { addr } else { SocketAddr::new(addr.ip(), 0) }
}

/// Where to reach an edge over HTTP/3 from this machine.
fn peer(edge: &Child) -> Result<SocketAddr, Failure> {
    let address = edge.ready.http3.first().ok_or_else(|| format!("{} has no HTTP/3 address", edge.name))?;
    let mut address: SocketAddr = address.parse()?;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    Ok(address)
}
