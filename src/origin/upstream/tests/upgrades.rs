use super::*;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

fn websocket() -> RequestHead {
    let mut head = with(head(Method::CONNECT, "/chat"), "sec-websocket-protocol", "v1");
    head.protocol = Some(Bytes::from_static(b"websocket"));
    // A client's own key goes no further than its listener; one that does all the same is replaced.
    with(head, "sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==")
}

fn accept_of(head: &str) -> String {
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    assert_ne!(key, "AAAAAAAAAAAAAAAAAAAAAA==");
    derive_accept_key(key.as_bytes())
}

async fn accept(peer: &mut Peer) {
    let head = peer.head().await.unwrap();
    assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
    for line in ["upgrade: websocket\r\n", "connection: upgrade\r\n", "sec-websocket-version: 13\r\n"] {
        assert!(head.contains(line), "{line:?} in {head}");
    }
    let accept = accept_of(&head);
    peer.write(&format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: v1\r\n\r\nfirst"
    ))
    .await;
}

async fn next(body: &mut UpstreamBody) -> Option<Result<Bytes, Fault>> {
    soon(body.frame()).await.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
}

#[tokio::test]
async fn an_upgrade_becomes_two_byte_streams_and_each_ends_by_itself() {
    let address = scripted(|_, mut peer| async move {
        accept(&mut peer).await;
        let mut received = Vec::new();
        peer.stream.read_to_end(&mut received).await.unwrap();
        // The client's direction has ended; ours goes on.
        peer.stream.write_all(&received).await.unwrap();
        peer.stream.shutdown().await.unwrap();
    })
    .await;
    let rig = Rig::http1(address);
    let (feed, body) = fed();
    let mut response = rig.send(websocket(), body).await.unwrap();
    assert_eq!(response.head.status, StatusCode::OK);
    let mut names: Vec<_> = response.head.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["sec-websocket-protocol"]);
    assert_eq!(next(&mut response.body).await.unwrap().unwrap(), "first", "bytes beside the head are not lost");
    feed.send(data("hello ")).await.unwrap();
    feed.send(data("there")).await.unwrap();
    drop(feed);
    assert_eq!(text(response.body).await.unwrap(), "hello there");
    until(|| rig.pool().open() == 0).await;
    assert_eq!(rig.metrics().upgrades.get(), 1);
}

#[tokio::test]
async fn an_upstream_that_ends_first_still_receives() {
    let (got, mut received) = mpsc::channel(1);
    let address = scripted(move |_, mut peer| {
        let got = got.clone();
        async move {
            accept(&mut peer).await;
            peer.stream.shutdown().await.unwrap();
            let mut rest = String::new();
            peer.stream.read_to_string(&mut rest).await.unwrap();
            got.send(rest).await.unwrap();
        }
    })
    .await;
    let rig = Rig::http1(address);
    let (feed, body) = fed();
    let response = rig.send(websocket(), body).await.unwrap();
    assert_eq!(text(response.body).await.unwrap(), "first");
    feed.send(data("late words")).await.unwrap();
    drop(feed);
    assert_eq!(soon(received.recv()).await.unwrap(), "late words");
}

#[tokio::test]
async fn a_direction_that_breaks_resets_the_upstream_connection() {
    let (got, mut results) = mpsc::channel(2);
    let address = scripted(move |_, mut peer| {
        let got = got.clone();
        async move {
            accept(&mut peer).await;
            let mut sink = Vec::new();
            got.send(peer.stream.read_to_end(&mut sink).await.map_err(|error| error.kind())).await.unwrap();
        }
    })
    .await;
    let rig = Rig::http1(address);
    // The client breaks.
    let (feed, body) = fed();
    let response = rig.send(websocket(), body).await.unwrap();
    feed.send(Err(Fault::client_gone(Stage::Tunnel))).await.unwrap();
    assert_eq!(fault(response.body).await.kind, Kind::ConnectionTerminated);
    assert_eq!(soon(results.recv()).await.unwrap(), Err(std::io::ErrorKind::ConnectionReset));
    // Nobody wants the response any more.
    let (feed, body) = fed();
    let response = rig.send(websocket(), body).await.unwrap();
    drop(response);
    assert_eq!(soon(results.recv()).await.unwrap(), Err(std::io::ErrorKind::ConnectionReset));
    soon(feed.closed()).await;
    until(|| rig.pool().open() == 0).await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_response() {
    let (address, _) = answering("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
    let rig = Rig::http1(address);
    for _ in 0..2 {
        let response = rig.send(websocket(), none()).await.unwrap();
        assert_eq!(response.head.status, StatusCode::FORBIDDEN);
        assert_eq!(text(response.body).await.unwrap(), "no");
    }
}

#[tokio::test]
async fn a_switch_without_proof_or_to_something_else_fails() {
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    ];
    for answer in answers {
        let (address, counts) = answering(answer).await;
        let fault = Rig::http1(address).send(websocket(), none()).await.err().unwrap();
        assert_eq!((fault.kind, fault.retry), (Kind::UpgradeFailed, Retry::Never), "{answer}");
        until(|| counts.closed() == 1).await;
    }
}

#[tokio::test]
async fn other_protocols_need_only_their_name() {
    let address = scripted(|_, mut peer| async move {
        let head = peer.head().await.unwrap();
        assert!(head.contains("upgrade: chat/2\r\n") && !head.contains("sec-websocket"), "{head}");
        peer.write("HTTP/1.1 101 Switching Protocols\r\nupgrade: chat/2\r\nconnection: upgrade\r\n\r\nhi").await;
    })
    .await;
    let mut head = head(Method::CONNECT, "/");
    head.protocol = Some(Bytes::from_static(b"chat/2"));
    let response = Rig::http1(address).send(head, none()).await.unwrap();
    assert_eq!(text(response.body).await.unwrap(), "hi");
}
