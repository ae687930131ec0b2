//! The client's control and QPACK streams.

use super::super::*;
use super::*;

#[tokio::test]
async fn unidirectional_streams_are_checked() {
    let server = Server::start(Limits::default());
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("second control stream", vec![0x00], Code::STREAM_CREATION_ERROR),
        ("push stream", vec![0x01, 0x00], Code::STREAM_CREATION_ERROR),
        ("encoder: capacity", vec![0x02, 0x3f, 0x01], Code::QPACK_ENCODER_STREAM_ERROR),
        ("encoder: insert", vec![0x02, 0xc0, 0x00], Code::QPACK_ENCODER_STREAM_ERROR),
        ("decoder: acknowledgement", vec![0x03, 0x84], Code::QPACK_DECODER_STREAM_ERROR),
        ("decoder: increment", vec![0x03, 0x01], Code::QPACK_DECODER_STREAM_ERROR),
    ];
    for (name, bytes, code) in cases {
        let raw = Raw::connect(&server).await;
        // The control stream is known before the next one comes.
        raw.assert_usable().await;
        let _stream = raw.uni(&bytes).await;
        assert_eq!(raw.closed().await, of(code), "{name}");
    }
    let raw = Raw::connect(&server).await;
    let _encoder = raw.uni(&[0x02, 0x20]).await;
    let _decoder = raw.uni(&[0x03, 0x44]).await;
    let unknown = raw.uni(&[0x40, 0x21, 1, 2, 3]).await;
    let stopped = within(unknown.stopped()).await.unwrap().map(|code| code.into_inner());
    assert_eq!(stopped, Some(of(Code::STREAM_CREATION_ERROR)));
    raw.uni(&[0x40]).await.finish().unwrap();
    raw.assert_usable().await;
}

#[tokio::test]
async fn critical_streams_must_stay_open() {
    let server = Server::start(Limits::default());
    for kind in [None, Some(0x02), Some(0x03)] {
        let mut raw = Raw::connect(&server).await;
        match kind {
            None => raw.control.finish().unwrap(),
            Some(kind) => raw.uni(&[kind]).await.finish().unwrap(),
        }
        assert_eq!(raw.closed().await, of(Code::CLOSED_CRITICAL_STREAM));
    }
    let mut raw = Raw::connect(&server).await;
    raw.assert_usable().await;
    raw.control.reset(0u32.into()).unwrap();
    assert_eq!(raw.closed().await, of(Code::CLOSED_CRITICAL_STREAM));
}

#[tokio::test]
async fn control_frames_are_checked() {
    let server = Server::start(Limits::default());
    let settings = |pairs: &[u64]| frame(frame::SETTINGS, &pairs.iter().flat_map(|n| number(*n)).collect::<Vec<_>>());
    let update = |id: u64| frame(frame::PRIORITY_UPDATE_REQUEST, &[number(id), b"u=1".to_vec()].concat());
    let s = || settings(&[]);
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("no SETTINGS", frame(frame::GOAWAY, &[0]), Code::MISSING_SETTINGS),
        ("grease before SETTINGS", frame(0x21, &[0]), Code::MISSING_SETTINGS),
        ("SETTINGS twice", [s(), s()].concat(), Code::FRAME_UNEXPECTED),
        ("HTTP/2 setting", settings(&[4, 0]), Code::SETTINGS_ERROR),
        ("setting twice", settings(&[6, 1, 6, 1]), Code::SETTINGS_ERROR),
        ("cut setting", frame(frame::SETTINGS, &[6]), Code::FRAME_ERROR),
        ("DATA", [s(), frame(frame::DATA, b"")].concat(), Code::FRAME_UNEXPECTED),
        ("HEADERS", [s(), frame(frame::HEADERS, b"")].concat(), Code::FRAME_UNEXPECTED),
        ("PUSH_PROMISE", [s(), frame(frame::PUSH_PROMISE, b"")].concat(), Code::FRAME_UNEXPECTED),
        ("HTTP/2 WINDOW_UPDATE", [s(), frame(8, b"")].concat(), Code::FRAME_UNEXPECTED),
        ("GOAWAY grows", [s(), frame(frame::GOAWAY, &[1]), frame(frame::GOAWAY, &[2])].concat(), Code::ID_ERROR),
        ("long GOAWAY", [s(), frame(frame::GOAWAY, &[1, 1])].concat(), Code::FRAME_ERROR),
        ("MAX_PUSH_ID shrinks", [s(), frame(0xd, &[2]), frame(0xd, &[1])].concat(), Code::ID_ERROR),
        ("empty MAX_PUSH_ID", [s(), frame(0xd, &[])].concat(), Code::FRAME_ERROR),
        ("CANCEL_PUSH", [s(), frame(frame::CANCEL_PUSH, &[0])].concat(), Code::ID_ERROR),
        ("priority of a push", [s(), frame(frame::PRIORITY_UPDATE_PUSH, &[0])].concat(), Code::ID_ERROR),
        ("priority of no request", [s(), update(2)].concat(), Code::ID_ERROR),
        ("priority far ahead", [s(), update(4 << 20)].concat(), Code::ID_ERROR),
        ("long frame", [s(), frame(frame::GOAWAY, &[0; 5000])].concat(), Code::EXCESSIVE_LOAD),
        ("flood", [s(), frame(frame::MAX_PUSH_ID, &[1]).repeat(1100)].concat(), Code::EXCESSIVE_LOAD),
    ];
    for (name, bytes, code) in cases {
        let mut raw = Raw::without_settings(&server).await;
        raw.control.write_all(&bytes).await.unwrap();
        assert_eq!(raw.closed().await, of(code), "{name}");
    }
    let mut raw = Raw::connect(&server).await;
    let fine = [update(0), update(400), frame(0xd, &[1]), frame(0xd, &[1]), frame(0x2f, &[0; 3000])].concat();
    raw.control.write_all(&fine).await.unwrap();
    raw.assert_usable().await;
}

#[tokio::test]
async fn a_goaway_of_the_client_ends_nothing() {
    let server = Server::start(Limits::default());
    let mut raw = Raw::connect(&server).await;
    let (mut send, recv) = raw.open(&[request(Method::POST, "/echo", &[]), frame(frame::DATA, b"be")].concat()).await;
    server.seen.wait_for("POST /echo").await;
    raw.control.write_all(&frame(frame::GOAWAY, &[0])).await.unwrap();
    raw.assert_usable().await;
    send.write_all(&frame(frame::DATA, b"fore")).await.unwrap();
    send.finish().unwrap();
    assert_eq!(outcome(recv).await, Outcome::Response(200, b"before".to_vec(), 0));
}
