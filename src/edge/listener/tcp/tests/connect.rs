//! WebSockets over HTTP/2 (RFC 8441).

use super::*;

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
pub(super) async fn bare_extended_connect(
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
