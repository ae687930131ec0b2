//! The checked configuration of `origin`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw;
use super::report::Errors;
use super::values::{AdminListen, Drain, Log, TunnelIdentity, TunnelLimits};

/// Everything `origin run` needs to know.
#[derive(Clone, Debug)]
pub struct OriginConfig {
    /// This gateway's name, as in its certificate.
    pub name: String,
    /// Threads that carry exchanges. Default: the number of cores.
    pub workers: usize,
    /// PoPs in order of preference.
    pub pops: Vec<OriginPop>,
    /// How many PoPs to hold tunnels to, in two failure domains at least. Default: 2, or all when there are fewer.
    pub pops_wanted: usize,
    /// Admin listener; none unless configured.
    pub admin: Option<AdminListen>,
    /// The tunnel side.
    pub tunnel: OriginTunnel,
    /// What this origin serves.
    pub services: Vec<OriginService>,
    /// Orderly end.
    pub drain: Drain,
    /// Logging.
    pub log: Log,
}

/// Default of `pops_wanted`, as far as there are so many.
pub(super) const POPS_WANTED: usize = 2;
/// Default of `links`.
pub(super) const LINKS: usize = 2;
/// Default of `backoff_max`.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Default of `dial_timeout`.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

impl OriginConfig {
    /// Reads and checks a file, or says everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Errors> {
        raw::load(path, raw::origin)
    }

    /// Checks `text`. `file_name` only appears in errors; relative paths start at `base_dir`.
    pub fn from_str(text: &str, file_name: &str, base_dir: &Path) -> Result<Self, Errors> {
        raw::parse(text, file_name, base_dir, raw::origin)
    }
}

/// A PoP that this origin may dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPop {
    /// Where it is.
    pub address: PopAddress,
    /// What may fail at once: a site, a provider. Default: it fails alone.
    pub domain: Option<String>,
}

/// `host:port` of a PoP's tunnel listener; the host is resolved anew for each dial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PopAddress {
    /// DNS name or IP address.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

impl fmt::Display for PopAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The origin's end of the tunnels.
#[derive(Clone, Debug)]
pub struct OriginTunnel {
    /// Certificate, key, CA.
    pub identity: TunnelIdentity,
    /// Links to each PoP. Default 2, 1 to 8.
    pub links: usize,
    /// Longest time between dials of a PoP that does not answer. Default 10 s.
    pub backoff_max: Duration,
    /// From the first packet to REGISTERED. Default 5 s.
    pub dial_timeout: Duration,
    /// Bounds.
    pub limits: TunnelLimits,
}

/// A service and the upstreams behind it.
#[derive(Clone, Debug)]
pub struct OriginService {
    /// The name it registers for.
    pub name: String,
    /// One or more upstreams, used in turn.
    pub upstreams: Vec<Upstream>,
    /// Bounds on its upstream connections.
    pub limits: UpstreamLimits,
    /// PEM file with the CA of `https` upstreams; the system's roots without it.
    pub ca: Option<PathBuf>,
    /// Name to verify in an `https` upstream's certificate and to send as SNI; default: the host of the URL.
    pub tls_name: Option<String>,
    /// Host field sent to the upstream; default: the client's.
    pub host: Option<String>,
}

/// One upstream server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// How it is spoken to.
    pub scheme: UpstreamScheme,
    /// Where: `host:port`, or the path of a unix socket.
    pub target: UpstreamTarget,
}

/// The protocol to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamScheme {
    /// HTTP/1.1 in the clear.
    Http,
    /// TLS; HTTP/2 or HTTP/1.1 by ALPN.
    Https,
    /// HTTP/2 in the clear, prior knowledge.
    H2c,
}

/// The address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamTarget {
    /// Host and port.
    Tcp {
        /// DNS name or IP address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A unix socket (`unix:/path`), HTTP/1.1.
    Unix(PathBuf),
}

/// Bounds on the connections to one service's upstreams.
#[derive(Clone, Debug)]
pub struct UpstreamLimits {
    /// Connections to each upstream, a hard cap. Default 256.
    pub connections_max: usize,
    /// Requests waiting for a connection. Default 1,024; more are REJECTED (503).
    pub queue_max: usize,
    /// How long one may wait. Default 5 s.
    pub queue_timeout: Duration,
    /// TCP and TLS connect. Default 3 s.
    pub connect_timeout: Duration,
    /// From the request's end to the response head. Default 60 s.
    pub response_timeout: Duration,
    /// An unused connection; below the upstream's own keep-alive time. Default 4 s.
    pub idle_timeout: Duration,
    /// A body that makes no progress while more is due. Default 60 s.
    pub body_timeout: Duration,
    /// Field section of a response, bytes. Default 64 KiB.
    pub field_section_max: usize,
    /// Fields in a response. Default 200.
    pub fields_max: usize,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self {
            connections_max: 256,
            queue_max: 1_024,
            queue_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(3),
            response_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(4),
            body_timeout: Duration::from_secs(60),
            field_section_max: 64 << 10,
            fields_max: 200,
        }
    }
}
