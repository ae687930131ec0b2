//! HTTP/1.1 and HTTP/2 over TLS, with hyper.

use std::net::SocketAddr;
use std::path::Path;

use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use super::{Download, Failure, Queue, tls};

pub async fn http1(ca: &Path, peer: SocketAddr, tasks: &mut JoinSet<()>) -> Result<http1::SendRequest<Queue>, Failure> {
    let io = TokioIo::new(tls::connect(ca, peer, b"http/1.1").await?);
    let (requests, connection) = http1::handshake(io).await?;
    tasks.spawn(async move { drop(connection.with_upgrades().await) });
    Ok(requests)
}

pub async fn http2(ca: &Path, peer: SocketAddr, tasks: &mut JoinSet<()>) -> Result<http2::SendRequest<Queue>, Failure> {
    let io = TokioIo::new(tls::connect(ca, peer, b"h2").await?);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1 << 20).initial_connection_window_size(8 << 20);
    let (requests, connection) = builder.handshake(io).await?;
    tasks.spawn(async move { drop(connection.await) });
    Ok(requests)
}

pub async fn response(
    response: impl Future<Output = hyper::Result<Response<Incoming>>>,
) -> Result<Response<Download>, Failure> {
    Ok(response.await?.map(Download::Tcp))
}
