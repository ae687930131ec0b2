//! The upstream through real sockets, with hyper as the client over HTTP/1.1 and HTTP/2.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::Message;

use super::body::{AnyBody, BodyError};
use super::*;
use crate::task::Shutdown;

const DEADLINE: Duration = Duration::from_secs(10);

struct Running {
    addr: SocketAddr,
    tasks: Tasks,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.shutdown().start_force();
    }
}

async fn start(root: Option<&Path>) -> Running {
    let listen = Listen::Tcp(([127, 0, 0, 1], 0).into());
    let upstream = Upstream::bind(UpstreamConfig { listen, root: root.map(Into::into) }).await.expect("bind");
    let Listen::Tcp(addr) = upstream.addr else { panic!("a TCP upstream has a TCP address") };
    let tasks = Tasks::new(Shutdown::default());
    tasks.spawn(upstream.run(tasks.clone()));
    Running { addr, tasks }
}

#[derive(Clone, Copy, Debug)]
enum Version {
    Http1,
    Http2,
}

impl Running {
    /// One request on its own connection.
    async fn send(&self, version: Version, request: Request<AnyBody>) -> Response<Incoming> {
        let io = TokioIo::new(TcpStream::connect(self.addr).await.expect("connect"));
        match version {
            Version::Http1 => {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("handshake");
                self.tasks.spawn(async move { drop(connection.with_upgrades().await) });
                sender.send_request(request).await.expect("response")
            }
            Version::Http2 => {
                let executor = hyper_util::rt::TokioExecutor::new();
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(executor, io).await.expect("handshake");
                self.tasks.spawn(async move { drop(connection.await) });
                let response = sender.send_request(request).await.expect("response");
                // Without a sender the connection would close before the body came.
                self.tasks.spawn(async move {
                    std::future::pending::<()>().await;
                    drop(sender);
                });
                response
            }
        }
    }

    async fn get(&self, version: Version, path: &str) -> (StatusCode, HeaderMap, Bytes) {
        self.fetch(version, self.request(Method::GET, path)).await
    }

    async fn fetch(&self, version: Version, request: Request<AnyBody>) -> (StatusCode, HeaderMap, Bytes) {
        let (head, body) = self.send(version, request).await.into_parts();
        let body = tokio::time::timeout(DEADLINE, body.collect()).await.expect("in time").expect("body").to_bytes();
        (head.status, head.headers, body)
    }

    fn request(&self, method: Method, path: &str) -> Request<AnyBody> {
        let builder = Request::builder().method(method).uri(format!("http://{}{path}", self.addr));
        builder.header("host", self.addr.to_string()).body(super::body::empty()).expect("request")
    }

    /// The state of the only logged request whose path starts with `prefix`, once it is no longer open.
    async fn outcome(&self, prefix: &str) -> String {
        tokio::time::timeout(DEADLINE, async {
            loop {
                let (_, _, log) = self.get(Version::Http1, &format!("/log?prefix={prefix}")).await;
                let log: serde_json::Value = serde_json::from_slice(&log).expect("JSON");
                match log[0]["state"].as_str() {
                    Some("open") | None => tokio::task::yield_now().await,
                    Some(state) => return state.to_owned(),
                }
            }
        })
        .await
        .expect("the request ends in time")
    }
}

const BOTH: [Version; 2] = [Version::Http1, Version::Http2];

#[tokio::test]
async fn both_protocols_on_one_port_echo_the_same_request() {
    let server = start(None).await;
    for (version, name) in [(Version::Http1, "HTTP/1.1"), (Version::Http2, "HTTP/2.0")] {
        let mut request = server.request(Method::PUT, "/echo?a=b");
        request.headers_mut().insert("x-test", "1".parse().expect("value"));
        *request.body_mut() = super::body::full("hello");
        let (status, headers, body) = server.fetch(version, request).await;
        assert_eq!(status, 200);
        assert_eq!(headers["content-type"], "application/json");
        let echo: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(echo["method"], "PUT");
        assert!(echo["path"].as_str().expect("path").ends_with("/echo?a=b"), "{echo}");
        assert_eq!(echo["version"], name);
        assert_eq!(echo["body"], "hello");
        assert_eq!(echo["length"], 5);
        assert!(echo["headers"].as_array().expect("fields").contains(&serde_json::json!(["x-test", "1"])));
    }
}

#[tokio::test]
async fn echo_body_is_full_duplex_and_returns_trailers() {
    let server = start(None).await;
    for version in BOTH {
        let (pieces, queue) = tokio::sync::mpsc::channel::<Frame<Bytes>>(1);
        let body = futures_util::stream::unfold(queue, |mut queue| async move {
            queue.recv().await.map(|frame| (Ok::<_, BodyError>(frame), queue))
        });
        let mut request = server.request(Method::POST, "/echo/body");
        for (name, value) in [("te", "trailers"), ("trailer", "x-sum"), ("content-type", "text/x-test")] {
            request.headers_mut().insert(name, value.parse().expect("value"));
        }
        *request.body_mut() = StreamBody::new(body).boxed_unsync();
        let response = server.send(version, request).await;
        assert_eq!(response.headers()["content-type"], "text/x-test");
        let mut body = response.into_body();
        for n in 0..3 {
            let piece = Bytes::from(format!("piece {n}"));
            pieces.send(Frame::data(piece.clone())).await.expect("the body is read");
            let frame = body.frame().await.expect("frame").expect("no error");
            assert_eq!(frame.into_data().expect("data"), piece, "{version:?}");
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "42".parse().expect("value"));
        pieces.send(Frame::trailers(trailers.clone())).await.expect("the body is read");
        drop(pieces);
        let frame = body.frame().await.expect("frame").expect("no error");
        assert_eq!(frame.into_trailers().expect("trailers"), trailers, "{version:?}");
    }
}

#[tokio::test]
async fn bytes_are_the_pattern_and_ranges_are_parts_of_it() {
    let server = start(None).await;
    let mut pattern = vec![0; 300_000];
    pattern_fill(0, &mut pattern);
    for version in BOTH {
        let (status, headers, body) = server.get(version, "/bytes/300000").await;
        assert_eq!((status, headers["content-length"].to_str().expect("text")), (StatusCode::OK, "300000"));
        assert_eq!(body, pattern);
        let mut request = server.request(Method::GET, "/bytes/300000");
        request.headers_mut().insert("range", "bytes=100001-200000".parse().expect("value"));
        request.headers_mut().insert("if-range", headers["etag"].clone());
        let (status, headers, body) = server.fetch(version, request).await;
        assert_eq!(status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(headers["content-range"], "bytes 100001-200000/300000");
        assert_eq!(body, pattern[100_001..=200_000]);
        let (status, headers, body) = server.fetch(version, server.request(Method::HEAD, "/bytes/5000000000")).await;
        assert_eq!((status, body.len()), (StatusCode::OK, 0));
        assert_eq!(headers["content-length"], "5000000000");
    }
}

#[tokio::test]
async fn a_hash_is_that_of_the_uploaded_bytes() {
    let server = start(None).await;
    let mut pattern = vec![0; 1 << 20];
    pattern_fill(0, &mut pattern);
    let mut expected = Sha256::new();
    expected.update(&pattern);
    let expected = expected.finish();
    for version in BOTH {
        let mut request = server.request(Method::POST, "/hash");
        *request.body_mut() = super::body::full(pattern.clone());
        let (_, _, body) = server.fetch(version, request).await;
        let answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(answer, serde_json::json!({ "length": 1 << 20, "sha256": expected }));
    }
}

#[tokio::test]
async fn files_come_with_validators_ranges_and_no_way_out() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("index.html"), "<p>home</p>").expect("write");
    std::fs::create_dir(folder.path().join("sub")).expect("folder");
    std::fs::write(folder.path().join("sub/a.txt"), "0123456789").expect("write");
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("leak")).expect("link");
    let server = start(Some(folder.path())).await;
    let (_, headers, body) = server.get(Version::Http1, "/").await;
    assert_eq!((headers["content-type"].to_str().expect("text"), &body[..]), ("text/html", &b"<p>home</p>"[..]));
    let (status, headers, body) = server.get(Version::Http2, "/sub/a.txt").await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"0123456789"[..]));
    assert!(headers.contains_key("last-modified") && headers["etag"].as_bytes().starts_with(b"\""));
    let mut request = server.request(Method::GET, "/sub/a.txt");
    request.headers_mut().insert("if-none-match", headers["etag"].clone());
    assert_eq!(server.fetch(Version::Http1, request).await.0, StatusCode::NOT_MODIFIED);
    let mut request = server.request(Method::GET, "/sub/a.txt");
    request.headers_mut().insert("range", "bytes=-3".parse().expect("value"));
    let (status, _, body) = server.fetch(Version::Http1, request).await;
    assert_eq!((status, &body[..]), (StatusCode::PARTIAL_CONTENT, &b"789"[..]));
    let (status, headers, _) = server.get(Version::Http1, "/sub?x=1").await;
    assert_eq!((status, headers["location"].to_str().expect("text")), (StatusCode::PERMANENT_REDIRECT, "/sub/?x=1"));
    for path in ["/leak", "/sub/%2e%2e/%2e%2e/etc/passwd", "/nothing", "/sub/"] {
        assert_eq!(server.get(Version::Http1, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let refused = server.fetch(Version::Http1, server.request(Method::DELETE, "/sub/a.txt")).await;
    assert_eq!(refused.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn an_aborted_body_is_an_error_and_never_a_short_success() {
    let server = start(None).await;
    for version in BOTH {
        for path in ["/abort?after=100000", "/abort?after=100000&length=200000"] {
            let response = server.send(version, server.request(Method::GET, path)).await;
            assert_eq!(response.status(), 200);
            assert!(response.into_body().collect().await.is_err(), "{version:?} {path}");
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_away_is_logged_as_cancelled() {
    let server = start(None).await;
    for (version, path) in [(Version::Http1, "/slow?delay=0&chunks=100000"), (Version::Http2, "/sse?interval=10")] {
        let response = server.send(version, server.request(Method::GET, path)).await;
        let mut body = response.into_body();
        body.frame().await.expect("frame").expect("no error");
        drop(body);
        assert_eq!(server.outcome(path.split('?').next().expect("path")).await, "cancelled");
    }
    server.get(Version::Http1, "/bytes/10").await;
    assert_eq!(server.outcome("/bytes").await, "finished");
}

#[tokio::test]
async fn executions_are_counted_by_key_and_a_report_is_no_execution() {
    let server = start(None).await;
    for (method, total) in [(Method::POST, 1), (Method::POST, 2), (Method::GET, 3)] {
        let mut request = server.request(method, "/count?key=k");
        *request.body_mut() = super::body::full("x");
        let (_, _, body) = server.fetch(Version::Http1, request).await;
        let count: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((&count["started"], &count["finished"]), (&total.into(), &total.into()));
    }
    let (_, _, body) = server.get(Version::Http2, "/count?key=k&report").await;
    let count: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(count["methods"], serde_json::json!({ "GET": 1, "POST": 2 }));
}

#[tokio::test]
async fn statuses_trailers_and_fields_are_as_asked() {
    let server = start(None).await;
    for version in BOTH {
        for code in [204, 304, 404, 418, 503] {
            let (status, _, body) = server.get(version, &format!("/status/{code}")).await;
            assert_eq!(status, code);
            assert_eq!(body.is_empty(), matches!(code, 204 | 304), "{code}");
        }
        assert_eq!(server.get(version, "/status/101").await.0, 404);
        let mut request = server.request(Method::GET, "/trailers");
        request.headers_mut().insert("te", "trailers".parse().expect("value"));
        let collected = server.send(version, request).await.into_body().collect().await.expect("body");
        assert_eq!(collected.trailers().expect("trailers")["x-checksum"], "abc123", "{version:?}");
        let (_, headers, _) = server.get(version, "/fields?count=50&size=100").await;
        assert_eq!(headers["x-field-49"].len(), 100);
        assert_eq!(server.fetch(version, server.request(Method::OPTIONS, "/")).await.0, 204);
    }
}

/// The next response head on a raw connection.
async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(DEADLINE, socket.read_u8()).await.expect("in time").expect("byte"));
    }
    String::from_utf8(head).expect("text")
}

#[tokio::test]
async fn a_hint_leaves_long_before_the_final_head_and_connections_are_reused() {
    let server = start(None).await;
    let mut socket = TcpStream::connect(server.addr).await.expect("connect");
    for _ in 0..2 {
        socket.write_all(b"GET /early-hints HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
        assert!(read_head(&mut socket).await.starts_with("HTTP/1.1 103 Early Hints\r\nlink: "));
        assert!(read_head(&mut socket).await.starts_with("HTTP/1.1 200 OK\r\n"));
        let mut body = [0; 7];
        socket.read_exact(&mut body).await.expect("body");
        assert_eq!(&body, b"hinted\n");
    }
    socket.write_all(b"GET /early-hints?delay=60000 HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    assert!(read_head(&mut socket).await.starts_with("HTTP/1.1 103 "));
}

#[tokio::test]
async fn a_websocket_echoes_messages_and_closes_in_order() {
    let server = start(None).await;
    let stream = TcpStream::connect(server.addr).await.expect("connect");
    let (mut socket, response) = tokio_tungstenite::client_async("ws://upstream/ws", stream).await.expect("handshake");
    assert_eq!(response.status(), 101);
    for message in [Message::text("hello"), Message::binary(vec![7; 100_000])] {
        socket.send(message.clone()).await.expect("send");
        assert_eq!(socket.next().await.expect("message").expect("no error"), message);
    }
    socket.close(None).await.expect("close");
    while let Some(message) = socket.next().await {
        assert!(message.expect("no error").is_close());
    }
    assert_eq!(server.outcome("/ws").await, "finished");
    assert_eq!(server.get(Version::Http1, "/ws").await.0, StatusCode::UPGRADE_REQUIRED);
}

#[tokio::test]
async fn a_unix_socket_is_served_and_a_stale_one_replaced() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("upstream.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("stale socket"));
    let config = UpstreamConfig { listen: Listen::Unix(path.clone()), root: None };
    let upstream = Upstream::bind(config.clone()).await.expect("bind");
    assert_eq!(upstream.url(), format!("unix:{}", path.display()));
    assert!(Upstream::bind(config).await.is_err(), "a living socket is not replaced");
    let tasks = Tasks::new(Shutdown::default());
    tasks.spawn(upstream.run(tasks.clone()));
    let io = TokioIo::new(UnixStream::connect(&path).await.expect("connect"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("handshake");
    tasks.spawn(async move { drop(connection.await) });
    let request = Request::get("/bytes/3").header("host", "x").body(Empty::<Bytes>::new()).expect("request");
    let body = sender.send_request(request).await.expect("response").into_body().collect().await.expect("body");
    assert_eq!(body.to_bytes().len(), 3);
    tasks.shutdown().start_force();
}

#[tokio::test]
async fn drain_finishes_what_runs_and_then_ends() {
    let server = start(None).await;
    let response =
        server.send(Version::Http1, server.request(Method::GET, "/slow?delay=0&chunks=5&chunk=10&interval=20")).await;
    server.tasks.shutdown().start_drain();
    let body = response.into_body().collect().await.expect("whole body").to_bytes();
    assert_eq!(body.len(), 50);
    tokio::time::timeout(DEADLINE, server.tasks.wait()).await.expect("all tasks end");
    assert!(TcpStream::connect(server.addr).await.is_err(), "the listener is closed");
}
