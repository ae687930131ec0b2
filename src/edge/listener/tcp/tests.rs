//! Real TLS connections on loopback: raw bytes for HTTP/1.1, hyper's client for HTTP/2.

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

// ---- HTTP/1.1 ----

#[tokio::test]
async fn http1_requests_share_a_connection() {
    let server = Server::start(Limits::default());
    let mut tls = server.http1().await;
    for number in 0..3 {
        let request = format!("POST /echo HTTP/1.1\r\nHost: a.example\r\nContent-Length: 6\r\n\r\nbody-{number}");
        tls.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut tls, &format!("body-{number}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert_eq!(server.metrics.http1.open.get(), 1);
    drop(tls);
    until(|| server.metrics.http1.open.get() == 0).await;
}

#[tokio::test]
async fn malformed_http1_requests_get_their_status_and_the_connection_ends() {
    let server = Server::start(Limits::default());
    let many: String = (0..200).map(|number| format!("X-{number}: 1\r\n")).collect();
    let large = format!("X: {}\r\n", "a".repeat(40 << 10));
    for (expected, request) in [
        (400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".to_owned()),
        (400, "GET https://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n".to_owned()),
        (400, "GET / HTTP/3.7\r\nHost: a\r\n\r\n".to_owned()),
        (400, "G@T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (400, "garbage\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1x\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()),
        (501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned()),
        (501, "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n".to_owned()),
        (421, "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned()),
        (431, format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
        (431, format!("GET / HTTP/1.1\r\nHost: a\r\n{large}\r\n")),
        (414, format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(70 << 10))),
    ] {
        let answer = server.raw(&request).await;
        let shown: String = request.chars().take(80).collect();
        let ok = answer.status() == expected || (expected == 414 && answer.status() == 431);
        assert!(ok, "{shown:?} gave {:?}", answer.text);
    }
    assert!(server.spine.notes.lock().is_empty());
    // Refusals of our own say who refused.
    let answer = server.raw("GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.text.contains("proxy-status: \"pop-a\"; error=http_request_error\r\n"), "{answer:?}");
}

#[tokio::test]
async fn a_request_with_both_framings_ends_its_connection() {
    let server = Server::start(Limits::default());
    // The second request is the smuggled one: it must never be answered.
    let answer = server
        .raw(
            "POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n\
             0\r\n\r\nGET /head HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    assert_eq!(answer.text.matches("HTTP/1.1").count(), 1, "{answer:?}");
    assert!(answer.text.ends_with("complete 0"));
}

#[tokio::test]
async fn the_spine_gets_a_clean_head() {
    let server = Server::start(Limits::default());
    let answer = server
        .raw(
            "GET https://a.example/head?q HTTP/1.1\r\nHost: A.example\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\
             Keep-Alive: 5\r\nUpgrade: h2c\r\nTE: gzip\r\nCookie: a=1\r\nCookie: b=2\r\nX-Kept: yes\r\n\r\n",
        )
        .await;
    let (_, body) = answer.text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "GET a.example /head?q\ncookie: a=1; b=2\nx-kept: yes");
}

#[tokio::test]
async fn a_request_body_cut_short_is_an_error_for_the_spine() {
    let server = Server::start(Limits::default());
    for request in [
        "POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234",
        "POST /collect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n",
    ] {
        let mut tls = server.http1().await;
        tls.write_all(request.as_bytes()).await.unwrap();
        tls.shutdown().await.unwrap();
        until(|| server.spine.noted("broken client_gone 502")).await;
        server.spine.notes.lock().clear();
    }
    let chunk = "POST /collect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    let _ = server.raw(chunk).await;
    assert!(server.spine.noted("broken http_request_error 400"), "{:?}", server.spine.notes.lock());
}

#[tokio::test]
async fn a_request_body_that_stalls_is_given_up() {
    let server = Server::start(Limits { body_timeout: Duration::from_millis(100), ..Limits::default() });
    let mut tls = server.http1().await;
    tls.write_all(b"POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234").await.unwrap();
    read_until(&mut tls, "broken http_request_error 408").await;
}

#[tokio::test]
async fn responses_of_the_wrong_length_never_end_cleanly() {
    let server = Server::start(Limits::default());
    for path in ["/short", "/broken"] {
        let answer = server.raw(&format!("GET {path} HTTP/1.1\r\n{GET_CLOSE}")).await;
        assert!(!answer.clean && !answer.text.ends_with("0\r\n\r\n"), "{path}: {answer:?}");
    }
    let answer = server.raw(&format!("GET /long HTTP/1.1\r\n{GET_CLOSE}")).await;
    let body = answer.text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    assert!(body.len() < 7 && !answer.clean, "{answer:?}");
    let answer = server.raw(&format!("GET /badlength HTTP/1.1\r\n{GET_CLOSE}")).await;
    assert_eq!(answer.status(), 502, "{answer:?}");
}

#[tokio::test]
async fn answers_without_content_have_none_and_hop_by_hop_fields_stay_here() {
    let server = Server::start(Limits::default());
    let answer = server.raw(&format!("HEAD /echo HTTP/1.1\r\n{GET_CLOSE}")).await;
    assert!(answer.status() == 200 && answer.text.ends_with("\r\n\r\n"), "{answer:?}");
    for path in ["/204", "/304"] {
        let answer = server.raw(&format!("GET {path} HTTP/1.1\r\n{GET_CLOSE}")).await;
        assert!(answer.clean && answer.text.ends_with("\r\n\r\n"), "{answer:?}");
        assert!(!answer.text.contains("content-length"), "{answer:?}");
    }
    let answer = server.raw(&format!("HEAD /short HTTP/1.1\r\n{GET_CLOSE}")).await;
    assert!(answer.clean && answer.text.contains("content-length: 10\r\n") && answer.text.ends_with("\r\n\r\n"));
    let mut tls = server.http1().await;
    tls.write_all(b"GET /hop HTTP/1.1\r\nHost: a\r\n\r\nGET /hop HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let answers = read_until(&mut tls, "ok").await;
    assert!(answers.contains("x-a: b") && !answers.contains("keep-alive") && !answers.contains("connection"));
}

#[tokio::test]
async fn trailers_reach_clients_that_take_them() {
    let server = Server::start(Limits::default());
    let answer = server.raw("GET /trailers HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, te\r\n\r\n").await;
    assert!(answer.clean && answer.text.ends_with("0\r\nx-sum: 1\r\n\r\n"), "{answer:?}");
}

#[tokio::test]
async fn expect_100_continue_is_answered_when_the_body_is_wanted() {
    let server = Server::start(Limits::default());
    let mut tls = server.http1().await;
    let head = b"POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    tls.write_all(head).await.unwrap();
    read_until(&mut tls, "HTTP/1.1 100 Continue\r\n\r\n").await;
    tls.write_all(b"01234").await.unwrap();
    read_until(&mut tls, "complete 5").await;
}

#[tokio::test]
async fn alt_svc_is_announced_until_http3_is_withdrawn() {
    let server = Server::start(Limits::default());
    let request = format!("GET /head HTTP/1.1\r\n{GET_CLOSE}");
    assert!(server.raw(&request).await.text.contains("alt-svc: h3=\":443\"; ma=86400\r\n"));
    server.alt_svc.withdraw();
    assert!(!server.raw(&request).await.text.contains("alt-svc"));
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    let server = Server::start(Limits::default());
    let mut tls = server.http1().await;
    tls.write_all(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    until(|| server.spine.noted("serving")).await;
    drop(tls);
    until(|| server.spine.noted("dropped")).await;
    assert_eq!(server.metrics.http1.resets.get(), 1);
}

#[tokio::test]
async fn idle_connections_end_cleanly_and_slow_heads_are_cut() {
    let limits = Limits {
        idle_timeout: Duration::from_millis(300),
        header_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = Server::start(limits);
    let mut idle = server.http1().await;
    idle.write_all(b"GET /head HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut idle).await;
    assert!(answer.clean && answer.status() == 200, "{answer:?}");
    assert_eq!((server.metrics.closed_idle.get(), server.metrics.closed_header_timeout.get()), (1, 0));

    let mut slow = server.http1().await;
    let mut sent = 0;
    let cut = in_time(async {
        for byte in b"GET /head HTTP/1.1\r\nHost: a".iter().cycle() {
            sent += 1;
            if slow.write_all(&[*byte]).await.is_err() || server.metrics.closed_header_timeout.get() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    cut.await;
    assert_eq!(server.metrics.closed_header_timeout.get(), 1, "{sent}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut() {
    let server = Server::start(Limits { body_timeout: Duration::from_millis(100), ..Limits::default() });
    let mut tls = server.http1().await;
    tls.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    until(|| server.spine.noted("body dropped")).await;
    until(|| server.metrics.cut_stalled.get() == 1).await;
}

#[tokio::test]
async fn a_handshake_that_never_comes_loses_its_place() {
    let limits = Limits { header_timeout: Duration::from_millis(50), handshakes_max: 1, ..Limits::default() };
    let server = Server::start(limits);
    let _silent = TcpStream::connect(server.address).await.unwrap();
    until(|| server.metrics.handshakes_late.get() == 1).await;
    let _connected = server.http1().await;
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    until(|| server.metrics.handshakes_failed.get() == 1).await;
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_counted() {
    let server = Server::start(Limits { connections_max: 1, ..Limits::default() });
    let first = server.http1().await;
    assert!(in_time(server.connect(b"http/1.1")).await.is_err());
    assert_eq!(server.metrics.refused_connections.get(), 1);
    drop(first);
    until(|| server.metrics.http1.open.get() == 0).await;
    server.http1().await;
}

// ---- WebSocket over HTTP/1.1 ----

fn websocket(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

#[tokio::test]
async fn a_websocket_switches_and_half_close_is_kept() {
    let server = Server::start(Limits::default());
    let mut tls = server.http1().await;
    // Bytes right behind the head belong to the switched stream.
    tls.write_all((websocket("/ws") + "early").as_bytes()).await.unwrap();
    let answer = read_until(&mut tls, "early").await;
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    assert!(answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    assert!(answer.contains("upgrade: websocket\r\n") && answer.contains("sec-websocket-protocol: chat\r\n"));
    tls.write_all(b"hello").await.unwrap();
    read_until(&mut tls, "hello").await;
    tls.write_all(b"last words").await.unwrap();
    tls.shutdown().await.unwrap();
    let rest = read_to_end(&mut tls).await;
    assert!(rest.clean && rest.text == "last words", "{rest:?}");
    assert!(server.spine.notes.lock().is_empty());
    until(|| server.metrics.http1.open.get() == 0).await;
}

#[tokio::test]
async fn a_websocket_cut_by_the_client_does_not_look_ended() {
    let server = Server::start(Limits::default());
    let mut tls = server.http1().await;
    tls.write_all(websocket("/ws-sink").as_bytes()).await.unwrap();
    read_until(&mut tls, "\r\n\r\n").await;
    drop(tls);
    until(|| server.spine.noted("cut client_gone")).await;
}

#[tokio::test]
async fn a_websocket_cut_by_the_upstream_does_not_look_ended() {
    let server = Server::start(Limits::default());
    let answer = server.raw(&websocket("/ws-broken")).await;
    assert!(answer.text.ends_with("01234") && !answer.clean, "{answer:?}");
}

#[tokio::test]
async fn a_refused_websocket_leaves_the_connection_usable() {
    let server = Server::start(Limits::default());
    let mut tls = server.http1().await;
    tls.write_all(websocket("/ws-refused").as_bytes()).await.unwrap();
    let answer = read_until(&mut tls, "no").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    tls.write_all(b"GET /head HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    read_until(&mut tls, "GET a.example /head").await;
}

// ---- HTTP/2 ----

#[tokio::test]
async fn http2_streams_bodies_both_ways() {
    let server = Server::start(Limits::default());
    let mut client = server.http2().await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let request = Request::post("https://a.example/echo").body(text(body.clone())).unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.headers()["alt-svc"], "h3=\":443\"; ma=86400");
    assert!(collect(response).await.unwrap() == body);
    let response = client.get("/trailers").await.unwrap();
    let collected = in_time(response.into_body().collect()).await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-sum"], "1");
    assert_eq!(server.metrics.http2.open.get(), 1);
    assert_eq!(server.metrics.http2.resets.get(), 0, "complete responses are no resets");
}

#[tokio::test]
async fn http2_cookies_are_joined_and_a_strange_host_is_refused() {
    let server = Server::start(Limits::default());
    let mut client = server.http2().await;
    let mut request = get("/head");
    request.headers_mut().append("cookie", HeaderValue::from_static("a=1"));
    request.headers_mut().append("cookie", HeaderValue::from_static("b=2"));
    let shown = collect(client.request(request).await.unwrap()).await.unwrap();
    assert_eq!(shown, "GET a.example /head\ncookie: a=1; b=2");
    let mut request = get("/head");
    request.headers_mut().insert("host", HeaderValue::from_static("b.example"));
    assert_eq!(client.request(request).await.unwrap().status(), 400);
    assert_eq!(client.get("/head").await.unwrap().status(), 200, "the connection stays");
}

#[tokio::test]
async fn http2_lengths_are_checked_both_ways() {
    let server = Server::start(Limits::default());
    let mut client = server.http2().await;
    for path in ["/short", "/long", "/broken"] {
        // The reset may overtake the head.
        if let Ok(response) = client.get(path).await {
            assert!(collect(response).await.is_err(), "{path}");
        }
    }
    assert_eq!(collect(client.get("/204").await.unwrap()).await.unwrap(), "");
    let head = Request::head("https://a.example/short").body(empty()).unwrap();
    let response = client.request(head).await.unwrap();
    assert_eq!(response.headers()["content-length"], "10");
    assert_eq!(collect(response).await.unwrap(), "");
    // Too few bytes in a request: the stream breaks and the spine sees no complete body.
    let request = Request::post("https://a.example/collect")
        .header("content-length", "10")
        .body(pieces(vec![Ok(Frame::data(Bytes::from_static(b"01234")))]))
        .unwrap();
    let answered = client.request(request).await;
    assert!(answered.is_err() || !server.spine.noted("complete 5"), "{answered:?}");
    assert!(!server.spine.noted("complete 5"));
    assert_eq!(client.get("/head").await.unwrap().status(), 200, "only the stream breaks");
}

#[tokio::test]
async fn http2_limits_are_announced_and_kept() {
    let server = Server::start(Limits::default());
    let mut client = server.http2().await;
    let mut request = get("/head");
    for number in 0..101 {
        let name: http::HeaderName = format!("x-{number}").parse().unwrap();
        request.headers_mut().insert(name, HeaderValue::from_static("1"));
    }
    assert_eq!(client.request(request).await.unwrap().status(), 431);
    // Larger than announced: hyper's client keeps to the setting and refuses it by itself, or gets 431.
    let mut request = get("/head");
    request.headers_mut().insert("x-large", HeaderValue::from_str(&"a".repeat(40 << 10)).unwrap());
    assert!(client.request(request).await.map_or(true, |response| response.status() == 431));
}

#[tokio::test]
async fn a_reset_http2_stream_cancels_its_request_and_too_many_end_the_connection() {
    let server = Server::start(Limits { resets_max: 3, ..Limits::default() });
    let mut client = server.http2().await;
    for number in 1.. {
        if in_time(client.send.ready()).await.is_err() {
            assert!(number > 3, "{number}");
            break;
        }
        let pending = client.send.send_request(get("/never"));
        let sent = tokio::time::timeout(Duration::from_millis(20), pending).await;
        assert!(number > 3 || sent.is_err(), "{sent:?}");
        until(|| server.metrics.http2.resets.get() == number || server.metrics.closed_resets.get() > 0).await;
        assert!(number < 12, "never closed");
    }
    until(|| server.metrics.closed_resets.get() == 1).await;
    assert!(server.spine.noted("dropped"));
}

#[tokio::test]
async fn an_http2_client_that_grants_no_window_loses_the_stream_only() {
    let server = Server::start(Limits { body_timeout: Duration::from_millis(150), ..Limits::default() });
    let mut client = server.http2().await;
    let stalled = client.get("/endless").await.unwrap();
    let mut quiet = client.get("/quiet").await.unwrap();
    assert_eq!(in_time(quiet.body_mut().frame()).await.unwrap().unwrap().into_data().unwrap(), "event");
    until(|| server.spine.noted("body dropped")).await;
    assert_eq!(server.metrics.cut_stalled.get(), 1);
    assert!(collect(stalled).await.is_err());
    // An event stream that has nothing to say is not stalled.
    let more = tokio::time::timeout(Duration::from_millis(400), quiet.body_mut().frame()).await;
    assert!(more.is_err(), "{more:?}");
    assert_eq!(client.get("/head").await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_idle_http2_connection_gets_goaway() {
    let server = Server::start(Limits { idle_timeout: Duration::from_millis(100), ..Limits::default() });
    let mut client = server.http2().await;
    assert_eq!(client.get("/head").await.unwrap().status(), 200);
    until(|| client.send.is_closed()).await;
    until(|| server.metrics.http2.open.get() == 0).await;
    assert_eq!(server.metrics.closed_idle.get(), 1);
}

/// Opens an extended CONNECT (RFC 8441).
async fn extended_connect(client: &mut Http2, path: &str) -> TokioIo<hyper::upgrade::Upgraded> {
    // The client must have seen the server's settings.
    client.get("/head").await.unwrap();
    let mut request =
        Request::builder().method(Method::CONNECT).uri(format!("https://a.example{path}")).body(empty()).unwrap();
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    let response = client.request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    TokioIo::new(in_time(hyper::upgrade::on(response)).await.unwrap())
}

#[tokio::test]
async fn extended_connect_becomes_two_byte_streams() {
    let server = Server::start(Limits::default());
    let mut client = server.http2().await;
    let mut stream = extended_connect(&mut client, "/ws").await;
    for word in ["hello", "again"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut back = [0; 5];
        in_time(stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(back, word.as_bytes());
    }
    stream.write_all(b"last words").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    in_time(stream.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "last words");
    assert!(server.spine.notes.lock().is_empty());
    assert_eq!(client.get("/head").await.unwrap().status(), 200);
    assert_eq!(server.metrics.http2.resets.get(), 0);
}

/// An extended CONNECT of the bare h2 crate, which shows and sends resets as they are; `shutdown` forces the connection.
async fn bare_extended_connect(
    server: &Server,
    path: &str,
    shutdown: &Shutdown,
) -> (h2::SendStream<Bytes>, h2::RecvStream) {
    let tls = in_time(server.connect(b"h2")).await.unwrap();
    let (mut client, mut connection) = h2::client::handshake(tls).await.unwrap();
    in_time(poll_fn(|cx| {
        assert!(Pin::new(&mut connection).poll(cx).is_pending());
        if client.is_extended_connect_protocol_enabled() { Poll::Ready(()) } else { Poll::Pending }
    }))
    .await;
    Tasks::new(shutdown.clone()).spawn(async move { drop(connection.await) });
    let uri = format!("https://a.example{path}");
    let mut request = Request::builder().method(Method::CONNECT).uri(uri).body(()).unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let (response, send) = client.send_request(request, false).unwrap();
    let response = in_time(response).await.unwrap();
    assert_eq!(response.status(), 200);
    (send, response.into_body())
}

#[tokio::test]
async fn an_extended_connect_that_the_client_resets_or_loses_does_not_look_ended() {
    let server = Server::start(Limits::default());
    for reset in [Some(h2::Reason::CANCEL), Some(h2::Reason::NO_ERROR), Some(h2::Reason::INTERNAL_ERROR), None] {
        let shutdown = Shutdown::default();
        let (mut send, _recv) = bare_extended_connect(&server, "/ws-sink", &shutdown).await;
        match reset {
            Some(reason) => send.send_reset(reason),
            None => shutdown.start_force(),
        }
        until(|| server.spine.noted("cut client_gone")).await;
        server.spine.notes.lock().clear();
    }
}

#[tokio::test]
async fn an_extended_connect_cut_by_the_upstream_is_reset() {
    let server = Server::start(Limits::default());
    let (_send, mut recv) = bare_extended_connect(&server, "/ws-cut", &Shutdown::default()).await;
    assert_eq!(in_time(recv.data()).await.unwrap().unwrap(), "event");
    server.spine.cut.notify_one();
    let end = in_time(recv.data()).await; // not a clean end
    let reset = matches!(&end, Some(Err(error)) if error.is_reset() && error.reason() == Some(h2::Reason::CANCEL));
    assert!(reset, "{end:?}");
}

#[tokio::test]
async fn plain_connect_over_http2_is_not_implemented() {
    let server = Server::start(Limits::default());
    let mut client = server.http2().await;
    let request = Request::builder().method(Method::CONNECT).uri("a.example:443").body(empty()).unwrap();
    assert_eq!(client.request(request).await.unwrap().status(), 501);
    assert_eq!(client.get("/head").await.unwrap().status(), 200);
}

// ---- Ends ----

#[tokio::test]
async fn drain_closes_idle_connections_finishes_busy_ones_and_takes_no_more() {
    let server = Server::start(Limits::default());
    let mut idle = server.http1().await;
    let mut busy = server.http1().await;
    let mut client = server.http2().await;
    busy.write_all(b"POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n01").await.unwrap();
    let (feed, mut frames) = mpsc::channel(1);
    let body = PollBody(move |cx: &mut Context<'_>| frames.poll_recv(cx)).boxed_unsync();
    let request = Request::post("https://a.example/echo").body(body).unwrap();
    let response = client.request(request).await.unwrap();
    until(|| server.metrics.http1.open.get() == 2).await;

    server.shutdown.start_drain();
    assert!(read_to_end(&mut idle).await.clean);
    // GOAWAY leaves room for requests that crossed it; then there are no more.
    in_time(async { while client.get("/head").await.is_ok() {} }).await;
    assert!(in_time(server.connect(b"http/1.1")).await.is_err());

    busy.write_all(b"234").await.unwrap();
    let answer = read_to_end(&mut busy).await;
    assert!(answer.clean && answer.text.contains("connection: close\r\n"), "{answer:?}");
    assert!(answer.text.ends_with("complete 5"), "{answer:?}");
    feed.send(Ok(Frame::data(Bytes::from_static(b"late")))).await.unwrap();
    drop(feed);
    assert_eq!(collect(response).await.unwrap(), "late");
    in_time(server.tasks.wait()).await;
}

#[tokio::test]
async fn force_cuts_what_is_left() {
    let server = Server::start(Limits::default());
    let mut tls = server.http1().await;
    tls.write_all(b"GET /quiet HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_until(&mut tls, "event").await;
    let (_send, mut recv) = bare_extended_connect(&server, "/ws-sink", &Shutdown::default()).await;
    server.shutdown.start_force();
    assert!(!read_to_end(&mut tls).await.clean);
    let end = in_time(recv.data()).await;
    assert!(matches!(end, Some(Err(_))), "{end:?}");
    in_time(server.tasks.wait()).await;
}
