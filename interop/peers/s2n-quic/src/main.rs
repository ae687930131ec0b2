//! s2n-quic (with s2n-tls) by the contract of quic-interop-runner: hq-interop, both roles.
//!
//! Started by interop/runner with the contract's environment. Exits with 127 for what it does not do: HTTP/3 (its crate for that
//! is not released), resumption, 0-RTT, one suite alone, key updates.

use std::env;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use s2n_quic::client::Connect;
use s2n_quic::provider::endpoint_limits;
use s2n_quic::provider::limits::Limits;
use s2n_quic::provider::tls::default as tls;
use s2n_quic::stream::BidirectionalStream;
use s2n_quic::{Client, Connection, Server};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SUPPORTED: [&str; 4] = ["handshake", "transfer", "retry", "multiconnect"];
const ALPN: [&str; 1] = ["hq-interop"];
/// Longer than links are dark, and than handshakes take that lose every third packet.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Certificates in a chain; one case has nine.
const CHAIN_MAX: u16 = 16;
/// A request line.
const LINE_MAX: usize = 4 << 10;
/// Connections at once, where each file has one of its own.
const CONNECTIONS_MAX: usize = 8;

#[tokio::main]
async fn main() -> ExitCode {
    let (role, case) = (variable("ROLE"), variable("TESTCASE"));
    if !SUPPORTED.contains(&case.as_str()) {
        return ExitCode::from(127);
    }
    let done = if role == "client" { download(&case).await } else { serve(&case).await };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("s2n-quic {role}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn limits() -> Outcome<Limits> {
    Ok(Limits::new()
        .with_max_idle_timeout(IDLE_TIMEOUT)?
        .with_max_handshake_duration(IDLE_TIMEOUT)?
        .with_max_open_remote_bidirectional_streams(1_000)?
        .with_max_open_local_bidirectional_streams(1_000)?)
}

async fn serve(case: &str) -> Outcome<()> {
    let certs = PathBuf::from(variable("CERTS"));
    let tls = tls::Server::builder()
        .with_certificate(certs.join("cert.pem").as_path(), certs.join("priv.key").as_path())?
        .with_application_protocols(ALPN.iter())?
        .with_key_logging()?
        .build()?;
    let mut endpoint = endpoint_limits::Default::builder();
    if case == "retry" {
        endpoint = endpoint.with_inflight_handshake_limit(0)?;
    }
    let port = variable("PORT").parse().unwrap_or(443);
    let mut server = Server::builder()
        .with_tls(tls)?
        .with_limits(limits()?)?
        .with_endpoint_limits(endpoint.build()?)?
        .with_io(SocketAddr::from(([0_u16; 8], port)))?
        .start()?;
    let mut end = signal(SignalKind::terminate())?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            connection = server.accept() => {
                connections.spawn(answer_all(connection.ok_or("the endpoint is gone")?));
            }
            _ = end.recv() => return Ok(()),
        }
    }
}

async fn answer_all(mut connection: Connection) {
    let mut streams = JoinSet::new();
    while let Ok(Some(stream)) = connection.accept_bidirectional_stream().await {
        streams.spawn(async move {
            if let Err(error) = answer(stream).await {
                eprintln!("s2n-quic server: {error}");
            }
        });
    }
    streams.join_all().await;
}

async fn answer(mut stream: BidirectionalStream) -> Outcome<()> {
    let mut line = Vec::new();
    while let Some(piece) = stream.receive().await? {
        line.extend_from_slice(&piece);
        if line.len() > LINE_MAX {
            return Err("a long request".into());
        }
    }
    let line = String::from_utf8(line)?;
    let name = line.trim().strip_prefix("GET /").ok_or("no GET")?;
    let name = Path::new(name).file_name().ok_or("no file")?;
    stream.send(fs::read(Path::new(&variable("WWW")).join(name))?.into()).await?;
    Ok(stream.close().await?)
}

async fn download(case: &str) -> Outcome<()> {
    let ca = Path::new(&variable("CERTS")).join("ca.pem");
    let tls = tls::Client::builder()
        .with_certificate(ca.as_path())?
        .with_max_cert_chain_depth(CHAIN_MAX)?
        .with_application_protocols(ALPN.iter())?
        .with_key_logging()?
        .build()?;
    let requests = variable("REQUESTS");
    let urls: Vec<_> = requests.split_whitespace().map(Url::parse).collect::<Outcome<_>>()?;
    let peer = urls.first().ok_or("no request")?.address().await?;
    let own: SocketAddr = if peer.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let client = Client::builder().with_tls(tls)?.with_limits(limits()?)?.with_io(own)?.start()?;
    if case == "multiconnect" {
        let mut each = JoinSet::new();
        for url in urls {
            if each.len() >= CONNECTIONS_MAX {
                each.join_next().await.ok_or("nobody")???;
            }
            each.spawn(fetch_all(client.clone(), peer, vec![url]));
        }
        while let Some(done) = each.join_next().await {
            done??;
        }
    } else {
        fetch_all(client.clone(), peer, urls).await?;
    }
    let mut client = client;
    Ok(client.wait_idle().await?)
}

/// Fetches all over one connection, as many at once as the server allows.
async fn fetch_all(client: Client, peer: SocketAddr, urls: Vec<Url>) -> Outcome<()> {
    let host = urls.first().ok_or("no request")?.host.clone();
    let mut connection = client.connect(Connect::new(peer).with_server_name(host)).await?;
    let mut files = JoinSet::new();
    for url in urls {
        let stream = connection.open_bidirectional_stream().await?;
        files.spawn(fetch(stream, url.path));
    }
    while let Some(done) = files.join_next().await {
        done??;
    }
    connection.close(0_u32.into());
    Ok(())
}

async fn fetch(mut stream: BidirectionalStream, path: String) -> Outcome<()> {
    stream.send(format!("GET {path}\r\n").into_bytes().into()).await?;
    stream.finish()?;
    let mut body = Vec::new();
    while let Some(piece) = stream.receive().await? {
        body.extend_from_slice(&piece);
    }
    Ok(fs::write(Path::new(&variable("DOWNLOADS")).join(path.trim_start_matches('/')), body)?)
}

struct Url {
    host: String,
    port: u16,
    path: String,
}

impl Url {
    fn parse(text: &str) -> Outcome<Self> {
        let rest = text.strip_prefix("https://").ok_or("no https URL")?;
        let (authority, path) = rest.split_once('/').ok_or("no path")?;
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "443"));
        Ok(Self { host: host.to_owned(), port: port.parse()?, path: format!("/{path}") })
    }

    async fn address(&self) -> Outcome<SocketAddr> {
        let mut addresses = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        Ok(addresses.next().ok_or("no address")?)
    }
}
