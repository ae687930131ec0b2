//! Responses, cancellation, timeouts, abuse and drain.

use bytes::BytesMut;

use super::super::*;
use super::*;

#[tokio::test]
async fn responses_that_lie_about_their_length_are_reset() {
    let server = Server::start(Limits::default());
    let raw = Raw::connect(&server).await;
    for path in ["/short", "/long", "/fault"] {
        let outcome = raw.exchange(&get(path)).await;
        assert!(matches!(outcome, Outcome::Reset(code, _) if code == of(Code::INTERNAL_ERROR)), "{path}: {outcome:?}");
    }
    assert_eq!(server.metrics.aborted.get(), 3);
    assert_eq!(raw.exchange(&request(Method::HEAD, "/short", &[])).await, Outcome::Response(200, Vec::new(), 0));
    assert_eq!(raw.exchange(&get("/204")).await, Outcome::Response(204, Vec::new(), 0));
    assert_eq!(raw.exchange(&get("/pieces")).await, Outcome::Response(200, b"one two three".to_vec(), 0));
    assert_eq!(raw.exchange(&get("/trailers")).await, Outcome::Response(200, b"hello".to_vec(), 1));
}

#[tokio::test]
async fn a_head_larger_than_the_client_takes_becomes_a_502() {
    let server = Server::start(Limits::default());
    let mut raw = Raw::without_settings(&server).await;
    raw.control.write_all(&frame(frame::SETTINGS, &[number(6), number(2000)].concat())).await.unwrap();
    raw.assert_usable().await;
    assert_eq!(raw.exchange(&get("/large-head")).await, Outcome::Response(502, Vec::new(), 0));
}

#[tokio::test]
async fn interim_responses_come_first() {
    let server = Server::start(Limits::default());
    let raw = Raw::connect(&server).await;
    let (mut send, recv) = raw.open(&get("/hints")).await;
    send.finish().unwrap();
    assert_eq!(responses(recv).await, (vec![103], Outcome::Response(200, b"hello".to_vec(), 0)));
}

#[tokio::test]
async fn an_unread_body_is_stopped_after_the_response() {
    let server = Server::start(Limits::default());
    let raw = Raw::connect(&server).await;
    let (send, recv) = raw.open(&[request(Method::POST, "/ignore", &[]), frame(frame::DATA, b"123")].concat()).await;
    assert_eq!(outcome(recv).await, Outcome::Response(200, b"no".to_vec(), 0));
    let stopped = within(send.stopped()).await.unwrap().map(|code| code.into_inner());
    assert_eq!(stopped, Some(of(Code::NO_ERROR)));
    raw.assert_usable().await;
}

#[tokio::test]
async fn stop_sending_cancels_the_handler_and_the_response() {
    let server = Server::start(Limits::default());
    let raw = Raw::connect(&server).await;
    let (mut send, mut recv) = raw.open(&get("/wait")).await;
    send.finish().unwrap();
    server.seen.wait_for("GET /wait").await;
    recv.stop(Code::REQUEST_CANCELLED.varint()).unwrap();
    server.seen.wait_for("cancelled").await;
    let (mut send, mut recv) = raw.open(&get("/stuck")).await;
    send.finish().unwrap();
    server.seen.wait_for("GET /stuck").await;
    recv.stop(Code::REQUEST_CANCELLED.varint()).unwrap();
    raw.assert_usable().await;
    assert_eq!(server.seen.serving.load(Ordering::SeqCst), 0);
    assert_eq!(server.metrics.cancelled.get(), 2);
}

#[tokio::test]
async fn too_many_resets_close_the_connection() {
    let server = Server::start(Limits { resets_max: 10, ..Limits::default() });
    let raw = Raw::connect(&server).await;
    let flood = async {
        loop {
            let Ok((mut send, mut recv)) = raw.quinn.open_bi().await else { return };
            if send.write_all(&get("/wait")).await.is_err() {
                return;
            }
            let _ = send.reset(Code::REQUEST_CANCELLED.varint());
            let _ = recv.stop(Code::REQUEST_CANCELLED.varint());
        }
    };
    within(flood).await;
    assert_eq!(raw.closed().await, of(Code::EXCESSIVE_LOAD));
    assert!(server.metrics.requests.get() < 200);
    assert_eq!(server.metrics.excessive_load.get(), 1);
    assert_eq!(server.seen.serving.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn malformed_requests_count_as_resets() {
    let server = Server::start(Limits { resets_max: 10, ..Limits::default() });
    let raw = Raw::connect(&server).await;
    let bad = request(Method::GET, "/", &[("connection", "close")]);
    let mut last = Outcome::Reset(of(Code::MESSAGE_ERROR), 0);
    for _ in 0..100 {
        last = raw.exchange(&bad).await;
        if last != Outcome::Reset(of(Code::MESSAGE_ERROR), 0) {
            break;
        }
    }
    assert_eq!(last, Outcome::Closed(of(Code::EXCESSIVE_LOAD)));
}

#[tokio::test]
async fn a_body_that_stops_coming_times_out() {
    let server = Server::start(Limits { body_timeout: Duration::from_millis(50), ..Limits::default() });
    let raw = Raw::connect(&server).await;
    let (_send, recv) = raw.open(&[request(Method::POST, "/read", &[]), frame(frame::DATA, b"123")].concat()).await;
    assert_eq!(outcome(recv).await, Outcome::Response(504, Vec::new(), 0));
    raw.assert_usable().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_loses_its_response() {
    let server = Server::start(Limits { body_timeout: Duration::from_millis(50), ..Limits::default() });
    let raw = Raw::connect(&server).await;
    let (mut send, mut recv) = raw.open(&get("/large/100000000")).await;
    send.finish().unwrap();
    let code = within(recv.received_reset()).await.unwrap().map(|code| code.into_inner());
    assert_eq!(code, Some(of(Code::INTERNAL_ERROR)));
    raw.assert_usable().await;
}

#[tokio::test]
async fn extended_connect_carries_bytes_both_ways_and_half_closes() {
    let server = Server::start(Limits { body_timeout: Duration::from_millis(50), ..Limits::default() });
    let raw = Raw::connect(&server).await;
    let (mut send, recv) = raw.open(&request(Method::CONNECT, "/echo", &[(":protocol", "websocket")])).await;
    server.seen.wait_for("CONNECT /echo").await;
    for _ in 0..10 {
        send.write_all(&frame(frame::DATA, b"ping")).await.unwrap();
        raw.assert_usable().await;
    }
    send.finish().unwrap();
    assert_eq!(outcome(recv).await, Outcome::Response(200, b"ping".repeat(10), 0));
}

#[tokio::test]
async fn drain_announces_finishes_and_closes_cleanly() {
    let server = Server::start(Limits::default());
    let raw = Raw::connect(&server).await;
    let (mut send, recv) = raw.open(&request(Method::POST, "/echo", &[])).await;
    server.seen.wait_for("POST /echo").await;
    let mut control = within(raw.quinn.accept_uni()).await.unwrap();
    server.shutdown.start_drain();
    let mut bytes = BytesMut::new();
    let mut goaways = Vec::new();
    let mut decoder = Decoder::control();
    while goaways.len() < 2 {
        let chunk = within(control.read_chunk(usize::MAX, true)).await.unwrap().expect("control stream ended");
        bytes.extend_from_slice(&chunk.bytes);
        if bytes.first() == Some(&0) && goaways.is_empty() {
            let _ = bytes.split_to(1);
        }
        let mut piece = bytes.split().freeze();
        while let Some(Event::Control(kind, payload)) = decoder.decode(&mut piece).unwrap() {
            if kind == frame::GOAWAY {
                goaways.push(varint::take(&mut &payload[..]).unwrap());
            }
        }
    }
    assert_eq!(goaways, [(1 << 62) - 4, 4]);
    assert_eq!(raw.exchange(&get("/")).await, Outcome::Reset(of(Code::REQUEST_REJECTED), 0));
    send.write_all(&frame(frame::DATA, b"still here")).await.unwrap();
    send.finish().unwrap();
    assert_eq!(outcome(recv).await, Outcome::Response(200, b"still here".to_vec(), 0));
    assert_eq!(raw.closed().await, of(Code::NO_ERROR));
}
