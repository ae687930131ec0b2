//! A gRPC server in the test's own process: tonic on hyper's HTTP/2 without TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::codegen::{BoxFuture, BoxStream, Service};
use tonic::{Request, Response, Status, Streaming};

use super::Plain;

/// Calls that ended without being asked to that are remembered.
const CANCELLED_MAX: usize = 64;

/// A running server; it ends when dropped.
pub struct Server {
    pub addr: SocketAddr,
    ends: mpsc::Receiver<()>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("address");
        let (cancelled, ends) = mpsc::channel(CANCELLED_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let cancelled = cancelled.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, cancelled.clone()));
                    let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    drop(http2.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { addr, ends, _tasks: tasks }
    }

    /// Waits for one call that ended before its time.
    pub async fn cancelled(&mut self) {
        self.ends.recv().await.expect("the server runs");
    }
}

async fn answer(
    request: http::Request<Incoming>,
    cancelled: mpsc::Sender<()>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    let mut grpc = tonic::server::Grpc::new(Plain);
    Ok(match request.uri().path() {
        "/test/Unary" => grpc.unary(Unary, request).await,
        "/test/Collect" => grpc.client_streaming(Collect, request).await,
        "/test/Count" => grpc.server_streaming(Count, request).await,
        "/test/Echo" => grpc.streaming(Echo(cancelled), request).await,
        // What the harness asks before a test begins.
        "/status/204" => plain(http::StatusCode::NO_CONTENT),
        _ => Status::unimplemented("no such method").into_http(),
    })
}

fn plain(status: http::StatusCode) -> http::Response<tonic::body::Body> {
    let mut response = http::Response::new(tonic::body::Body::empty());
    *response.status_mut() = status;
    response
}

type Answer<T> = BoxFuture<Response<T>, Status>;

/// Repeats message and metadata; `fail` fails.
struct Unary;

impl Service<Request<Bytes>> for Unary {
    type Response = Response<Bytes>;
    type Error = Status;
    type Future = Answer<Bytes>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        Box::pin(async move {
            let (metadata, _, message) = request.into_parts();
            if &message[..] == b"fail" {
                let details = Bytes::from_static(b"\x01\x02");
                return Err(Status::with_details(tonic::Code::FailedPrecondition, "not today: ümlaut", details));
            }
            let mut response = Response::new(message);
            if let Some(question) = metadata.get("x-question") {
                response.metadata_mut().insert("x-question", question.clone());
            }
            if let Some(bytes) = metadata.get_bin("x-bytes-bin") {
                response.metadata_mut().insert_bin("x-bytes-bin", bytes.clone());
            }
            Ok(response)
        })
    }
}

/// Counts messages and bytes.
struct Collect;

impl Service<Request<Streaming<Bytes>>> for Collect {
    type Response = Response<Bytes>;
    type Error = Status;
    type Future = Answer<Bytes>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin(async move {
            let (mut messages, mut count, mut bytes) = (request.into_inner(), 0, 0);
            while let Some(message) = messages.next().await {
                count += 1;
                bytes += message?.len();
            }
            Ok(Response::new(Bytes::from(format!("{count} messages, {bytes} bytes"))))
        })
    }
}

/// As many messages as asked for, then an error.
struct Count;

impl Service<Request<Bytes>> for Count {
    type Response = Response<BoxStream<Bytes>>;
    type Error = Status;
    type Future = Answer<BoxStream<Bytes>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        Box::pin(async move {
            let count = std::str::from_utf8(request.get_ref()).ok().and_then(|count| count.parse::<usize>().ok());
            let count = count.ok_or_else(|| Status::invalid_argument("not a number"))?;
            let numbers = (0..count).map(|n| Ok(Bytes::from(n.to_string())));
            let end = [Err(Status::out_of_range("that is all"))];
            let stream: BoxStream<Bytes> = Box::pin(futures_util::stream::iter(numbers.chain(end)));
            Ok(Response::new(stream))
        })
    }
}

/// Every message comes back at once.
struct Echo(mpsc::Sender<()>);

impl Service<Request<Streaming<Bytes>>> for Echo {
    type Response = Response<BoxStream<Bytes>>;
    type Error = Status;
    type Future = Answer<BoxStream<Bytes>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let echo = Echoing { messages: request.into_inner(), ended: false, cancelled: self.0.clone() };
        Box::pin(async move {
            let stream: BoxStream<Bytes> = Box::pin(echo);
            Ok(Response::new(stream))
        })
    }
}

/// Tells when it is dropped, or fails, before the client ended its side.
struct Echoing {
    messages: Streaming<Bytes>,
    ended: bool,
    cancelled: mpsc::Sender<()>,
}

impl Stream for Echoing {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.messages.poll_next_unpin(cx);
        self.ended |= matches!(next, Poll::Ready(None));
        next
    }
}

impl Drop for Echoing {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.cancelled.try_send(());
        }
    }
}
