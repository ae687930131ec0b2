//! PoPs, several gateways and an upstream: what the outages happen to.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};
use trunkline::ca::{self, Subject};
use trunkline::dev::child::Child;
use trunkline::dev::layout::SERVICE;
use trunkline::observe::timestamp;

use crate::chain::{Chain, Setup, edge_binary, eventually, metric, origin_binary, status_and_body};
use crate::relay::Relay;

/// Outages do not share the machine: one at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// Fields of access logs would fill the disk; keys that outlive a restart are what production has.
const EDGE_TOP: &str = "state_dir = \"state\"";
const QUIET: &str = "[log]\naccess = false\n";

/// What an outage needs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// PoPs.
    pub pops: usize,
    /// Gateways.
    pub gateways: usize,
    /// Each gateway has an upstream of its own, the first the chain's.
    pub apart: bool,
    /// Relays before each PoP. Gateways dial these then, all of them: paths to the same PoP.
    pub relays: usize,
    /// TOML in `[tunnel]` of the gateways.
    pub tunnel: &'static str,
    /// TOML in `[[service]]` of the gateway at this index.
    pub service: fn(usize) -> &'static str,
}

impl Plan {
    /// All gateways before one upstream, without relays.
    pub fn new(pops: usize, gateways: usize) -> Self {
        Self { pops, gateways, apart: false, relays: 0, tunnel: "", service: |_| "" }
    }
}

/// See the module.
pub struct Cluster {
    /// The gateways: gw-1, gw-2.
    pub gateways: Vec<Child>,
    /// Upstreams besides the chain's own.
    pub more: Vec<Child>,
    /// PoPs and the upstream.
    pub chain: Chain,
    /// The relays before each PoP.
    pub relays: Vec<Vec<Relay>>,
    upstreams: Vec<String>,
    plan: Plan,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// `pops` PoPs and `gateways` gateways in front of one upstream.
    pub async fn start(pops: usize, gateways: usize) -> Self {
        Self::with(Plan::new(pops, gateways)).await
    }

    /// The cluster of `plan`, when all tunnels are there.
    pub async fn with(plan: Plan) -> Self {
        let Plan { pops, gateways, apart, .. } = plan;
        let turn = TURN.lock().await;
        let setup = Setup { pops, origin: false, edge_top: EDGE_TOP, edge_tables: QUIET, ..Setup::default() };
        let chain = Chain::with(setup).await;
        let address = |edge: &Child| edge.ready.tunnel.first().and_then(|address| address.parse().ok());
        let relays = |edge| (0..plan.relays).map(move |_| Relay::start(address(edge).expect("an address"))).collect();
        let relays = chain.edges.iter().map(relays).collect();
        let mut cluster = Self {
            gateways: Vec::new(),
            more: Vec::new(),
            relays,
            upstreams: vec![chain.upstream.url()],
            plan,
            chain,
            _turn: turn,
        };
        for index in 0..gateways {
            if apart && index > 0 {
                let log = cluster.chain.folder().join(format!("upstream-{index}.log"));
                let args = ["upstream", "--listen", "127.0.0.1:0"];
                let child = Child::start("upstream", edge_binary(), &args, &log).await.expect("an upstream");
                cluster.upstreams.push(child.ready.http2.first().expect("an address").clone());
                cluster.more.push(child);
            }
            let gateway = cluster.gateway(index, cluster.dialled().len()).await;
            cluster.gateways.push(gateway);
        }
        for pop in 0..pops {
            cluster.chain.until_served(pop).await;
        }
        cluster.until_linked().await;
        cluster
    }

    /// Waits until every gateway has all its links.
    pub async fn until_linked(&self) {
        for gateway in &self.gateways {
            let wanted = f64::from(u32::try_from(self.dialled().len() * self.links()).expect("few"));
            let what = format!("links of {}", gateway.name);
            eventually(&what, async || {
                (metric(admin(gateway), "trunkline_tunnel_links").await >= wanted).then_some(())
            })
            .await;
        }
    }

    /// Links of a gateway to each address it dials.
    fn links(&self) -> usize {
        self.plan.tunnel.strip_prefix("links = ").map_or(2, |links| links.parse().expect("a number"))
    }

    /// The addresses that gateways dial.
    fn dialled(&self) -> Vec<String> {
        if self.plan.relays > 0 {
            return self.relays.iter().flatten().map(|relay| relay.address.to_string()).collect();
        }
        self.chain.edges.iter().flat_map(|edge| edge.ready.tunnel.first().cloned()).collect()
    }

    /// Starts a gateway that holds `wanted` PoPs. Its configuration has the admin address that it got, for commands.
    async fn gateway(&self, index: usize, wanted: usize) -> Child {
        let (folder, name) = (self.chain.folder(), format!("gw-{}", index + 1));
        if !folder.join(format!("{name}.pem")).exists() {
            let subject = Subject::Gateway { name: name.clone(), services: vec![SERVICE.to_owned()] };
            ca::issue(folder, folder, &subject, ca::DAYS).expect("a certificate");
        }
        let pops = self.dialled();
        let upstream = self.upstreams.get(index).or(self.upstreams.first()).expect("an upstream");
        let text = |admin: &str| {
            format!(
                "name = \"{name}\"\npops = {pops:?}\npops_wanted = {wanted}\nadmin = \"{admin}\"\n\n\
                 [tunnel]\ncert = \"{name}.pem\"\nkey = \"{name}.key\"\nca = \"tunnel-ca.pem\"\n{}\n\
                 [[service]]\nname = \"{SERVICE}\"\nupstreams = [\"{upstream}\"]\n{}\n{QUIET}",
                self.plan.tunnel,
                (self.plan.service)(index),
            )
        };
        let config = self.config(index);
        fs::write(&config, text("127.0.0.1:0")).expect("origin.toml");
        let args = ["run", "-c", config.to_str().expect("UTF-8")];
        let started = Child::start(&name, origin_binary(), &args, &self.log(&name)).await;
        let started = started.unwrap_or_else(|error| panic!("{error}"));
        fs::write(&config, text(&admin(&started).to_string())).expect("origin.toml");
        started
    }

    /// The configuration of a gateway.
    pub fn config(&self, gateway: usize) -> PathBuf {
        self.chain.folder().join(format!("gw-{}.toml", gateway + 1))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.chain.folder().join(format!("{name}.log"))
    }

    /// Kills a gateway at once.
    pub async fn kill(&mut self, gateway: usize) {
        self.gateways[gateway].signal(libc::SIGKILL);
        self.gateways[gateway].ended().await;
    }

    /// Waits until no gateway carries anything.
    pub async fn until_idle(&self) {
        eventually("no exchange is left", async || {
            (self.in_flight(0).await + self.in_flight(1).await == 0).then_some(())
        })
        .await;
    }

    /// Kills the gateway that carries the only request.
    pub async fn kill_carrier(&mut self) {
        let carried = [self.in_flight(0).await, self.in_flight(1).await];
        assert!(carried.contains(&1) && carried.contains(&0), "one request: {carried:?}");
        self.kill(if carried[0] > 0 { 0 } else { 1 }).await;
    }

    /// Has a PoP name another one to go to when it drains. It is started anew for that.
    pub async fn name_next(&mut self, pop: usize, next: usize) {
        let child = &mut self.chain.edges[pop];
        child.signal(libc::SIGKILL);
        child.ended().await;
        let config = self.chain.folder().join(format!("{}.toml", self.chain.edges[pop].name));
        let text = fs::read_to_string(&config).expect("edge.toml");
        let (tunnel, http3) = (&self.chain.edges[next].ready.tunnel[0], self.chain.http3(next));
        let named = format!("{text}\n[[pop]]\ntunnel = \"{tunnel}\"\nhttp3 = \"{http3}\"\n");
        fs::write(&config, named).expect("edge.toml");
        self.chain.restart_edge(pop).await;
    }

    /// Starts a gateway again under its name.
    pub async fn restart(&mut self, gateway: usize) {
        self.restart_wanting(gateway, self.chain.edges.len()).await;
    }

    /// Starts a gateway again, to hold `wanted` PoPs.
    pub async fn restart_wanting(&mut self, gateway: usize, wanted: usize) {
        let child = self.gateway(gateway, wanted).await;
        self.gateways[gateway] = child;
    }

    /// What a gateway says of itself.
    pub async fn status(&self, gateway: usize) -> Value {
        let (_, status) = status_and_body(admin(&self.gateways[gateway]), "/status").await;
        serde_json::from_str(&status).expect("JSON")
    }

    /// What the PoPs are to a gateway, and how many links to each are ready: `Held 2`.
    pub async fn roles(&self, gateway: usize) -> Vec<String> {
        let status = self.status(gateway).await;
        let pops = status["pops"].as_array().expect("an array").iter();
        pops.map(|pop| format!("{} {}", pop["role"].as_str().expect("a role"), pop["ready"])).collect()
    }

    /// Waits until the PoPs are that to a gateway.
    pub async fn until_roles(&self, gateway: usize, wanted: &[&str]) {
        eventually(&format!("{wanted:?}"), async || (self.roles(gateway).await == wanted).then_some(())).await;
    }

    /// Exchanges that a gateway carries now.
    pub async fn in_flight(&self, gateway: usize) -> u64 {
        let status = self.status(gateway).await;
        let links = status["tunnels"].as_array().expect("an array");
        links.iter().filter_map(|link| link["in_flight"].as_u64()).sum()
    }

    /// Closes a gateway's busiest link without a warning.
    pub async fn cut_link(&self, gateway: usize) -> String {
        let stream = TcpStream::connect(admin(&self.gateways[gateway])).await.expect("connect");
        let (mut requests, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
        let request = Request::post("/links/close").header("host", "admin").body(Empty::<Bytes>::new());
        let answer = async move {
            let response = requests.send_request(request.expect("request")).await.expect("response");
            assert_eq!(response.status(), 202);
            response.into_body().collect().await.expect("body").to_bytes()
        };
        let (answer, _) = tokio::join!(answer, connection);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The sum of a counter over all processes that live.
    pub async fn count(&mut self, name: &str) -> f64 {
        let mut sum = 0.0;
        for child in self.gateways.iter_mut().chain(&mut self.chain.edges) {
            if child.has_ended().is_none() {
                sum += metric(admin(child), name).await;
            }
        }
        sum
    }

    /// How often an event happened in all processes that live.
    pub async fn events(&mut self, name: &str) -> f64 {
        self.count(&series(name)).await
    }

    /// Lines of the processes' logs that tell of a panic.
    pub fn panics(&self) -> Vec<String> {
        let children = self.gateways.iter().chain(&self.chain.edges);
        let lines = children.flat_map(|child| {
            let log = child.log_text();
            log.lines()
                .filter(|line| line.contains("panic"))
                .map(|line| format!("{}: {line}", child.name))
                .collect::<Vec<_>>()
        });
        lines.collect()
    }

    /// How often the upstream of the chain began with each POST of the load. None may be there twice.
    pub async fn executions(&self, prefix: &str) -> Vec<(String, usize)> {
        let mut keys = std::collections::BTreeMap::new();
        for entry in self.chain.upstream.log(prefix).await {
            let path = entry["path"].as_str().expect("a path").to_owned();
            *keys.entry(path).or_insert(0) += 1;
        }
        keys.into_iter().collect()
    }
}

/// The admin address of a process.
pub fn admin(child: &Child) -> SocketAddr {
    child.ready.admin.first().expect("an admin listener").parse().expect("address")
}

/// How often an event happened in a process, of the name that it has everywhere.
pub async fn event(child: &Child, name: &str) -> f64 {
    metric(admin(child), &series(name)).await
}

/// The events of that name that a process told of since then. From its log, which forgets none.
pub fn told(child: &Child, name: &str, since: SystemTime) -> Vec<Value> {
    let mut from = Vec::new();
    timestamp::push(&mut from, since);
    let from = String::from_utf8(from).expect("text");
    let log = child.log_text();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["event"] == name && line["timestamp"].as_str().is_some_and(|at| at >= &*from)).collect()
}

fn series(event: &str) -> String {
    format!("trunkline_tunnel_events_total{{event=\"{event}\"}}")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for child in &self.gateways {
                eprintln!("--- log of {} (pid {})\n{}", child.name, child.pid(), child.log_text());
            }
        }
    }
}
