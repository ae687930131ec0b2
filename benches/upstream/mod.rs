//! The bench's upstream: HTTP/1.1 keep-alive on one thread, as cheap as hyper makes it, the same for every contestant.
//!
//! `GET /bytes/N` answers N bytes, `POST /sink` answers how many bytes came, `GET /never` never answers. Prints the address it bound as a JSON line.

use std::convert::Infallible;
use std::net::IpAddr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::Outcome;
use crate::load::{Ask, Filler};

type Answer = Response<Either<Filler, Full<Bytes>>>;

/// Serves on this address until it is killed.
pub fn main(ip: &str) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(ip.parse()?))
}

async fn serve(ip: IpAddr) -> Outcome<()> {
    let listener = TcpListener::bind((ip, 0)).await?;
    println!("{}", serde_json::json!({ "ready": true, "http": listener.local_addr()? }));
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        connections.spawn(connection(tcp));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(tcp: TcpStream) {
    // A broken connection is the gateway's to report.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(tcp), service_fn(answer)).await;
}

async fn answer(request: Request<Incoming>) -> Result<Answer, Infallible> {
    Ok(match (request.method(), request.uri().path().strip_prefix("/bytes/").map(str::parse)) {
        (&Method::GET, Some(Ok(bytes))) => Response::new(Either::Left(Filler::new(bytes, None))),
        (&Method::POST, None) => count(request.into_body()).await,
        (&Method::GET, None) if request.uri().path() == Ask::Never.path() => std::future::pending().await,
        _ => status(StatusCode::NOT_FOUND),
    })
}

async fn count(mut body: Incoming) -> Answer {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes += frame.data_ref().map_or(0, Bytes::len),
            Err(_) => return status(StatusCode::BAD_REQUEST),
        }
    }
    Response::new(Either::Right(Full::from(bytes.to_string())))
}

fn status(status: StatusCode) -> Answer {
    let mut response = Response::new(Either::Right(Full::default()));
    *response.status_mut() = status;
    response
}
