//! Half-close: after a switch to WebSocket each direction ends by itself, and only its own end is one.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::chain::scripted::read_head;
use crate::chain::{Chain, HOST, Setup, in_time};
use crate::client::tls;

/// A client over HTTP/1.1 and an upstream, switched to plain bytes.
struct Switched {
    client: TlsStream<TcpStream>,
    upstream: TcpStream,
    _chain: Chain,
}

impl Switched {
    async fn new() -> Self {
        let (url, upstream) = switching().await;
        let chain = Chain::with(Setup { upstreams: vec![url], ..Setup::default() }).await;
        let mut client = tls::connect(&chain.site_ca(), chain.http2(0), b"http/1.1").await.expect("connect");
        let request = format!(
            "GET /chat HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await.expect("write");
        let head = in_time("the switch", read_head(&mut client)).await.expect("a head");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self { client, upstream: upstream.await.expect("the upstream switched"), _chain: chain }
    }
}

/// An upstream that switches once and hands the socket over; until then it answers the chain's probes.
async fn switching() -> (String, JoinHandle<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    #[expect(clippy::disallowed_methods, reason = "its owner is the test, which joins it")]
    let switched = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let Some(head) = read_head(&mut stream).await else { continue };
            let key = head.lines().filter_map(|line| line.split_once(": "));
            let Some((_, key)) = key.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
            else {
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
                continue;
            };
            let accept = derive_accept_key(key.as_bytes());
            let fields = format!("connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}");
            let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.expect("write");
            return stream;
        }
    });
    (url, switched)
}

#[tokio::test]
async fn a_client_that_ends_its_half_still_hears_the_other() {
    let Switched { mut client, mut upstream, _chain } = Switched::new().await;
    client.write_all(b"all that I have").await.expect("write");
    // close_notify: the end of this direction (RFC 8446 section 6.1).
    client.shutdown().await.expect("shutdown");
    let mut heard = Vec::new();
    in_time("the client's end", upstream.read_to_end(&mut heard)).await.expect("an orderly end");
    assert_eq!(heard, b"all that I have");
    for _ in 0..20 {
        upstream.write_all(&[b'u'; 10_000]).await.expect("the other half lives");
    }
    upstream.shutdown().await.expect("shutdown");
    let mut heard = Vec::new();
    in_time("the upstream's end", client.read_to_end(&mut heard)).await.expect("an orderly end");
    assert_eq!(heard.len(), 200_000);
}

#[tokio::test]
async fn an_upstream_that_ends_its_half_still_hears_the_other() {
    let Switched { mut client, mut upstream, _chain } = Switched::new().await;
    upstream.write_all(b"bye").await.expect("write");
    upstream.shutdown().await.expect("shutdown");
    let mut heard = Vec::new();
    in_time("the upstream's end", client.read_to_end(&mut heard)).await.expect("an orderly end");
    assert_eq!(heard, b"bye");
    for _ in 0..20 {
        client.write_all(&[b'c'; 10_000]).await.expect("the other half lives");
    }
    client.shutdown().await.expect("shutdown");
    let mut heard = Vec::new();
    in_time("the client's end", upstream.read_to_end(&mut heard)).await.expect("an orderly end");
    assert_eq!(heard.len(), 200_000);
}

#[tokio::test]
async fn an_upstream_that_breaks_is_no_end_for_the_client() {
    let Switched { mut client, mut upstream, _chain } = Switched::new().await;
    upstream.write_all(b"half a mess").await.expect("write");
    let mut heard = [0; 11];
    in_time("the bytes", client.read_exact(&mut heard)).await.expect("bytes");
    socket2::SockRef::from(&upstream).set_linger(Some(std::time::Duration::ZERO)).expect("linger");
    drop(upstream);
    let end = in_time("the break", client.read_to_end(&mut Vec::new())).await;
    // Without close_notify the end of the connection is an error to TLS.
    assert!(end.is_err(), "a broken upstream looks like an orderly end: {end:?}");
}

#[tokio::test]
async fn a_client_that_breaks_is_no_end_for_the_upstream() {
    let Switched { mut client, mut upstream, _chain } = Switched::new().await;
    client.write_all(b"half a mess").await.expect("write");
    let mut heard = [0; 11];
    in_time("the bytes", upstream.read_exact(&mut heard)).await.expect("bytes");
    drop(client);
    let end = in_time("the break", upstream.read_to_end(&mut Vec::new())).await;
    assert!(end.is_err(), "a broken client looks like an orderly end: {end:?}");
}
