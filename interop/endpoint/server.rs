//! The server role: an edge on the runner's port, an origin and a static upstream behind it, until a signal ends them all.
//!
//! Owns the two processes and the upstream. The edge is bound first, so that it answers while the rest starts; requests that
//! come before the tunnel wait for it in the edge, half a minute at most.

use std::env;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use trunkline::dev::child::Child;
use trunkline::dev::layout::{Edge, Folder, GATEWAY, Layout};
use trunkline::dev::upstream::{Listen, Upstream, UpstreamConfig};
use trunkline::observe::ready::Ready;
use trunkline::task::{Shutdown, Tasks};

use crate::contract::{Contract, folder};

const POP: &str = "edge";
/// After a signal, until the processes are killed. The runner's patience is one second.
const END_TIMEOUT: Duration = Duration::from_millis(400);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// `WWW`: the files to serve.
pub fn www() -> PathBuf {
    folder("WWW", "/www")
}

/// Whether the edge shall serve the files itself: `INTEROP_DIRECT=1` among `SERVER_PARAMS`, or in the environment.
pub fn is_direct() -> bool {
    let params = env::var("SERVER_PARAMS").unwrap_or_default();
    params.split_whitespace().any(|param| param == "INTEROP_DIRECT=1")
        || env::var("INTEROP_DIRECT").is_ok_and(|value| value == "1")
}

/// Serves until SIGTERM or SIGINT.
pub fn run(contract: Contract) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(serve(&contract)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("interop-endpoint: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(contract: &Contract) -> Result<(), Failure> {
    let mut end = Ends::new()?;
    let temporary = Folder::temporary()?;
    let logs = Some(folder("LOGS", "/logs")).filter(|logs| logs.is_dir());
    let logs = logs.unwrap_or_else(|| temporary.path().to_owned());
    let mut chain = Chain { children: Vec::new(), logs, folder: temporary };
    let tasks = Tasks::new(Shutdown::default());
    tokio::select! {
        started = chain.start(contract, &tasks) => started?,
        () = end.next() => return Ok(()),
    }
    tokio::select! {
        () = end.next() => chain.end().await,
        gone = chain.gone() => return Err(gone.into()),
    }
    Ok(())
}

/// SIGTERM and SIGINT.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The processes, killed when dropped.
struct Chain {
    children: Vec<Child>,
    logs: PathBuf,
    folder: Folder,
}

impl Chain {
    async fn start(&mut self, contract: &Contract, tasks: &Tasks) -> Result<(), Failure> {
        let layout = Layout::new(self.folder.path());
        // The runner's certificate is the site's.
        symlink(contract.certs.join("cert.pem"), self.folder.path().join("site.pem"))?;
        symlink(contract.certs.join("priv.key"), self.folder.path().join("site.key"))?;
        layout.certificates(&[POP.to_owned()], &[])?;
        let hosts = ["*".to_owned()];
        let (top, tables) = settings(&contract.case);
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).to_string();
        let edge = Edge { tunnel: loopback, top: &top, tables: &tables, ..Edge::new(listen(contract.port), &hosts) };
        layout.edge(POP, &edge)?;
        let edge = start(&layout, &self.logs, POP, "edge").await?;
        let mut ready = Ready::default();
        ready.http3 = edge.ready.http3.clone();
        ready.announce();
        let pops = edge.ready.tunnel.clone();
        self.children.push(edge);
        if is_direct() {
            return Ok(());
        }
        let listen = Listen::Tcp((Ipv4Addr::LOCALHOST, 0).into());
        let upstream = Upstream::bind(UpstreamConfig { listen, root: Some(www()) }).await?;
        layout.origin(&pops, &[upstream.url()], "")?;
        tasks.spawn(upstream.run(tasks.clone()));
        let origin = start(&layout, &self.logs, GATEWAY, "origin").await?;
        self.children.push(origin);
        Ok(())
    }

    /// What to say when a process ends by itself.
    async fn gone(&mut self) -> String {
        let logs = self.logs.clone();
        let ends = self.children.iter_mut().map(|child| {
            Box::pin(async move {
                let status = child.ended().await;
                format!("{} is gone ({status}):\n{}", child.name, child.log_text())
            })
        });
        let ended = futures_util::future::select_all(ends).await.0;
        format!("{ended}\nlogs: {}", logs.display())
    }

    /// Lets the edge close its connections; what is left then is killed.
    async fn end(mut self) {
        if let Some(edge) = self.children.first_mut() {
            edge.signal(libc::SIGTERM);
            let _ = tokio::time::timeout(END_TIMEOUT, edge.ended()).await;
        }
    }
}

/// What an edge under test has otherwise than by default: keys at the top, and tables.
fn settings(case: &str) -> (String, String) {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    // Handshakes under 30 % loss take half a minute now and then; and a Retry where none is asked for fails a case.
    let retry_threshold = if case == "retry" { 0 } else { 1_000_000 };
    let tables = format!(
        "[limits]\nheader_timeout = \"60s\"\nretry_threshold = {retry_threshold}\n\n[drain]\ntimeout = \"200ms\"\n\n\
         [log]\nformat = \"json\"\n"
    );
    (format!("workers = {workers}\n"), tables)
}

/// IPv4 and IPv6 where there is IPv6.
fn listen(port: u16) -> SocketAddr {
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
        Err(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
    }
}

async fn start(layout: &Layout<'_>, logs: &Path, name: &str, role: &str) -> Result<Child, Failure> {
    let config = layout.config(name);
    let config = config.to_str().ok_or("the folder's name is not UTF-8")?;
    let log = logs.join(format!("{role}.log"));
    Ok(Child::start(role, &env::current_exe()?, &[role, config], &log).await?)
}
