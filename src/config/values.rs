//! Checked value types that both configurations share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the admin listener (metrics, health) listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// A TCP address, loopback unless the operator chose otherwise. Port 0 picks one.
    Tcp(SocketAddr),
    /// `unix:/path`: a unix socket, created 0600.
    Unix(PathBuf),
}

/// How a process ends.
#[derive(Clone, Debug)]
pub struct Drain {
    /// How long requests in flight may go on after the first SIGTERM. Default 30 s.
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30) }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct Log {
    /// A `tracing` filter such as `info` or `trunkline=debug`. Default `info`.
    pub level: String,
    /// Text or JSON. Default: text on a terminal, JSON otherwise.
    pub format: LogFormat,
    /// Whether a line per request is logged. Default true.
    pub access: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto, access: true }
    }
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One line of text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A host that a route serves: exact (`www.example.com`, `192.0.2.7`, `[2001:db8::7]` with its brackets and in the
/// shortest spelling) or everything below one (`*.example.org`), lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Exactly this host.
    Exact(String),
    /// Any host one or more labels below this suffix; holds `example.org` for `*.example.org`.
    Wildcard(String),
    /// `*`: every host that nothing else matches.
    Any,
}

/// The certificate, key and certificate authority of one end of a tunnel (PEM files).
#[derive(Clone, Debug)]
pub struct TunnelIdentity {
    /// This end's certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The tunnel CA, apart from the web PKI.
    pub ca: PathBuf,
}

/// Bounds on one tunnel and on all of them.
#[derive(Clone, Debug)]
pub struct TunnelLimits {
    /// Exchanges at once on one link. Default 1024. The rest waits or goes elsewhere.
    pub exchanges_max: u32,
    /// Most that one exchange may have under way unacknowledged in one direction, bytes. Default 4 MiB.
    pub exchange_window_max: u64,
    /// Memory for unacknowledged bytes of all exchanges, bytes. Default 256 MiB.
    pub retention_max: u64,
    /// A link without any packet from the other end for this long is closed. Default 10 s.
    pub idle_timeout: Duration,
}

impl Default for TunnelLimits {
    fn default() -> Self {
        Self {
            exchanges_max: 1024,
            exchange_window_max: 4 << 20,
            retention_max: 256 << 20,
            idle_timeout: Duration::from_secs(10),
        }
    }
}
