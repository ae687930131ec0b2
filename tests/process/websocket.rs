//! WebSocket to an HTTP/1.1 upstream, from each protocol's own kind of upgrade.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::chain::{Chain, HOST, in_time};
use crate::client::raw::{Raw, first_status, frame, section, take_varint};
use crate::client::{Client, Protocol, Queue, tls};

/// Talks on a socket that is open already: order, sizes, both directions, an orderly close.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) {
    let messages = [Message::text("hello"), Message::binary(vec![7; 300_000]), Message::text("")];
    for message in messages {
        socket.send(message.clone()).await.expect("send");
        let back = in_time("an echo", socket.next()).await.expect("a message").expect("no error");
        assert_eq!(back, message);
    }
    // Several under way at once keep their order.
    for n in 0..50 {
        socket.feed(Message::text(n.to_string())).await.expect("send");
    }
    socket.flush().await.expect("flush");
    for n in 0..50 {
        let back = in_time("an echo", socket.next()).await.expect("a message").expect("no error");
        assert_eq!(back, Message::text(n.to_string()));
    }
    socket.send(Message::Ping(Bytes::from_static(b"p"))).await.expect("send");
    let pong = in_time("a pong", socket.next()).await.expect("a message").expect("no error");
    assert_eq!(pong, Message::Pong(Bytes::from_static(b"p")));
    socket.close(None).await.expect("close");
    while let Some(message) = in_time("the close", socket.next()).await {
        assert!(message.expect("an orderly close").is_close());
    }
}

#[tokio::test]
async fn a_websocket_goes_through_from_http1() {
    let chain = Chain::start().await;
    let stream = tls::connect(&chain.site_ca(), chain.http2(0), b"http/1.1").await.expect("connect");
    let mut request = tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(format!(
        "wss://{HOST}:{}/ws",
        chain.http2(0).port()
    ))
    .expect("request");
    request.headers_mut().insert("sec-websocket-protocol", "chat".parse().expect("value"));
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.expect("handshake");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["sec-websocket-protocol"]),
        (101, &"chat".parse().expect("value"))
    );
    converse(socket).await;
    chain.upstream.until("/ws", "finished").await;
}

#[tokio::test]
async fn a_websocket_goes_through_from_http2() {
    let chain = Chain::start().await;
    let mut client = Client::connect(&chain, Protocol::Http2).await;
    // The server's settings allow extended CONNECT; after an answer they have surely arrived.
    client.get("/status/204").await;
    let mut request = Request::connect(format!("https://{HOST}/ws")).header("sec-websocket-version", "13");
    request = request.extension(hyper::ext::Protocol::from_static("websocket"));
    let request = request.body(Queue::ended()).expect("request");
    let response = in_time("the handshake", client.as_http2().send_request(request)).await.expect("response");
    assert_eq!(response.status(), 200);
    let io = TokioIo::new(hyper::upgrade::on(response).await.expect("upgrade"));
    converse(WebSocketStream::from_raw_socket(io, Role::Client, None).await).await;
    chain.upstream.until("/ws", "finished").await;
}

#[tokio::test]
async fn a_websocket_goes_through_from_http3() {
    let chain = Chain::start().await;
    let raw = Raw::connect(&chain).await;
    let (status, io, mut pumps) = extended_connect(&raw, "/ws").await;
    assert_eq!(status, 200);
    converse(WebSocketStream::from_raw_socket(io, Role::Client, None).await).await;
    chain.upstream.until("/ws", "finished").await;
    pumps.abort_all();
}

#[tokio::test]
async fn an_upstream_that_does_not_upgrade_answers_the_client() {
    let chain = Chain::start().await;
    let raw = Raw::connect(&chain).await;
    let (status, _io, _pumps) = extended_connect(&raw, "/status/404").await;
    assert!((400..600).contains(&status), "{status}");
    let stream = tls::connect(&chain.site_ca(), chain.http2(0), b"http/1.1").await.expect("connect");
    let refused = tokio_tungstenite::client_async(format!("wss://{HOST}/status/404"), stream).await;
    assert!(refused.is_err(), "404 is no handshake");
}

#[tokio::test]
async fn a_client_that_vanishes_ends_the_websocket_at_the_upstream() {
    let chain = Chain::start().await;
    let raw = Raw::connect(&chain).await;
    let (status, _io, _pumps) = extended_connect(&raw, "/ws").await;
    assert_eq!(status, 200);
    chain.upstream.until("/ws", "open").await;
    raw.connection.close(0x100_u32.into(), b"");
    chain.upstream.until("/ws", "cancelled").await;
}

/// RFC 9220 by hand: the status, and the bytes of the tunnel as a stream.
async fn extended_connect(raw: &Raw, path: &str) -> (u16, DuplexStream, JoinSet<()>) {
    let (mut send, mut receive) = raw.open().await;
    let head = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", HOST),
        (":path", path),
        ("sec-websocket-version", "13"),
    ];
    send.write_all(&frame(1, &section(&head))).await.expect("write");
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut from_test, mut to_test) = tokio::io::split(far);
    let (kind, head) = in_time("a response head", read_frame(&mut receive)).await.expect("a frame");
    let status = first_status(&frame(kind, &head)).expect("a status");
    let mut pumps = JoinSet::new();
    pumps.spawn(async move {
        let mut piece = vec![0; 16 << 10];
        while let Ok(n @ 1..) = from_test.read(&mut piece).await {
            if send.write_all(&frame(0, &piece[..n])).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
    });
    pumps.spawn(async move {
        while let Some((kind, payload)) = read_frame(&mut receive).await {
            if kind == 0 && to_test.write_all(&payload).await.is_err() {
                return;
            }
        }
        let _ = to_test.shutdown().await;
    });
    (status, near, pumps)
}

async fn read_frame(stream: &mut quinn::RecvStream) -> Option<(u64, Vec<u8>)> {
    let kind = read_varint(stream).await?;
    let mut payload = vec![0; usize::try_from(read_varint(stream).await?).ok()?];
    stream.read_exact(&mut payload).await.ok()?;
    Some((kind, payload))
}

async fn read_varint(stream: &mut quinn::RecvStream) -> Option<u64> {
    let mut bytes = vec![stream.read_u8().await.ok()?];
    for _ in 1..1_usize << (bytes[0] >> 6) {
        bytes.push(stream.read_u8().await.ok()?);
    }
    take_varint(&mut bytes.as_slice())
}
