//! HTTP/2: streams, lengths, limits, resets.

use super::*;

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

/// A frame on the wire (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

#[tokio::test]
async fn an_http2_client_that_grants_every_window_and_reads_nothing_loses_the_connection() {
    let server = Server::start(Limits { body_timeout: Duration::from_millis(100), ..Limits::default() });
    let mut tls = in_time(server.connect(b"h2")).await.unwrap();
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE, then as much for the connection.
    request.extend(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
    request.extend(frame(8, 0, 0, &[0x7f, 0xff, 0, 0]));
    // GET, https, :path and :authority as literals (RFC 7541 section 6.2.2); the head and the request end here.
    let fields = [&[0x82, 0x87, 4, 8], &b"/endless"[..], &[1, 9], b"a.example"].concat();
    request.extend(frame(1, 5, 1, &fields));
    tls.write_all(&request).await.unwrap();
    until(|| server.metrics.http2.open.get() == 1).await;
    until(|| server.spine.noted("body dropped")).await;
    until(|| server.metrics.http2.open.get() == 0).await;
    assert!(server.metrics.cut_stalled.get() > 0);
}
