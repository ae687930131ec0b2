//! A running chain: what a test starts, asks and breaks.

mod observe;
pub mod scripted;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use trunkline::clock;
use trunkline::dev::child::Child;
use trunkline::dev::layout::{Edge, Folder, GATEWAY, Layout};
use trunkline::dev::probe::Probe;

pub use observe::{Upstream, memory_peak, metric, status_and_body};

/// For any condition that a test waits for: far longer than it takes, so that only a real failure meets it.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// The host that tests ask for.
pub const HOST: &str = "www.example.test";

/// What a test wants; the rest is as in production.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Edges: pop-a, pop-b, …
    pub pops: usize,
    /// Where each PoP's tunnel listener is.
    pub tunnel: &'static str,
    /// Whether an origin is started.
    pub origin: bool,
    /// Upstreams instead of the built-in one.
    pub upstreams: Vec<String>,
    /// TOML before the first table of each `edge.toml`.
    pub edge_top: &'static str,
    /// TOML behind the last table of each `edge.toml`.
    pub edge_tables: &'static str,
    /// TOML behind the service of `origin.toml`.
    pub origin_tables: &'static str,
    /// Speak HTTP/2 in the clear to the built-in upstream.
    pub h2c: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            pops: 1,
            tunnel: "127.0.0.1:0",
            origin: true,
            upstreams: Vec::new(),
            edge_top: "",
            edge_tables: "",
            origin_tables: "",
            h2c: false,
        }
    }
}

/// Processes in the order in which they are dropped, which is that of a request.
pub struct Chain {
    /// The PoPs.
    pub edges: Vec<Child>,
    /// The gateway, if one is wanted.
    pub origin: Option<Child>,
    /// The built-in upstream.
    pub upstream: Upstream,
    folder: Folder,
}

/// The edge binary of this build.
pub fn edge_binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_edge"))
}

/// The origin binary of this build.
pub fn origin_binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_origin"))
}

impl Chain {
    /// One PoP, one origin, the built-in upstream.
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// Starts what `setup` says and waits until each PoP serves.
    pub async fn with(setup: Setup) -> Self {
        let folder = Folder::temporary().expect("a temporary folder");
        let layout = Layout::new(folder.path());
        let names: Vec<String> =
            (b'a'..).take(setup.pops).map(|letter| format!("pop-{}", char::from(letter))).collect();
        let hosts = hosts();
        layout.certificates(&names, &hosts).expect("certificates");
        let upstream = Upstream::start(&folder).await;
        let mut edges = Vec::new();
        for name in &names {
            let (tunnel, top, tables) = (setup.tunnel.to_owned(), setup.edge_top, setup.edge_tables);
            let edge = Edge { tunnel, top, tables, ..Edge::new(loopback(), &hosts) };
            layout.edge(name, &edge).expect("edge.toml");
            let child = start(&layout, edge_binary(), name).await;
            layout.edge(name, &edge.at(&child.ready)).expect("edge.toml");
            edges.push(child);
        }
        let mut chain = Self { edges, origin: None, upstream, folder };
        if setup.origin {
            chain.start_origin(&setup).await;
            for edge in 0..setup.pops {
                chain.until_served(edge).await;
            }
        }
        chain
    }

    /// Starts the origin as `setup` has it; for a chain that was started without.
    pub async fn start_origin(&mut self, setup: &Setup) {
        let layout = Layout::new(self.folder.path());
        let pops: Vec<String> = self.edges.iter().map(|edge| first(&edge.ready.tunnel)).collect();
        let upstreams = match (setup.upstreams.is_empty(), setup.h2c) {
            (false, _) => setup.upstreams.clone(),
            (true, true) => vec![self.upstream.url().replace("http://", "h2c://")],
            (true, false) => vec![self.upstream.url()],
        };
        layout.origin(&pops, &upstreams, setup.origin_tables).expect("origin.toml");
        self.origin = Some(start(&layout, origin_binary(), GATEWAY).await);
    }

    /// Waits until the PoP's tunnel carries a request to an answer.
    pub async fn until_served(&self, edge: usize) {
        let peer = self.http3(edge);
        let probe = Probe::new(&self.site_ca(), HOST, peer).expect("probe");
        probe.until_served(peer, "/status/204", DEADLINE).await.expect("the chain serves");
    }

    /// Starts a killed PoP again where it was.
    pub async fn restart_edge(&mut self, edge: usize) {
        let name = self.edges[edge].name.clone();
        self.edges[edge] = start(&Layout::new(self.folder.path()), edge_binary(), &name).await;
    }

    /// HTTP/3 address of a PoP.
    pub fn http3(&self, edge: usize) -> SocketAddr {
        first(&self.edges[edge].ready.http3).parse().expect("address")
    }

    /// HTTP/2 and HTTP/1.1 address of a PoP.
    pub fn http2(&self, edge: usize) -> SocketAddr {
        first(&self.edges[edge].ready.http2).parse().expect("address")
    }

    /// Admin address of a PoP.
    pub fn admin(&self, edge: usize) -> SocketAddr {
        first(&self.edges[edge].ready.admin).parse().expect("address")
    }

    /// The origin.
    pub fn origin(&self) -> &Child {
        self.origin.as_ref().expect("the test has an origin")
    }

    /// The CA that clients trust.
    pub fn site_ca(&self) -> PathBuf {
        Layout::new(self.folder.path()).site_ca()
    }

    /// The chain's folder, for files of a test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for child in self.edges.iter().chain(&self.origin) {
                eprintln!("--- log of {} (pid {})\n{}", child.name, child.pid(), child.log_text());
            }
        }
    }
}

/// Every host that a chain's certificate and route have.
fn hosts() -> Vec<String> {
    [HOST, "other.example.test", "localhost"].map(ToOwned::to_owned).into()
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn first(addresses: &[String]) -> String {
    addresses.first().expect("the ready line has this address").clone()
}

async fn start(layout: &Layout<'_>, program: &Path, name: &str) -> Child {
    let config = layout.config(name);
    let args = ["run", "-c", config.to_str().expect("UTF-8")];
    Child::start(name, program, &args, &layout.log(name)).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Asks again and again until `condition` gives something.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = clock::now() + DEADLINE;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(clock::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Lets `future` take no longer than [`DEADLINE`].
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}
