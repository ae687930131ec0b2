//! The contestants: each an edge and an origin, two processes on one core, between the same client and upstream.
//!
//! Started by `rounds`. Every contestant has the same certificates, cipher suite and upstream, one thread in each
//! process, and no access log. Where the edge dials, it is the TLS client of the link, so the gateway's certificate is
//! its own and the PoP's is the origin's.

mod caddy;
mod certificates;
mod envoy;
mod haproxy;
mod nginx;
mod process;
mod site;
mod template;
mod tools;
mod trunkline;

pub use process::{Process, pinned};
pub use site::{Site, Sites};
pub use tools::debian;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::Outcome;
use crate::machine::Cores;
use certificates::Certificates;

/// The host that all requests are for.
pub const HOST: &str = "bench.example";

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// Ours.
    Trunkline,
    /// Ours of another build, for what a change costs or saves.
    Baseline,
    /// HAProxy to HAProxy over reverse HTTP: the origin dials out, HTTP/2 over mutual TLS.
    HaproxyReverse,
    /// The same with 64 KiB buffers, which favours bulk.
    HaproxyReverse64k,
    /// HAProxy to HAProxy over HTTP/2 and mutual TLS, the edge dials, 64 KiB buffers.
    HaproxyTls64k,
    /// One HAProxy and no tunnel: what a single hop costs, the aim for latency.
    HaproxyHop,
    /// nginx to nginx over HTTP/1.1 and mutual TLS, the edge dials.
    NginxHttp1,
    /// nginx to nginx over HTTP/2 and mutual TLS, the edge dials.
    NginxHttp2,
    /// Caddy to Caddy over HTTP/3 and mutual TLS, the edge dials.
    CaddyHttp3,
    /// The same over HTTP/2.
    CaddyHttp2,
    /// Envoy to Envoy over HTTP/2 and mutual TLS, the edge dials.
    EnvoyHttp2,
    /// Nobody: the client asks the upstream itself, in plain HTTP/1.1. What a chain adds to that is its own.
    Direct,
}

impl Contestant {
    /// All of them; the first is what the others are compared with.
    pub const ALL: [Self; 12] = [
        Self::Trunkline,
        Self::Baseline,
        Self::HaproxyReverse,
        Self::HaproxyReverse64k,
        Self::HaproxyTls64k,
        Self::HaproxyHop,
        Self::NginxHttp1,
        Self::NginxHttp2,
        Self::CaddyHttp3,
        Self::CaddyHttp2,
        Self::EnvoyHttp2,
        Self::Direct,
    ];

    /// The name in results and in `BENCH_CHAINS`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trunkline => "trunkline",
            Self::Baseline => "trunkline-baseline",
            Self::HaproxyReverse => "haproxy-rhttp",
            Self::HaproxyReverse64k => "haproxy-rhttp-64k",
            Self::HaproxyTls64k => "haproxy-h2-64k",
            Self::HaproxyHop => "haproxy-1hop",
            Self::NginxHttp1 => "nginx-h1",
            Self::NginxHttp2 => "nginx-h2",
            Self::CaddyHttp3 => "caddy-h3",
            Self::CaddyHttp2 => "caddy-h2",
            Self::EnvoyHttp2 => "envoy-h2",
            Self::Direct => "direct",
        }
    }

    /// Whether a run without `BENCH_CHAINS` includes it: all, and the baseline if there is one.
    pub fn by_default(self) -> bool {
        self != Self::Baseline || trunkline::baseline().is_ok()
    }

    /// Whether such a run has it in every round: ours, the best at small requests, the best at bulk, and what latencies are
    /// compared with. The others show in the first round where they stand.
    pub fn is_close(self) -> bool {
        matches!(self, Self::Trunkline | Self::Baseline | Self::HaproxyReverse | Self::NginxHttp2 | Self::Direct)
    }

    /// Where its programs are; fetched on first use, so it needs the machine's own network.
    pub fn programs(self) -> Outcome<PathBuf> {
        match self {
            Self::Trunkline => Ok(trunkline::measured()),
            Self::Baseline => trunkline::baseline(),
            Self::NginxHttp1 | Self::NginxHttp2 => tools::debian("nginx"),
            Self::CaddyHttp3 | Self::CaddyHttp2 => tools::debian("caddy"),
            Self::EnvoyHttp2 => tools::brought("envoy.sh", &[]),
            Self::Direct => Ok(PathBuf::new()),
            _ => tools::debian("haproxy"),
        }
    }

    /// Starts both processes; whether they answer is for a probe to find out.
    pub fn start(self, stage: &Stage) -> Outcome<Chain> {
        let stage = stage.folder(self.name())?;
        match self {
            Self::Trunkline => trunkline::start(&stage, &trunkline::measured()),
            Self::Baseline => trunkline::start(&stage, &trunkline::baseline()?),
            Self::HaproxyReverse => haproxy::start(&stage, haproxy::Tunnel::Reverse, 16 << 10),
            Self::HaproxyReverse64k => haproxy::start(&stage, haproxy::Tunnel::Reverse, 64 << 10),
            Self::HaproxyTls64k => haproxy::start(&stage, haproxy::Tunnel::Dialled, 64 << 10),
            Self::HaproxyHop => haproxy::start(&stage, haproxy::Tunnel::None, 16 << 10),
            Self::NginxHttp1 => nginx::start(&stage, "1.1"),
            Self::NginxHttp2 => nginx::start(&stage, "2"),
            Self::CaddyHttp3 => caddy::start(&stage, "3"),
            Self::CaddyHttp2 => caddy::start(&stage, "2"),
            Self::EnvoyHttp2 => envoy::start(&stage),
            Self::Direct => Ok(Chain { address: stage.upstream, processes: Vec::new() }),
        }
    }
}

/// A running contestant; ends when dropped.
pub struct Chain {
    /// Where clients connect, UDP and TCP.
    pub address: SocketAddr,
    /// Edge and origin; the edge alone where there is no tunnel.
    pub processes: Vec<Process>,
}

impl Chain {
    /// Their process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }
}

/// What all contestants stand on.
#[derive(Clone)]
pub struct Stage {
    /// Folder for configurations and logs.
    pub dir: PathBuf,
    /// The one set of certificates.
    pub certificates: Certificates,
    /// The upstream's address.
    pub upstream: SocketAddr,
    /// On which cores processes run.
    pub cores: Cores,
    /// In which networks.
    pub sites: Sites,
}

impl Stage {
    /// Makes the certificates in `dir`.
    pub fn new(dir: PathBuf, upstream: SocketAddr, cores: Cores) -> Outcome<Self> {
        let certificates = Certificates::make(&dir)?;
        Ok(Self { dir, certificates, upstream, cores, sites: Sites::loopback() })
    }

    /// The same elsewhere, with another upstream.
    pub fn at(&self, dir: PathBuf, upstream: SocketAddr, sites: Sites) -> Self {
        Self { dir, upstream, sites, ..self.clone() }
    }

    /// Starts one end of a chain.
    fn start(&self, command: &mut Command, site: &Site, end: &str) -> Outcome<Process> {
        Process::start(site.enclose(command)?, self.cores.chain, &self.dir.join(format!("{end}.log")))
    }

    /// What templates of configurations may ask for; names of certificates are without their ends.
    fn values(&self, address: SocketAddr, link: SocketAddr) -> Vec<(&'static str, String)> {
        let path = |name: &str| template::text(self.certificates.path(name));
        let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
        vec![
            ("ADDRESS", address.to_string()),
            ("IP", address.ip().to_string()),
            ("PORT", address.port().to_string()),
            ("TUNNEL", link.to_string()),
            ("TUNNEL_IP", link.ip().to_string()),
            ("TUNNEL_PORT", link.port().to_string()),
            ("UPSTREAM", self.upstream.to_string()),
            ("UPSTREAM_IP", self.upstream.ip().to_string()),
            ("UPSTREAM_PORT", self.upstream.port().to_string()),
            // What leaves through a TUN device is not taken in batches.
            ("GSO", switch(!self.sites.linked)),
            ("DIR", template::text(self.dir.clone())),
            ("SITE", path("site")),
            ("POP", path("pop-a")),
            ("GATEWAY", path("gw-1")),
            ("TUNNEL_CA", path("tunnel-ca.pem")),
        ]
    }

    fn folder(&self, name: &str) -> Outcome<Self> {
        let stage = Self { dir: self.dir.join(name), ..self.clone() };
        std::fs::create_dir_all(&stage.dir)?;
        Ok(stage)
    }
}
