//! The contract of quic-interop-runner as the peers read it that are crates of their own: variables, URLs and files.

use std::env;
use std::error::Error;
use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The case is not supported: said by the exit code, at once.
pub const UNSUPPORTED: u8 = 127;
/// Longer than links are dark, and than handshakes take that lose every third packet.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections at once, where each file has one of its own.
pub const CONNECTIONS_MAX: usize = 8;
/// A request line.
pub const LINE_MAX: usize = 4 << 10;

pub fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// A file of CERTS.
pub fn cert(name: &str) -> PathBuf {
    Path::new(&variable("CERTS")).join(name)
}

/// Where a server listens: on both IPv4 and IPv6.
pub fn listen() -> SocketAddr {
    ([0_u16; 8], variable("PORT").parse().unwrap_or(443)).into()
}

/// Where a client that talks to `peer` is.
pub fn own(peer: SocketAddr) -> SocketAddr {
    if peer.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() }
}

/// What the program ends with.
pub fn ended(peer: &str, role: &str, outcome: Outcome<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{peer} {role}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The file of WWW that a path names.
pub fn content(path: &str) -> Outcome<Vec<u8>> {
    let name = Path::new(path).file_name().ok_or("no file")?;
    Ok(fs::read(Path::new(&variable("WWW")).join(name))?)
}

/// The file of WWW that a request with HTTP/0.9 asks for.
pub fn answer(request: &[u8]) -> Outcome<Vec<u8>> {
    content(std::str::from_utf8(request)?.trim().strip_prefix("GET /").ok_or("no GET")?)
}

/// What a client asks for with HTTP/0.9.
pub fn line(url: &Url) -> Vec<u8> {
    format!("GET {}\r\n", url.path).into_bytes()
}

/// Stores what came for a URL, in DOWNLOADS.
pub fn store(url: &Url, body: &[u8]) -> Outcome<()> {
    Ok(fs::write(Path::new(&variable("DOWNLOADS")).join(url.path.trim_start_matches('/')), body)?)
}

/// All of REQUESTS, at least one.
pub fn requests() -> Outcome<Vec<Url>> {
    let urls: Vec<_> = variable("REQUESTS").split_whitespace().map(Url::parse).collect::<Outcome<_>>()?;
    if urls.is_empty() { Err("no request".into()) } else { Ok(urls) }
}

#[derive(Clone)]
pub struct Url {
    pub host: String,
    pub port: u16,
    pub path: String,
}

impl Url {
    fn parse(text: &str) -> Outcome<Self> {
        let rest = text.strip_prefix("https://").ok_or("no https URL")?;
        let (authority, path) = rest.split_once('/').ok_or("no path")?;
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "443"));
        Ok(Self { host: host.to_owned(), port: port.parse()?, path: format!("/{path}") })
    }

    pub fn address(&self) -> Outcome<SocketAddr> {
        Ok((self.host.as_str(), self.port).to_socket_addrs()?.next().ok_or("no address")?)
    }
}
