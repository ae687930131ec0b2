//! Requests and bodies that break a rule, and what comes back.

use bytes::BytesMut;

use super::super::*;
use super::*;

#[tokio::test]
async fn a_request_split_into_single_bytes_is_served() {
    let server = Server::start(Limits::default());
    let raw = Raw::connect(&server).await;
    let bytes = [request(Method::POST, "/echo", &[("content-length", "5")]), frame(0, b"hello")].concat();
    let (mut send, recv) = raw.open(&[]).await;
    for byte in bytes {
        send.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    send.finish().unwrap();
    assert_eq!(outcome(recv).await, Outcome::Response(200, b"hello".to_vec(), 0));
}

#[tokio::test]
async fn malformed_requests_are_reset_and_the_connection_goes_on() {
    let server = Server::start(Limits::default());
    let raw = Raw::connect(&server).await;
    let valid = head(Method::GET, "/");
    let twice: Vec<_> = valid.iter().chain(&valid[..1]).map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("pseudo-field twice", fields(&twice)),
        ("status in a request", request(Method::GET, "/", &[(":status", "200")])),
        ("no path", fields(&[(":method", "GET"), (":scheme", "https"), (":authority", "a")])),
        ("connection", request(Method::GET, "/", &[("connection", "close")])),
        ("transfer-encoding", request(Method::GET, "/", &[("transfer-encoding", "chunked")])),
        ("te", request(Method::GET, "/", &[("te", "gzip")])),
        ("uppercase", request(Method::GET, "/", &[("X-Upper", "1")])),
        ("line break", request(Method::GET, "/", &[("x", "a\r\ny: z")])),
        ("lengths", request(Method::GET, "/", &[("content-length", "0"), ("content-length", "0")])),
        ("length list", request(Method::GET, "/", &[("content-length", "0, 0")])),
        ("length overflow", request(Method::GET, "/", &[("content-length", "18446744073709551616")])),
        ("missing body", request(Method::GET, "/", &[("content-length", "5")])),
        ("other host", request(Method::GET, "/", &[("host", "other.example")])),
        (
            "userinfo",
            fields(&[(":method", "GET"), (":scheme", "https"), (":authority", "u@localhost"), (":path", "/")]),
        ),
        ("fragment", get("/#fragment")),
        ("protocol without CONNECT", request(Method::GET, "/", &[(":protocol", "websocket")])),
    ];
    for (name, bytes) in cases {
        assert_eq!(raw.exchange(&bytes).await, Outcome::Reset(of(Code::MESSAGE_ERROR), 0), "{name}");
    }
    raw.assert_usable().await;
    assert_eq!(server.seen.lines.lock().len(), 1, "a malformed request reached the handler");
}

#[tokio::test]
async fn incomplete_requests_are_reset_and_the_connection_goes_on() {
    let server = Server::start(Limits { header_timeout: Duration::from_millis(50), ..Limits::default() });
    let raw = Raw::connect(&server).await;
    assert_eq!(raw.exchange(&[]).await, Outcome::Reset(of(Code::REQUEST_INCOMPLETE), 0));
    assert_eq!(raw.exchange(&frame(0x21, b"grease")).await, Outcome::Reset(of(Code::REQUEST_INCOMPLETE), 0));
    let whole = get("/");
    let (_send, recv) = raw.open(&whole[..whole.len() - 1]).await;
    assert_eq!(outcome(recv).await, Outcome::Reset(of(Code::REQUEST_INCOMPLETE), 0));
    raw.assert_usable().await;
}

#[tokio::test]
async fn what_an_honest_client_may_send_gets_an_answer() {
    let server = Server::start(Limits { fields_max: 20, field_section_max: 4096, ..Limits::default() });
    let raw = Raw::connect(&server).await;
    let answer = |status| Outcome::Response(status, Vec::new(), 0);
    assert_eq!(raw.exchange(&request(Method::GET, "/", &[("x", "1"); 21])).await, answer(431));
    assert_eq!(raw.exchange(&request(Method::GET, "/", &[("x", &"y".repeat(4000))])).await, answer(431));
    assert_eq!(raw.exchange(&request(Method::GET, "/", &[("x", &"y".repeat(100_000))])).await, answer(431));
    let connect = fields(&[(":method", "CONNECT"), (":authority", "example.com:443")]);
    assert_eq!(raw.exchange(&connect).await, answer(501));
    raw.assert_usable().await;
    assert_eq!(server.metrics.refused.get(), 4);
}

#[tokio::test]
async fn an_endless_head_is_answered_before_it_ends() {
    let server = Server::start(Limits::default());
    let raw = Raw::connect(&server).await;
    let mut bytes = BytesMut::new();
    frame::put_head(&mut bytes, frame::HEADERS, varint::MAX);
    bytes.extend_from_slice(&[0; 1000]);
    let (send, recv) = raw.open(&bytes).await;
    assert_eq!(outcome(recv).await, Outcome::Response(431, Vec::new(), 0));
    assert_eq!(within(send.stopped()).await.unwrap().map(|code| code.into_inner()), Some(of(Code::NO_ERROR)));
    raw.assert_usable().await;
}

#[tokio::test]
async fn frames_in_the_wrong_place_close_the_connection() {
    let server = Server::start(Limits::default());
    let post = || request(Method::POST, "/read", &[]);
    let trailers = || fields(&[("a", "b")]);
    let connect = || request(Method::CONNECT, "/echo", &[(":protocol", "websocket")]);
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("DATA first", frame(frame::DATA, b"x"), Code::FRAME_UNEXPECTED),
        ("SETTINGS", frame(frame::SETTINGS, b""), Code::FRAME_UNEXPECTED),
        ("GOAWAY", frame(frame::GOAWAY, b"\0"), Code::FRAME_UNEXPECTED),
        ("PUSH_PROMISE", [get("/wait"), frame(frame::PUSH_PROMISE, b"\0")].concat(), Code::FRAME_UNEXPECTED),
        ("HTTP/2 PING", [post(), frame(6, b"")].concat(), Code::FRAME_UNEXPECTED),
        ("HTTP/2 PRIORITY", [post(), frame(2, b"")].concat(), Code::FRAME_UNEXPECTED),
        ("DATA after trailers", [post(), trailers(), frame(frame::DATA, b"x")].concat(), Code::FRAME_UNEXPECTED),
        ("HEADERS after trailers", [post(), trailers(), trailers()].concat(), Code::FRAME_UNEXPECTED),
        ("HEADERS in a tunnel", [connect(), trailers()].concat(), Code::FRAME_UNEXPECTED),
        (
            "cut DATA",
            {
                let b = [post(), frame(frame::DATA, b"12345")].concat();
                b[..b.len() - 1].to_vec()
            },
            Code::FRAME_ERROR,
        ),
        (
            "cut HEADERS",
            {
                let b = get("/");
                b[..b.len() - 1].to_vec()
            },
            Code::FRAME_ERROR,
        ),
        ("cut unknown", [post(), vec![0x21, 5, 0]].concat(), Code::FRAME_ERROR),
        ("dynamic reference", frame(frame::HEADERS, &[0, 0, 0x80]), Code::QPACK_DECOMPRESSION_FAILED),
        ("insert count", frame(frame::HEADERS, &[2, 0, 0xd1]), Code::QPACK_DECOMPRESSION_FAILED),
        ("bad Huffman", frame(frame::HEADERS, &[0, 0, 0x51, 0x81, 0x00]), Code::QPACK_DECOMPRESSION_FAILED),
        ("empty section", frame(frame::HEADERS, &[]), Code::QPACK_DECOMPRESSION_FAILED),
        ("bad trailers", [post(), frame(frame::HEADERS, &[0, 0, 0x80])].concat(), Code::QPACK_DECOMPRESSION_FAILED),
    ];
    for (name, bytes, code) in cases {
        let raw = Raw::connect(&server).await;
        let (mut send, _recv) = raw.open(&bytes).await;
        let _ = send.finish();
        assert_eq!(raw.closed().await, of(code), "{name}");
    }
    assert!(!server.seen.said("complete"), "a cut or wrong request looked complete: {:?}", server.seen.lines.lock());
}

#[tokio::test]
async fn an_empty_data_frame_is_not_the_end_of_a_body() {
    let server = Server::start(Limits::default());
    let raw = Raw::connect(&server).await;
    let bytes = [
        request(Method::POST, "/echo", &[("content-length", "5")]),
        frame(frame::DATA, b""),
        frame(frame::DATA, b"he"),
        frame(frame::DATA, b""),
        frame(0x21, b"grease"),
        frame(frame::DATA, b"llo"),
    ]
    .concat();
    assert_eq!(raw.exchange(&bytes).await, Outcome::Response(200, b"hello".to_vec(), 0));
}

#[tokio::test]
async fn a_body_that_differs_from_its_length_never_looks_complete() {
    let server = Server::start(Limits::default());
    let raw = Raw::connect(&server).await;
    let post = |length| request(Method::POST, "/read", &[("content-length", length)]);
    for (name, bytes) in [
        ("short", [post("5"), frame(frame::DATA, b"1234")].concat()),
        ("long", [post("5"), frame(frame::DATA, b"123456")].concat()),
        ("long in two frames", [post("5"), frame(frame::DATA, b"12345"), frame(frame::DATA, b"6")].concat()),
        ("short with trailers", [post("5"), frame(frame::DATA, b"1234"), fields(&[("a", "b")])].concat()),
        ("nothing but trailers", [post("5"), fields(&[("a", "b")])].concat()),
        ("pseudo-field in trailers", [post("1"), frame(frame::DATA, b"1"), fields(&[(":path", "/")])].concat()),
        ("connection in trailers", [post("1"), frame(frame::DATA, b"1"), fields(&[("connection", "close")])].concat()),
    ] {
        // Found with the head it is an error of the stream; found later the handler's answer is given.
        let outcome = raw.exchange(&bytes).await;
        let wrong = [Outcome::Reset(of(Code::MESSAGE_ERROR), 0), Outcome::Response(400, Vec::new(), 0)];
        assert!(wrong.contains(&outcome), "{name}: {outcome:?}");
    }
    assert!(!server.seen.said("complete"), "{:?}", server.seen.lines.lock());
    let whole = [post("5"), frame(frame::DATA, b"12345"), fields(&[("a", "b")])].concat();
    assert_eq!(raw.exchange(&whole).await, Outcome::Response(200, b"read".to_vec(), 0));
    assert!(server.seen.said("complete 5 1"));
}

#[tokio::test]
async fn the_last_declared_bytes_wait_for_the_end_of_the_stream() {
    let server = Server::start(Limits::default());
    let raw = Raw::connect(&server).await;
    let (mut send, recv) = raw.open(&request(Method::POST, "/read", &[("content-length", "10")])).await;
    server.seen.wait_for("POST /read").await;
    send.write_all(&frame(frame::DATA, b"0123456789")).await.unwrap();
    raw.assert_usable().await;
    assert!(!server.seen.said("complete"));
    send.write_all(&frame(frame::DATA, b"!")).await.unwrap();
    assert_eq!(outcome(recv).await, Outcome::Response(400, Vec::new(), 0));
    assert!(server.seen.said("incomplete"));
    let stopped = within(send.stopped()).await.unwrap().map(|code| code.into_inner());
    assert_eq!(stopped, Some(of(Code::MESSAGE_ERROR)));
}

#[tokio::test]
async fn a_reset_body_never_looks_complete() {
    let server = Server::start(Limits::default());
    let raw = Raw::connect(&server).await;
    let (mut send, _recv) = raw.open(&[request(Method::POST, "/read", &[]), frame(frame::DATA, b"123")].concat()).await;
    server.seen.wait_for("POST /read").await;
    send.reset(Code::REQUEST_CANCELLED.varint()).unwrap();
    while !server.seen.said("incomplete client_gone") {
        within(server.seen.news.notified()).await;
    }
    raw.assert_usable().await;
}

#[tokio::test]
async fn any_bytes_on_a_request_stream_leave_the_server_alive() {
    let server = Server::start(Limits { header_timeout: Duration::from_millis(200), ..Limits::default() });
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..100 {
        let raw = Raw::connect(&server).await;
        let mut bytes = request(Method::POST, "/read", &[("content-length", "40")]);
        bytes.extend(frame(frame::DATA, &[7; 40]));
        bytes.extend(fields(&[("a", "b")]));
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        let (mut send, recv) = raw.open(&bytes).await;
        let _ = send.finish();
        outcome(recv).await;
    }
    Raw::connect(&server).await.assert_usable().await;
}
