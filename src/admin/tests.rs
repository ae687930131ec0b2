//! The admin listener over real sockets.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::config::AdminListen;
use crate::observe::metrics;

struct Running {
    address: SocketAddr,
    readiness: Readiness,
    shutdown: Shutdown,
}

fn admin(shutdown: &Shutdown) -> Admin {
    let mut registry = metrics::registry("edge");
    let readiness = Readiness::new(shutdown.clone(), &["no_tunnel"]);
    readiness.register(&mut registry);
    Admin {
        registry,
        readiness,
        status: Box::new(|| json!({ "tunnels": 2 })),
        shutdown: shutdown.clone(),
        commands: vec![(
            "/links/close",
            Box::new(|query: &str| {
                let query = query.to_owned();
                Box::pin(
                    async move { if query == "none" { Err("no link".into()) } else { Ok(json!({ "closed": 1 })) } },
                )
            }),
        )],
    }
}

async fn running() -> Running {
    let shutdown = Shutdown::default();
    let admin = admin(&shutdown);
    let socket = AdminSocket::bind(&AdminListen::Tcp("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let (address, readiness) = (socket.address().parse().unwrap(), admin.readiness.clone());
    start(socket, admin, &Tasks::new(shutdown.clone()));
    Running { address, readiness, shutdown }
}

/// All that comes back until the connection closes.
async fn exchange(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

impl Running {
    async fn ask(&self, method: &str, path: &str, fields: &str) -> String {
        let stream = TcpStream::connect(self.address).await.unwrap();
        exchange(stream, &format!("{method} {path} HTTP/1.1\r\nhost: admin\r\n{fields}\r\n")).await
    }
}

fn status(answer: &str) -> &str {
    answer.split_ascii_whitespace().nth(1).unwrap()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// Checks the text as a scraper would: families with a type before their samples, samples with a number, an end mark.
fn assert_openmetrics(text: &str) {
    let mut families = Vec::new();
    for line in text.strip_suffix("# EOF\n").unwrap().lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            families.push(family.split_once(' ').unwrap().0);
        } else if !line.starts_with('#') {
            let (series, number) = line.rsplit_once(' ').unwrap();
            number.parse::<f64>().unwrap();
            let name = series.split('{').next().unwrap();
            assert!(families.iter().any(|family| name.starts_with(family)), "{line}");
        }
    }
    assert!(families.len() > 5, "{families:?}");
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let running = running().await;
    let answer = running.ask("GET", "/metrics", "").await;
    assert_eq!(status(&answer), "200");
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert_openmetrics(body(&answer));
    assert!(body(&answer).contains("\ntrunkline_process_ready 0\n"));
}

#[tokio::test]
async fn alive_and_ready_are_different_questions() {
    let running = running().await;
    assert_eq!(status(&running.ask("GET", "/healthz", "").await), "200");
    let answer = running.ask("GET", "/readyz", "").await;
    assert_eq!(status(&answer), "503");
    assert_eq!(body(&answer), "{\"ready\":false,\"reasons\":[\"no_tunnel\"]}\n");
    running.readiness.set("no_tunnel", false);
    let answer = running.ask("GET", "/readyz", "").await;
    assert_eq!((status(&answer), body(&answer)), ("200", "{\"ready\":true,\"reasons\":[]}\n"));
    assert!(running.ask("GET", "/metrics", "").await.contains("\ntrunkline_process_ready 1\n"));
}

#[tokio::test]
async fn a_posted_drain_drains_and_can_be_watched() {
    let running = running().await;
    running.readiness.set("no_tunnel", false);
    assert_eq!(status(&running.ask("POST", "/drain", "content-length: 5\r\n").await), "202");
    assert!(running.shutdown.is_draining() && !running.shutdown.is_forced());
    let answer = running.ask("GET", "/readyz", "").await;
    assert_eq!(body(&answer), "{\"ready\":false,\"reasons\":[\"draining\"]}\n");
}

#[tokio::test]
async fn a_web_page_cannot_drain() {
    let running = running().await;
    let answer = running.ask("POST", "/drain", "origin: https://evil.example\r\ncontent-length: 0\r\n").await;
    assert_eq!(status(&answer), "403");
    assert!(!running.shutdown.is_draining());
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_apart() {
    let running = running().await;
    for path in ["/", "/metrics/", "/READYZ", "/drain/now"] {
        assert_eq!(status(&running.ask("GET", path, "").await), "404", "{path}");
    }
    for (method, path, allow) in [
        ("GET", "/drain", "allow: POST\r\n"),
        ("POST", "/metrics", "allow: GET, HEAD\r\n"),
        ("DELETE", "/status", "allow: GET, HEAD\r\n"),
    ] {
        let answer = running.ask(method, path, "").await;
        assert_eq!(status(&answer), "405", "{method} {path}");
        assert!(answer.contains(allow), "{answer}");
    }
    assert!(!running.shutdown.is_draining());
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let answer = running().await.ask("HEAD", "/status", "").await;
    assert_eq!((status(&answer), body(&answer)), ("200", ""));
    assert!(answer.contains("content-length: 14\r\n"), "{answer}");
}

#[tokio::test]
async fn status_is_what_the_process_says() {
    let answer = running().await.ask("GET", "/status?pretty", "").await;
    assert_eq!((status(&answer), body(&answer)), ("200", "{\"tunnels\":2}\n"));
}

#[tokio::test]
async fn a_command_of_the_binary_is_run_by_post_alone_and_not_by_web_pages() {
    let running = running().await;
    let answer = running.ask("POST", "/links/close", "").await;
    assert_eq!((status(&answer), body(&answer)), ("202", "{\"closed\":1}\n"));
    let refused = running.ask("POST", "/links/close?none", "").await;
    assert_eq!((status(&refused), body(&refused)), ("409", "{\"error\":\"no link\"}\n"));
    assert_eq!(status(&running.ask("GET", "/links/close", "").await), "405");
    assert_eq!(status(&running.ask("POST", "/links/close", "origin: https://evil.test\r\n").await), "403");
    assert_eq!(status(&running.ask("POST", "/links", "").await), "404");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let answer = running().await.ask("GET", "/healthz", &format!("x: {}\r\n", "y".repeat(HEAD_MAX))).await;
    assert_eq!(status(&answer), "431");
}

#[tokio::test]
async fn connections_above_the_cap_are_closed_and_the_rest_lives() {
    let running = running().await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
        held.push(stream);
    }
    let mut surplus = TcpStream::connect(running.address).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(4), surplus.read_to_end(&mut answer)).await;
    assert!(read.is_ok() && answer.is_empty(), "closed before any header timeout, without an answer");
    let answer = exchange(held.pop().unwrap(), "host: admin\r\n\r\n").await;
    assert_eq!(status(&answer), "200");
}

#[tokio::test]
async fn a_unix_socket_serves_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let shutdown = Shutdown::default();
    let socket = AdminSocket::bind(&AdminListen::Unix(path.clone())).await.unwrap();
    let tasks = Tasks::new(shutdown.clone());
    start(socket, admin(&shutdown), &tasks);
    let stream = UnixStream::connect(&path).await.unwrap();
    let answer = exchange(stream, "GET /healthz HTTP/1.1\r\nhost: admin\r\n\r\n").await;
    assert_eq!((status(&answer), body(&answer)), ("200", "ok\n"));
    shutdown.start_force();
    tasks.wait().await;
    assert!(!path.exists(), "force removes the socket");
}
