//! Malformed HTTP/2: a stream error for a message, a connection error for a frame (RFC 9113).

use crate::chain::Chain;
use crate::client::raw::{Http2Frame, Outcome, http2};

const PROTOCOL_ERROR: u64 = 1;
const FRAME_SIZE_ERROR: u64 = 6;
const COMPRESSION_ERROR: u64 = 9;

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "www.example.test"), (":path", "/x")];

fn with(extra: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    GET.iter().chain(extra).copied().collect()
}

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    GET.iter().filter(|(field, _)| *field != name).copied().collect()
}

#[tokio::test]
async fn malformed_requests_are_stream_errors() {
    let chain = Chain::start().await;
    let cases = [
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("two paths", with(&[(":path", "/y")])),
        ("unknown pseudo-field", with(&[(":status", "200")])),
        ("pseudo-field after a field", [&[("x-a", "1")], &GET[..]].concat()),
        ("uppercase name", with(&[("X-Upper", "1")])),
        ("connection field", with(&[("connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("te other than trailers", with(&[("te", "gzip")])),
        ("host unlike authority", with(&[("host", "other.example.test")])),
        ("newline in a value", with(&[("x-a", "b\nc")])),
        ("empty path", [without(":path"), vec![(":path", "")]].concat()),
    ];
    for (name, fields) in cases {
        let outcome = http2(&chain, &[Http2Frame::headers(&fields, true)]).await;
        let fine = match outcome {
            Outcome::Status(400) | Outcome::Reset(PROTOCOL_ERROR) => true,
            // What is no field at all ends h2's decoder in the middle of the block, and with it the connection, as RFC 9113
            // section 5.4.1 allows.
            Outcome::Closed(PROTOCOL_ERROR) => ["uppercase name", "newline in a value"].contains(&name),
            _ => false,
        };
        assert!(fine, "{name}: {outcome:?}");
    }
    assert!(chain.upstream.log("/x").await.is_empty(), "nothing of it reached the upstream");
}

#[tokio::test]
async fn a_body_unlike_its_length_never_looks_complete() {
    let chain = Chain::start().await;
    let post = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "www.example.test"),
        (":path", "/count?key=length"),
        ("content-length", "10"),
    ];
    for body in ["short", "much longer than ten"] {
        let outcome =
            http2(&chain, &[Http2Frame::headers(&post, false), Http2Frame::data(body.as_bytes(), true)]).await;
        assert!(matches!(outcome, Outcome::Status(400) | Outcome::Reset(PROTOCOL_ERROR)), "{body}: {outcome:?}");
    }
    assert_eq!(chain.upstream.executions("length").await["finished"], 0);
}

#[tokio::test]
async fn malformed_frames_end_the_connection_with_their_code() {
    let chain = Chain::start().await;
    let raw = |kind, flags, stream, payload: &[u8]| Http2Frame { kind, flags, stream, payload: payload.into() };
    let cases = [
        ("DATA on stream 0", raw(0, 0, 0, b"x"), PROTOCOL_ERROR),
        ("SETTINGS of 5 bytes", raw(4, 0, 0, b"12345"), FRAME_SIZE_ERROR),
        ("PING of 7 bytes", raw(6, 0, 0, b"1234567"), FRAME_SIZE_ERROR),
        ("a frame above the announced size", raw(0, 0, 1, &[0; 20 << 10]), FRAME_SIZE_ERROR),
        ("PUSH_PROMISE from a client", raw(5, 4, 1, &[0, 0, 0, 2, 0x82]), PROTOCOL_ERROR),
        ("HEADERS with a broken block", raw(1, 5, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), COMPRESSION_ERROR),
        ("CONTINUATION without HEADERS", raw(9, 4, 1, &[0x82]), PROTOCOL_ERROR),
        ("an even stream", raw(1, 5, 2, &[0x82, 0x87, 0x84]), PROTOCOL_ERROR),
    ];
    for (name, frame, code) in cases {
        let outcome = http2(&chain, &[frame]).await;
        // The connection ends in every case. h2 0.4 says so with the general code for some sizes and for HPACK, where
        // RFC 9113 sections 4.2 and 4.3 have one of their own.
        assert!([Outcome::Closed(code), Outcome::Closed(PROTOCOL_ERROR)].contains(&outcome), "{name}: {outcome:?}");
    }
}
