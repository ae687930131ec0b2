//! The whole chain on a network of the runner's: PoPs, one gateway with an upstream beside it, each in a namespace of its
//! own, as real processes.
//!
//! Called by our own cases. Owns the processes and the network while a case runs.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use trunkline::ca::{self, Subject};
use trunkline::clock;
use trunkline::observe::event::What;

use super::client::Client;
use crate::Outcome;
use crate::net::Network;
use crate::net::hub::{End, Hub, ipv4};
use crate::net::namespace::Namespace;
use crate::peers::beside;
use crate::process::Process;

/// The end where clients are.
pub const CLIENT: End = 0;
/// The first PoP.
pub const POP_A: End = 1;
/// The host that clients ask for.
pub const HOST: &str = "www.example.com";
/// An address of the first PoP's own, beside that of its end, which stands for one that many PoPs share.
pub const PREFERRED: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 3);
/// Ports in every namespace.
/// Where clients go.
pub const CLIENTS_PORT: u16 = 443;
/// Of tunnels.
pub const TUNNEL_PORT: u16 = 7_844;
/// Of PoPs and of the gateway.
const ADMIN_PORTS: [u16; 2] = [9_900, 9_901];
/// Where the upstream listens, at the gateway's end.
pub const UPSTREAM: &str = "127.0.0.1:3000";
/// How long anything awaited may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Between looks at it.
const TICK: Duration = Duration::from_millis(20);

/// How large the chain is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// PoPs.
    pub pops: usize,
    /// Links to each.
    pub links: usize,
    /// The gateway is at the first PoP's end: its tunnels never touch a link.
    pub together: bool,
    /// PoPs that the gateway holds tunnels to.
    pub wanted: usize,
    /// The first PoP sends its clients on to [`PREFERRED`].
    pub preferred: bool,
}

impl Default for Size {
    /// One PoP with two links.
    fn default() -> Self {
        Self { pops: 1, links: 2, together: false, wanted: 1, preferred: false }
    }
}

impl Size {
    /// Ends of the network.
    pub fn ends(self) -> usize {
        if self.together { self.pops + 1 } else { self.pops + 2 }
    }

    /// The end of the gateway.
    pub fn gateway(self) -> End {
        if self.together { POP_A } else { self.pops + 1 }
    }

    /// Names of the ends.
    pub fn names(self) -> Vec<String> {
        let pops = (0..self.pops).map(pop);
        let gateway = (!self.together).then(|| "gw-1".to_owned());
        std::iter::once("client".to_owned()).chain(pops).chain(gateway).collect()
    }
}

/// The running chain.
#[derive(Debug)]
pub struct World {
    /// Processes of PoPs.
    pub edges: Vec<Process>,
    _origin: Process,
    _upstream: Process,
    /// Where everything is.
    pub network: Network,
    folder: PathBuf,
    size: Size,
}

/// The name of a PoP.
fn pop(number: usize) -> String {
    format!("pop-{}", char::from(b'a' + u8::try_from(number).unwrap_or_default()))
}

impl World {
    /// Starts PoPs, upstream and gateway; returns when all links stand. `before` runs when all but the gateway do.
    pub async fn start(
        folder: &Path,
        size: Size,
        hub: Hub,
        before: impl AsyncFnOnce(&Network) -> Outcome<()>,
    ) -> Outcome<Self> {
        let names = size.names();
        fs::create_dir_all(folder)?;
        certificates(folder, size)?;
        let network = Network::start(&names.iter().map(String::as_str).collect::<Vec<_>>(), hub, folder)?;
        let edges = (0..size.pops).map(|number| edge(folder, &network, number, size)).collect::<Outcome<_>>()?;
        let upstream = upstream(folder, network.end(size.gateway())?)?;
        for name in names.iter().skip(1).take(size.pops).map(String::as_str).chain(["upstream"]) {
            eventually(name, async || Ok(fs::metadata(folder.join(name).with_extension("out"))?.len() > 0)).await?;
        }
        before(&network).await?;
        let origin = run(folder, &network, "origin", "gw-1", size.gateway(), &origin_config(size))?;
        let world = Self { edges, _origin: origin, _upstream: upstream, network, folder: folder.to_owned(), size };
        world.until_linked().await?;
        Ok(world)
    }

    /// Waits until the gateway has all its links.
    pub async fn until_linked(&self) -> Outcome<()> {
        let wanted = u32::try_from(self.size.wanted * self.size.links)?;
        eventually("links", async || Ok(self.gauge("trunkline_tunnel_links").unwrap_or(0.0) >= f64::from(wanted))).await
    }

    /// A client's connection to a PoP.
    pub async fn client(&self, pop: usize) -> Outcome<Client> {
        let socket = self.network.end(CLIENT)?.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        let address = SocketAddr::new(ipv4(POP_A + pop).into(), CLIENTS_PORT);
        Client::connect(socket, address, HOST, &self.folder.join("site-ca.pem")).await
    }

    /// The first PoP drains while `work` goes on; when that has ended well it must exit with success. How long both took.
    pub async fn drain(&mut self, work: impl AsyncFnOnce() -> Outcome<()>) -> Outcome<Duration> {
        let began = clock::now();
        self.edges.first_mut().ok_or("no PoP")?.signal(libc::SIGTERM);
        work().await?;
        let edge = self.edges.first_mut().ok_or("no PoP")?;
        eventually("the drained PoP ends", async || Ok(edge.exited()?.is_some())).await?;
        match edge.exited()? {
            Some(0) => Ok(clock::now() - began),
            code => Err(format!("the drained PoP ended with {code:?}").into()),
        }
    }

    /// Asks the gateway's admin listener.
    pub fn admin(&self, request: &str) -> Outcome<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORTS[1]));
        let mut tcp =
            self.network.end(self.size.gateway())?.inside(|| TcpStream::connect_timeout(&address, TIMEOUT))??;
        tcp.set_read_timeout(Some(TIMEOUT))?;
        tcp.write_all(
            format!("{request} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").as_bytes(),
        )?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// A gauge of the gateway.
    fn gauge(&self, name: &str) -> Outcome<f64> {
        let text = self.admin("GET /metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.ok_or_else(|| format!("no metric is called {name}"))?.parse()?)
    }

    /// How often something happened to tunnels, as the gateway tells it.
    pub fn events(&self, what: What) -> Outcome<u64> {
        let text = self.admin("GET /metrics")?;
        let series = format!("trunkline_tunnel_events_total{{event=\"{}\"}} ", what.name());
        text.lines().find_map(|line| line.strip_prefix(&series)).map_or(Ok(0), |value| Ok(value.trim().parse()?))
    }

    /// What the gateway's tunnels went through, for the report.
    pub fn tunnels(&self) -> Outcome<String> {
        let told = |what: What| Ok(format!("{} {}", self.events(what)?, what.name()));
        let all = [What::Suspicion, What::Rebind, What::Verdict, What::Resume, What::Migration];
        Ok(all.into_iter().map(told).collect::<Outcome<Vec<_>>>()?.join(", "))
    }
}

/// Waits until `holds`, or fails with what it waited for.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> Outcome<bool>) -> Outcome<()> {
    let deadline = clock::now() + TIMEOUT;
    while !holds().await? {
        if clock::now() > deadline {
            return Err(format!("{what}: not within {TIMEOUT:?}").into());
        }
        tokio::time::sleep(TICK).await;
    }
    Ok(())
}

/// The built-in upstream, at this end.
pub fn upstream(folder: &Path, end: &Namespace) -> Outcome<Process> {
    let mut command = Command::new(beside("edge")?);
    command.args(["upstream", "--listen", UPSTREAM]);
    Process::start(command, Some(end), &folder.join("upstream"))
}

/// Makes what PoPs, gateway and site present.
pub fn certificates(folder: &Path, size: Size) -> Outcome<()> {
    ca::init(folder)?;
    let mut subjects: Vec<_> = (0..size.pops).map(|number| Subject::Pop { name: pop(number) }).collect();
    subjects.push(Subject::Gateway { name: "gw-1".to_owned(), services: vec!["web".to_owned()] });
    subjects.push(Subject::Site { hosts: vec![HOST.to_owned()] });
    for subject in subjects {
        ca::issue(folder, folder, &subject, 7)?;
    }
    Ok(())
}

fn edge(folder: &Path, network: &Network, number: usize, size: Size) -> Outcome<Process> {
    let name = pop(number);
    let [admin, _] = ADMIN_PORTS;
    let preferred = match (size.preferred, number) {
        (true, 0) => format!("[http3]\npreferred_address = [\"{PREFERRED}\"]\n"),
        _ => String::new(),
    };
    let config = format!(
        "name = \"{name}\"\nlisten = [\"[::]:{CLIENTS_PORT}\"]\nadmin = \"127.0.0.1:{admin}\"\nworkers = 1\n\
         [tls]\ncert = \"site.pem\"\nkey = \"site.key\"\n\
         [tunnel]\nlisten = \"[::]:{TUNNEL_PORT}\"\ncert = \"{name}.pem\"\nkey = \"{name}.key\"\nca = \"tunnel-ca.pem\"\n\
         [[service]]\nname = \"web\"\nhosts = [\"{HOST}\"]\n{preferred}[log]\naccess = false\n"
    );
    run(folder, network, "edge", &name, POP_A + number, &config)
}

fn origin_config(size: Size) -> String {
    let pops: Vec<_> = (0..size.pops).map(|number| format!("{}:{TUNNEL_PORT}", ipv4(POP_A + number))).collect();
    let [_, admin] = ADMIN_PORTS;
    format!(
        "name = \"gw-1\"\npops = {pops:?}\npops_wanted = {}\nadmin = \"127.0.0.1:{admin}\"\nworkers = 1\n\
         [tunnel]\nlinks = {}\ncert = \"gw-1.pem\"\nkey = \"gw-1.key\"\nca = \"tunnel-ca.pem\"\n\
         [[service]]\nname = \"web\"\nupstreams = [\"http://{UPSTREAM}\"]\n[log]\naccess = false\n",
        size.wanted, size.links,
    )
}

fn run(folder: &Path, network: &Network, program: &str, name: &str, end: End, config: &str) -> Outcome<Process> {
    let file = folder.join(format!("{name}.toml"));
    fs::write(&file, config)?;
    let mut command = Command::new(beside(program)?);
    command.arg("run").arg("-c").arg(file);
    Process::start(command, Some(network.end(end)?), &folder.join(name))
}
