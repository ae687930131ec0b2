//! Real TLS connections on loopback: raw bytes for HTTP/1.1, hyper's client for HTTP/2.

mod connect;
mod ends;
mod http1;
mod http2;
mod websocket;

use std::convert::Infallible;
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::super::{Interim, Request as SpineRequest, Response as SpineResponse};
use super::*;
use crate::config::Http3;
use crate::edge::listener::socket::bind_client;
use crate::edge::listener::{admission, tls};
use crate::fault::{Fault, Kind, Side, Stage};
use crate::task::Shutdown;
use crate::tunnel::message::ResponseHead;

const DEADLINE: Duration = Duration::from_secs(10);

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

async fn until(mut condition: impl FnMut() -> bool) {
    in_time(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

type TestBody = UnsyncBoxBody<Bytes, Fault>;

fn text(text: impl Into<Bytes>) -> TestBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Frames one after the other, as an upstream would send them, and then the end.
fn pieces(items: Vec<Result<Frame<Bytes>, Fault>>) -> TestBody {
    let (feed, mut frames) = mpsc::channel(items.len().max(1));
    for item in items {
        feed.try_send(item).unwrap();
    }
    drop(feed);
    PollBody(move |cx: &mut Context<'_>| frames.poll_recv(cx)).boxed_unsync()
}

/// A body from a poll function.
struct PollBody<F>(F);

impl<F> Unpin for PollBody<F> {}

type Polled = Poll<Option<Result<Frame<Bytes>, Fault>>>;

impl<F: FnMut(&mut Context<'_>) -> Polled> http_body::Body for PollBody<F> {
    type Data = Bytes;
    type Error = Fault;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        (self.0)(cx)
    }
}

/// A spine that answers by path and notes what it saw.
#[derive(Clone)]
struct Spine {
    notes: Arc<Mutex<Vec<String>>>,
    tasks: Tasks,
    cut: Arc<tokio::sync::Notify>,
}

/// Notes when a request or response body is dropped.
struct Farewell(Spine, &'static str);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.note(self.1);
    }
}

impl Spine {
    fn note(&self, note: impl Into<String>) {
        self.notes.lock().push(note.into());
    }

    fn noted(&self, note: &str) -> bool {
        self.notes.lock().iter().any(|noted| noted == note)
    }

    async fn answer(&self, request: SpineRequest) -> (StatusCode, Vec<(&'static str, &'static str)>, TestBody) {
        let incomplete = Fault::new(Stage::Tunnel, Side::Upstream, Kind::ResponseIncomplete);
        let part = || Ok(Frame::data(Bytes::from_static(b"01234")));
        match request.head.path.path() {
            "/echo" => (StatusCode::OK, vec![], request.body.boxed_unsync()),
            "/head" => {
                let mut shown = format!("{} {} {}", request.head.method, request.head.authority, request.head.path);
                let show = |(name, value): (_, &HeaderValue)| format!("\n{name}: {}", value.to_str().unwrap());
                let mut fields: Vec<String> = request.head.headers.iter().map(show).collect();
                fields.sort();
                shown.extend(fields);
                (StatusCode::OK, vec![], text(shown))
            }
            "/collect" => {
                let note = match request.body.collect().await {
                    Ok(body) => format!("complete {}", body.to_bytes().len()),
                    Err(fault) => format!("broken {} {}", fault.error_type(), fault.status().as_u16()),
                };
                self.note(note.clone());
                (StatusCode::OK, vec![], text(note))
            }
            "/short" => (StatusCode::OK, vec![("content-length", "10")], pieces(vec![part()])),
            "/long" => (StatusCode::OK, vec![("content-length", "7")], pieces(vec![part(), part()])),
            "/broken" => (StatusCode::OK, vec![], pieces(vec![part(), Err(incomplete)])),
            "/trailers" => {
                let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("1"))]);
                let body = pieces(vec![part(), Ok(Frame::trailers(trailers))]);
                (StatusCode::OK, vec![("trailer", "x-sum")], body)
            }
            "/hop" => (StatusCode::OK, vec![("connection", "close"), ("keep-alive", "1"), ("x-a", "b")], text("ok")),
            "/badlength" => (StatusCode::OK, vec![("content-length", "1x")], text("ok")),
            "/204" => (StatusCode::NO_CONTENT, vec![("content-length", "5")], pieces(vec![part()])),
            "/304" => (StatusCode::NOT_MODIFIED, vec![("content-length", "5")], text("")),
            "/never" => {
                let _farewell = Farewell(self.clone(), "dropped");
                self.note("serving");
                std::future::pending().await
            }
            "/endless" => {
                let farewell = Farewell(self.clone(), "body dropped");
                let body = PollBody(move |_: &mut Context<'_>| {
                    let _keep = &farewell;
                    Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; 16 << 10])))))
                });
                (StatusCode::OK, vec![], body.boxed_unsync())
            }
            "/quiet" => {
                let mut first = Some(Bytes::from_static(b"event"));
                let body = PollBody(move |_: &mut Context<'_>| match first.take() {
                    Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                    None => Poll::Pending,
                });
                (StatusCode::OK, vec![], body.boxed_unsync())
            }
            path if path.starts_with("/ws") => self.answer_upgrade(request),
            _ => (StatusCode::NOT_FOUND, vec![], text("nothing here")),
        }
    }

    fn answer_upgrade(&self, request: SpineRequest) -> (StatusCode, Vec<(&'static str, &'static str)>, TestBody) {
        let incomplete = Fault::new(Stage::Tunnel, Side::Upstream, Kind::ResponseIncomplete);
        let part = Ok(Frame::data(Bytes::from_static(b"01234")));
        match request.head.path.path() {
            "/ws" if request.head.protocol.as_deref() == Some(b"websocket") => {
                (StatusCode::OK, vec![("sec-websocket-protocol", "chat")], request.body.boxed_unsync())
            }
            "/ws-sink" => {
                let spine = self.clone();
                self.tasks.spawn(async move {
                    let end = request.body.collect().await;
                    spine.note(end.map_or_else(|fault| format!("cut {}", fault.error_type()), |_| "ended".to_owned()));
                });
                (StatusCode::OK, vec![], PollBody(|_: &mut Context<'_>| Poll::Pending).boxed_unsync())
            }
            "/ws-cut" => {
                let (feed, mut frames) = mpsc::channel(1);
                let cut = self.cut.clone();
                self.tasks.spawn(async move {
                    let _ = feed.send(Ok(Frame::data(Bytes::from_static(b"event")))).await;
                    cut.notified().await;
                    let _ = feed.send(Err(incomplete)).await;
                });
                (StatusCode::OK, vec![], PollBody(move |cx: &mut Context<'_>| frames.poll_recv(cx)).boxed_unsync())
            }
            "/ws-broken" => (StatusCode::OK, vec![], pieces(vec![part, Err(incomplete)])),
            "/ws-refused" => (StatusCode::FORBIDDEN, vec![], text("no")),
            _ => (StatusCode::NOT_FOUND, vec![], text("nothing here")),
        }
    }
}

impl Serve for Spine {
    type Body = TestBody;

    async fn serve<I: Interim>(&self, request: SpineRequest, _: &mut I) -> SpineResponse<TestBody> {
        let (status, fields, body) = self.answer(request).await;
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(name, HeaderValue::from_static(value));
        }
        SpineResponse { head: ResponseHead { status, headers }, body }
    }
}

struct Server {
    address: SocketAddr,
    root: CertificateDer<'static>,
    spine: Spine,
    metrics: ListenerMetrics,
    alt_svc: AltSvc,
    shutdown: Shutdown,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

impl Server {
    fn start(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (files, root) = tls::tests::make(folder.path(), &["a.example"]);
        let mut sockets = bind_client("127.0.0.1:0".parse().unwrap(), 1, false).unwrap();
        let shutdown = Shutdown::default();
        let tasks = Tasks::new(shutdown.clone());
        let metrics = ListenerMetrics::register(&mut Registry::default());
        let alt_svc = AltSvc::new(&Http3::default(), 443, &[]);
        let listener = TcpListener {
            name: "pop-a".into(),
            admission: admission::tests::admission(&limits),
            limits: Arc::new(limits),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            alt_svc: alt_svc.clone(),
            parting: Parting::default(),
            tls: tls::tcp_config(tls::Certificates::load(&[files]).unwrap(), tls::tickets(None).unwrap()).unwrap(),
        };
        let spine = Spine { notes: Arc::default(), tasks: tasks.child(), cut: Arc::default() };
        let (socket, serve) = (sockets.tcp.remove(0), spine.clone());
        tasks.spawn(async move { serve_tcp(socket, listener, serve).await.unwrap() });
        Self { address: sockets.address, root, spine, metrics, alt_svc, shutdown, tasks, _folder: folder }
    }

    async fn connect(&self, alpn: &[u8]) -> std::io::Result<Tls> {
        let config = tls::tests::client(std::slice::from_ref(&self.root), &[alpn]);
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("a.example").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    async fn http1(&self) -> Tls {
        in_time(self.connect(b"http/1.1")).await.unwrap()
    }

    async fn http2(&self) -> Http2 {
        let tls = in_time(self.connect(b"h2")).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let io = TokioIo::new(tls);
        let (send, connection) =
            hyper::client::conn::http2::Builder::new(TokioExecutor::new()).handshake(io).await.unwrap();
        let tasks = Tasks::new(Shutdown::default());
        tasks.spawn(async move { drop(connection.await) });
        Http2 { send, _tasks: tasks }
    }

    /// Sends raw bytes on a fresh HTTP/1.1 connection and reads to its end.
    async fn raw(&self, request: &str) -> Raw {
        let mut tls = self.http1().await;
        tls.write_all(request.as_bytes()).await.unwrap();
        read_to_end(&mut tls).await
    }
}

/// What came on a raw connection.
#[derive(Debug)]
struct Raw {
    text: String,
    /// Whether the end was announced by close_notify and not cut.
    clean: bool,
}

impl Raw {
    fn status(&self) -> u16 {
        self.text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

async fn read_to_end(tls: &mut Tls) -> Raw {
    let mut bytes = Vec::new();
    let clean = in_time(tls.read_to_end(&mut bytes)).await.is_ok();
    Raw { text: String::from_utf8(bytes).unwrap(), clean }
}

/// Reads until `end` has come.
async fn read_until(tls: &mut Tls, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let mut buffer = [0; 1024];
        let length = in_time(tls.read(&mut buffer)).await.unwrap();
        assert_ne!(length, 0, "ended after {text:?}");
        text += std::str::from_utf8(&buffer[..length]).unwrap();
    }
    text
}

struct Http2 {
    send: SendRequest<TestBody>,
    _tasks: Tasks,
}

type ClientResponse = hyper::Result<http::Response<hyper::body::Incoming>>;

impl Http2 {
    async fn request(&mut self, request: Request<TestBody>) -> ClientResponse {
        in_time(self.send.ready()).await?;
        in_time(self.send.send_request(request)).await
    }

    async fn get(&mut self, path: &str) -> ClientResponse {
        self.request(get(path)).await
    }
}

fn get(path: &str) -> Request<TestBody> {
    Request::get(format!("https://a.example{path}")).body(empty()).unwrap()
}

fn empty() -> TestBody {
    Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

async fn collect(response: http::Response<hyper::body::Incoming>) -> hyper::Result<Bytes> {
    Ok(in_time(response.into_body().collect()).await?.to_bytes())
}

const GET_CLOSE: &str = "Host: a.example\r\nConnection: close\r\n\r\n";
