//! s2n-quic (with s2n-tls) by the contract of quic-interop-runner: hq-interop, both roles.
//!
//! Started by interop/runner with the contract's environment. Exits with 127 for what it does not do: HTTP/3 (its crate for that
//! is not released), resumption, 0-RTT, one suite alone, key updates.

#[path = "../../contract.rs"]
mod contract;

use std::net::SocketAddr;
use std::process::ExitCode;

use contract::{CONNECTIONS_MAX, IDLE_TIMEOUT, LINE_MAX, Outcome, UNSUPPORTED, Url, cert, ended, variable};
use s2n_quic::client::Connect;
use s2n_quic::provider::endpoint_limits;
use s2n_quic::provider::limits::Limits;
use s2n_quic::provider::tls::default as tls;
use s2n_quic::stream::BidirectionalStream;
use s2n_quic::{Client, Connection, Server};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

const SUPPORTED: [&str; 4] = ["handshake", "transfer", "retry", "multiconnect"];
const ALPN: [&str; 1] = ["hq-interop"];
/// Certificates in a chain; one case has nine.
const CHAIN_MAX: u16 = 16;

#[tokio::main]
async fn main() -> ExitCode {
    let (role, case) = (variable("ROLE"), variable("TESTCASE"));
    if !SUPPORTED.contains(&case.as_str()) {
        return ExitCode::from(UNSUPPORTED);
    }
    ended("s2n-quic", &role, if role == "client" { download(&case).await } else { serve(&case).await })
}

fn limits() -> Outcome<Limits> {
    Ok(Limits::new()
        .with_max_idle_timeout(IDLE_TIMEOUT)?
        .with_max_handshake_duration(IDLE_TIMEOUT)?
        .with_max_open_remote_bidirectional_streams(1_000)?
        .with_max_open_local_bidirectional_streams(1_000)?)
}

async fn serve(case: &str) -> Outcome<()> {
    let tls = tls::Server::builder()
        .with_certificate(cert("cert.pem").as_path(), cert("priv.key").as_path())?
        .with_application_protocols(ALPN.iter())?
        .with_key_logging()?
        .build()?;
    let mut endpoint = endpoint_limits::Default::builder();
    if case == "retry" {
        endpoint = endpoint.with_inflight_handshake_limit(0)?;
    }
    let mut server = Server::builder()
        .with_tls(tls)?
        .with_limits(limits()?)?
        .with_endpoint_limits(endpoint.build()?)?
        .with_io(contract::listen())?
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
    stream.send(contract::answer(&line)?.into()).await?;
    Ok(stream.close().await?)
}

async fn download(case: &str) -> Outcome<()> {
    let tls = tls::Client::builder()
        .with_certificate(cert("ca.pem").as_path())?
        .with_max_cert_chain_depth(CHAIN_MAX)?
        .with_application_protocols(ALPN.iter())?
        .with_key_logging()?
        .build()?;
    let urls = contract::requests()?;
    let peer = urls.first().ok_or("no request")?.address()?;
    let client = Client::builder().with_tls(tls)?.with_limits(limits()?)?.with_io(contract::own(peer))?.start()?;
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
        files.spawn(fetch(stream, url));
    }
    while let Some(done) = files.join_next().await {
        done??;
    }
    connection.close(0_u32.into());
    Ok(())
}

async fn fetch(mut stream: BidirectionalStream, url: Url) -> Outcome<()> {
    stream.send(contract::line(&url).into()).await?;
    stream.finish()?;
    let mut body = Vec::new();
    while let Some(piece) = stream.receive().await? {
        body.extend_from_slice(&piece);
    }
    contract::store(&url, &body)
}
