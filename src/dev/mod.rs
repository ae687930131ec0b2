//! `edge dev`: the whole product on one machine, for a first look and for development.
//!
//! Called by `bin/edge`. Makes a folder with certificates and configuration, starts the sibling binaries as child
//! processes exactly as an operator would, proves the chain with one HTTP/3 request per PoP, says how to use and how
//! to break it, and ends everything in order. It takes no part in serving: kill it and its children go with it.

pub mod child;
mod demo;
pub mod layout;
pub mod probe;
mod show;
pub mod upstream;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::parse_duration;
use crate::exit::Exit;
use crate::task::{Shutdown, Tasks};
use upstream::{Listen, Upstream, UpstreamConfig};

/// Most PoPs of a demo.
const POPS_MAX: u16 = 9;
/// Why something of a demo did not work.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// `edge dev`
#[derive(Clone, Debug, clap::Args)]
pub struct DevArgs {
    /// Edges to start.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=i64::from(POPS_MAX)))]
    pops: u16,
    /// Your own server (http://…, https://…, h2c://…, unix:…) instead of the built-in one.
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Folder with static files for the built-in upstream.
    #[arg(long, value_name = "DIR", conflicts_with = "upstream")]
    root: Option<PathBuf>,
    /// Address of the first edge; the others take the next ports. Ports in use are replaced by free ones.
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8443))]
    listen: SocketAddr,
    /// Folder for certificates, configuration and logs, kept at the end. Default: a temporary one.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Kill, cut, freeze and drain all the time while clients ask, download and talk, and show what they notice.
    #[arg(long)]
    outages: bool,
    /// End after this time (30s, 5m) instead of at Ctrl-C.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    time: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "such as \"30s\", \"5m\"".to_owned())
}

/// `edge upstream`: the built-in upstream as a process of its own.
#[derive(Clone, Debug, clap::Args)]
pub struct UpstreamArgs {
    /// Address, or unix:PATH.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: String,
    /// Folder with static files.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// Runs a demo until SIGINT or SIGTERM.
pub fn run(args: DevArgs) -> Exit {
    block_on("edge dev", demo::demo(args))
}

/// Runs the built-in upstream until SIGINT or SIGTERM; a second one ends it at once.
pub fn run_upstream(args: UpstreamArgs) -> Exit {
    block_on("edge upstream", serve_upstream(args))
}

fn block_on(name: &str, work: impl Future<Output = Result<Exit, Failure>>) -> Exit {
    let result = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::from);
    result.and_then(|runtime| runtime.block_on(work)).unwrap_or_else(|error| {
        eprintln!("{name}: {error}");
        Exit::Failed
    })
}

async fn serve_upstream(args: UpstreamArgs) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let listen = match args.listen.strip_prefix("unix:") {
        Some(path) => Listen::Unix(path.into()),
        None => Listen::Tcp(args.listen.parse()?),
    };
    let upstream = Upstream::bind(UpstreamConfig { listen, root: args.root }).await?;
    println!("{}", serde_json::json!({ "ready": true, "http2": upstream.url(), "pid": std::process::id() }));
    let tasks = Tasks::new(Shutdown::default());
    tasks.spawn(upstream.run(tasks.clone()));
    signals.next().await;
    tasks.shutdown().start_drain();
    Ok(tokio::select! {
        () = tasks.wait() => Exit::Ok,
        () = signals.next() => Exit::Forced,
    })
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
