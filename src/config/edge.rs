//! The checked configuration of `edge`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::origin::PopAddress;
use super::raw;
use super::report::Errors;
use super::values::{AdminListen, Drain, HostPattern, Log, TunnelIdentity, TunnelLimits};
use crate::quic::Preferred;

/// Everything `edge run` needs to know.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// This PoP's name: tunnel identity, `Via` and `Proxy-Status`.
    pub name: String,
    /// Threads that carry requests, each with its own sockets. Default: the number of cores.
    pub workers: usize,
    /// Client addresses: UDP for HTTP/3, TCP for HTTP/2 and HTTP/1.1. Port 0 picks one port for both.
    pub listen: Vec<SocketAddr>,
    /// Admin listener; none unless configured.
    pub admin: Option<AdminListen>,
    /// Folder for keys that must survive a restart (stateless reset, CID, tokens). Default: fresh keys each start.
    pub state_dir: Option<PathBuf>,
    /// Peers whose Forwarded and X-Forwarded-* fields are believed.
    pub trusted: Vec<IpNet>,
    /// Site certificates; the first is the default when SNI matches none.
    pub certificates: Vec<TlsCertificate>,
    /// Keys of session tickets, the same file at all PoPs. Default: keys of this process alone.
    pub ticket_keys: Option<PathBuf>,
    /// Whether HTTP/3 clients that resume may send requests before the handshake is complete (0-RTT). Such a request may be
    /// a replay by a stranger, so it must be safe to run twice: others get 425. Default false.
    pub early_data: bool,
    /// The tunnel side.
    pub tunnel: EdgeTunnel,
    /// What is served.
    pub services: Vec<EdgeService>,
    /// Other PoPs, in the order in which to go to them when this one drains. None by default.
    pub pops: Vec<NextPop>,
    /// Bounds on clients.
    pub limits: Limits,
    /// HTTP/3 and how it is announced.
    pub http3: Http3,
    /// Orderly end.
    pub drain: Drain,
    /// Logging.
    pub log: Log,
    /// What quic-interop-runner asks for beyond the product; no key in the file.
    #[cfg(feature = "interop")]
    pub interop: Option<Interop>,
}

/// The edge under test by quic-interop-runner: HTTP/0.9 beside HTTP/3, TLS secrets of clients' connections in the file
/// that `SSLKEYLOGFILE` names.
#[cfg(feature = "interop")]
#[derive(Clone, Debug, Default)]
pub struct Interop {
    /// TLS offers ChaCha20-Poly1305 alone.
    pub chacha20: bool,
    /// Folder for a qlog of each client's connection.
    pub qlog: Option<PathBuf>,
    /// Serve the files of this folder at the edge itself instead of through tunnels.
    pub direct: Option<PathBuf>,
}

impl EdgeConfig {
    /// Reads and checks a file, or says everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Errors> {
        raw::load(path, raw::edge)
    }

    /// Checks `text`. `file_name` only appears in errors; relative paths start at `base_dir`.
    pub fn from_str(text: &str, file_name: &str, base_dir: &Path) -> Result<Self, Errors> {
        raw::parse(text, file_name, base_dir, raw::edge)
    }
}

/// A site certificate chain and its key (PEM files).
#[derive(Clone, Debug)]
pub struct TlsCertificate {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// The edge's end of the tunnels.
#[derive(Clone, Debug)]
pub struct EdgeTunnel {
    /// UDP address that origins dial.
    pub listen: SocketAddr,
    /// Certificate, key, CA.
    pub identity: TunnelIdentity,
    /// Bounds.
    pub limits: TunnelLimits,
}

/// A name that routes lead to and origins register for.
#[derive(Clone, Debug)]
pub struct EdgeService {
    /// The name, as in a gateway's certificate and registration.
    pub name: String,
    /// Hosts that lead here.
    pub hosts: Vec<HostPattern>,
    /// From the request's end to the response head. Default 60 s.
    pub response_timeout: Duration,
}

/// Another PoP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextPop {
    /// Where origins dial it, spelt as in their `pops`.
    pub tunnel: PopAddress,
    /// Where clients reach its HTTP/3; without it they are not told of it.
    pub http3: Option<PopAddress>,
}

/// Bounds on what clients may use. Each has a metric.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections of all protocols, per process. Default 20,000; more are refused.
    pub connections_max: usize,
    /// QUIC and TLS handshakes under way, per worker. Default 1,000; more are refused.
    pub handshakes_max: usize,
    /// Handshakes under way from which on QUIC clients must validate their address (Retry). Default 64.
    pub retry_threshold: usize,
    /// Requests at once per client connection. Default 128: more than the hundred that curl keeps open, which takes another
    /// connection where it must wait for one to be given back. An HTTP/3 connection may begin with a hundred and has the rest
    /// when it has several at once.
    pub streams_max: u32,
    /// Stream resets by a client on one connection, beyond half of its requests, before it is closed
    /// (H3_EXCESSIVE_LOAD, ENHANCE_YOUR_CALM). Default 100.
    pub resets_max: u32,
    /// Fields in a request. Default 100; more get 431.
    pub fields_max: usize,
    /// Size of a field section as RFC 9114 section 4.2.2 counts it, bytes. Default 32 KiB; more get 431.
    pub field_section_max: usize,
    /// From a request's first byte to its last header byte; also the TLS handshake. Default 10 s.
    pub header_timeout: Duration,
    /// A connection without requests. Default 60 s.
    pub idle_timeout: Duration,
    /// A body that makes no progress in either direction while more is due. Default 60 s.
    pub body_timeout: Duration,
    /// A whole request, WebSockets and event streams included; none by default.
    pub total_timeout: Option<Duration>,
    /// QUIC and HTTP/2 stream receive window, bytes. Default 256 KiB.
    pub stream_window: u32,
    /// QUIC and HTTP/2 connection receive window, bytes: memory one client can pin with uploads. Default 4 MiB.
    pub connection_window: u32,
    /// Bytes queued towards one client connection before its requests wait, at most: over HTTP/3 it is three times the
    /// congestion window. Default 8 MiB.
    pub send_window: u64,
    /// Requests at once from one client address (IPv6: one /64); no limit by default. More get 429.
    pub requests_per_address_max: Option<u32>,
    /// New connections per second from one client address (IPv6: one /64), after a burst of as many; no limit by
    /// default. More are refused.
    pub connections_per_address_rate: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            handshakes_max: 1_000,
            retry_threshold: 64,
            streams_max: 128,
            resets_max: 100,
            fields_max: 100,
            field_section_max: 32 << 10,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            total_timeout: None,
            stream_window: 256 << 10,
            connection_window: 4 << 20,
            send_window: 8 << 20,
            requests_per_address_max: None,
            connections_per_address_rate: None,
        }
    }
}

/// HTTP/3 and its announcement (RFC 7838).
#[derive(Clone, Debug)]
pub struct Http3 {
    /// Whether UDP is served at all. Default true.
    pub enabled: bool,
    /// `ma` of Alt-Svc. Default 24 h; zero: no Alt-Svc.
    pub alt_svc_max_age: Duration,
    /// Port in Alt-Svc where clients see another one than is bound (port forwarding).
    pub alt_svc_port: Option<u16>,
    /// Addresses of this PoP alone, at which clients that came to another one of the machine go on (RFC 9000 section 9.6);
    /// for listeners on all addresses. None by default.
    pub preferred_address: Preferred,
}

impl Default for Http3 {
    fn default() -> Self {
        Self {
            enabled: true,
            alt_svc_max_age: Duration::from_secs(86_400),
            alt_svc_port: None,
            preferred_address: Preferred::default(),
        }
    }
}
