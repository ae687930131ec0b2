//! Drains, and their end by force.

use super::connect::bare_extended_connect;
use super::*;

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
