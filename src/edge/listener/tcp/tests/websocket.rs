//! WebSockets over HTTP/1.1 (RFC 6455).

use super::*;

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
