//! The upstream client against real servers on loopback: scripted ones for what a server library would not do.

mod http1;
mod http2;
mod pool;
mod upgrades;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::config::{Upstream, UpstreamLimits, UpstreamScheme, UpstreamTarget};
use crate::task::Shutdown;

/// Longest that any step of a test may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("took too long")
}

/// Waits for a condition without a fixed pause.
pub async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[derive(Default)]
pub struct Seen {
    pub accepted: AtomicUsize,
    pub interim: Mutex<Vec<ResponseHead>>,
}

impl Observe for Seen {
    fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    fn interim(&self, head: ResponseHead) {
        self.interim.lock().push(head);
    }
}

/// The client under test and the tasks of its servers.
pub struct Rig {
    pub upstreams: Arc<Upstreams>,
    pub tasks: Tasks,
    pub shutdown: Shutdown,
    pub seen: Arc<Seen>,
}

pub fn limits() -> UpstreamLimits {
    UpstreamLimits { queue_timeout: PATIENCE, idle_timeout: PATIENCE, ..UpstreamLimits::default() }
}

pub fn service(upstreams: Vec<Upstream>, limits: UpstreamLimits) -> OriginService {
    OriginService { name: "web".into(), upstreams, limits, ca: None, tls_name: None, host: None }
}

pub fn tcp(scheme: UpstreamScheme, address: SocketAddr) -> Upstream {
    let target = UpstreamTarget::Tcp { host: address.ip().to_string(), port: address.port() };
    Upstream { scheme, target }
}

pub fn unix(path: PathBuf) -> Upstream {
    Upstream { scheme: UpstreamScheme::Http, target: UpstreamTarget::Unix(path) }
}

impl Rig {
    pub fn new(service: &OriginService) -> Self {
        let shutdown = Shutdown::default();
        let tasks = Tasks::new(shutdown.clone());
        let metrics = Arc::new(UpstreamMetrics::unregistered());
        let upstreams = Arc::new(Upstreams::new(service, metrics, &tasks).unwrap());
        Self { upstreams, tasks, shutdown, seen: Arc::default() }
    }

    pub fn http1(address: SocketAddr) -> Self {
        Self::http1_with(address, limits())
    }

    pub fn http1_with(address: SocketAddr, limits: UpstreamLimits) -> Self {
        Self::new(&service(vec![tcp(UpstreamScheme::Http, address)], limits))
    }

    pub fn metrics(&self) -> &UpstreamMetrics {
        &self.upstreams.metrics
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.upstreams.pools[0]
    }

    pub async fn send<B>(&self, head: RequestHead, body: B) -> Result<UpstreamResponse, Fault>
    where
        B: Body<Data = Bytes, Error = Fault> + Send + 'static,
    {
        soon(self.upstreams.request(head, body, self.seen.clone())).await
    }

    pub async fn get(&self, path: &str) -> Result<UpstreamResponse, Fault> {
        self.send(head(Method::GET, path), none()).await
    }

    /// The whole of a response to GET.
    pub async fn text(&self, path: &str) -> Result<String, Fault> {
        text(self.get(path).await?.body).await
    }
}

pub fn head(method: Method, path: &str) -> RequestHead {
    RequestHead {
        method,
        authority: "www.example.com".parse().unwrap(),
        path: path.parse().unwrap(),
        protocol: None,
        headers: HeaderMap::new(),
    }
}

pub fn with(mut head: RequestHead, name: &'static str, value: &'static str) -> RequestHead {
    head.headers.append(name, HeaderValue::from_static(value));
    head
}

pub type NoFault<B> = http_body_util::combinators::MapErr<B, fn(Infallible) -> Fault>;

fn never(error: Infallible) -> Fault {
    match error {}
}

pub fn none() -> NoFault<Empty<Bytes>> {
    Empty::new().map_err(never)
}

pub fn full(data: impl Into<Bytes>) -> NoFault<Full<Bytes>> {
    Full::new(data.into()).map_err(never)
}

pub async fn text(body: UpstreamBody) -> Result<String, Fault> {
    let bytes = soon(body.collect()).await?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

pub async fn fault(body: UpstreamBody) -> Fault {
    soon(body.collect()).await.map(|_| ()).expect_err("the body should not look complete")
}

/// A body fed by the test; it ends when the sender is dropped.
pub struct Fed(mpsc::Receiver<Result<Frame<Bytes>, Fault>>);

pub fn fed() -> (mpsc::Sender<Result<Frame<Bytes>, Fault>>, Fed) {
    let (sender, receiver) = mpsc::channel(4);
    (sender, Fed(receiver))
}

pub fn data(bytes: &'static str) -> Result<Frame<Bytes>, Fault> {
    Ok(Frame::data(Bytes::from_static(bytes.as_bytes())))
}

impl Body for Fed {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.0.poll_recv(cx)
    }
}

/// A server that runs `serve` for each connection, with its number from 0.
pub async fn scripted<F, R>(serve: F) -> SocketAddr
where
    F: Fn(usize, Peer) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new(Shutdown::default());
    tasks.clone().spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tasks.spawn(serve(number, Peer { stream, buffer: Vec::new() }));
        }
    });
    address
}

/// The server's end of a connection.
pub struct Peer {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
}

impl Peer {
    /// Reads up to and with the next `end`; `None` if the client closed before.
    pub async fn read_to(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                let rest = self.buffer.split_off(at + end.len());
                let read = std::mem::replace(&mut self.buffer, rest);
                return Some(String::from_utf8(read).unwrap());
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    pub async fn head(&mut self) -> Option<String> {
        self.read_to(b"\r\n\r\n").await
    }

    pub async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Resolves when the client closed or reset.
    pub async fn closed(&mut self) {
        let mut sink = [0; 4096];
        while matches!(self.stream.read(&mut sink).await, Ok(1..)) {}
    }
}

pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that answers every request of every connection with `answer`, and counts connections and requests.
pub async fn answering(answer: &'static str) -> (SocketAddr, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let counting = counts.clone();
    let address = scripted(move |_, mut peer| {
        let counts = counting.clone();
        async move {
            counts.connections.fetch_add(1, Ordering::Relaxed);
            while peer.head().await.is_some() {
                counts.requests.fetch_add(1, Ordering::Relaxed);
                peer.write(answer).await;
            }
            counts.closed.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    (address, counts)
}

#[derive(Default)]
pub struct Counts {
    pub connections: AtomicUsize,
    pub requests: AtomicUsize,
    pub closed: AtomicUsize,
}

impl Counts {
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn closed(&self) -> usize {
        self.closed.load(Ordering::Relaxed)
    }
}
