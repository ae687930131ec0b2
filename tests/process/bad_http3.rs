//! Malformed HTTP/3: H3_MESSAGE_ERROR or 400 for a message, a connection error for a frame (RFC 9114).

use crate::chain::Chain;
use crate::client::raw::{Outcome, Raw, frame, section, varint};

const STREAM_CREATION_ERROR: u64 = 0x103;
const CLOSED_CRITICAL_STREAM: u64 = 0x104;
const FRAME_UNEXPECTED: u64 = 0x105;
const FRAME_ERROR: u64 = 0x106;
const ID_ERROR: u64 = 0x108;
const SETTINGS_ERROR: u64 = 0x109;
const MISSING_SETTINGS: u64 = 0x10a;
const REQUEST_INCOMPLETE: u64 = 0x10d;
const MESSAGE_ERROR: u64 = 0x10e;
const QPACK_DECOMPRESSION_FAILED: u64 = 0x200;

const DATA: u64 = 0;
const HEADERS: u64 = 1;

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "www.example.test"), (":path", "/x")];

fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, &section(fields))
}

fn with(extra: &[(&'static str, &'static str)]) -> Vec<u8> {
    head(&[&GET, extra].concat())
}

fn without(name: &str) -> Vec<u8> {
    head(&GET.iter().filter(|(field, _)| *field != name).copied().collect::<Vec<_>>())
}

fn post(length: &'static str) -> Vec<u8> {
    let rest = [GET[1], GET[2], (":path", "/count?key=length"), ("content-length", length)];
    head(&[&[(":method", "POST")], &rest[..]].concat())
}

#[tokio::test]
async fn malformed_messages_fail_alone() {
    let chain = Chain::start().await;
    let raw = Raw::connect(&chain).await;
    let cases = [
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("no authority", without(":authority")),
        ("two methods", with(&[(":method", "GET")])),
        (":status in a request", with(&[(":status", "200")])),
        ("unknown pseudo-field", with(&[(":x", "1")])),
        ("pseudo-field after a field", head(&[&[("x-a", "1")], &GET[..]].concat())),
        ("uppercase name", with(&[("X-Upper", "1")])),
        ("empty name", with(&[("", "1")])),
        ("space in a name", with(&[("x a", "1")])),
        ("connection", with(&[("connection", "close")])),
        ("keep-alive", with(&[("keep-alive", "1")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te other than trailers", with(&[("te", "gzip")])),
        ("CR in a value", with(&[("x-a", "b\rc")])),
        ("LF in a value", with(&[("x-a", "b\nc")])),
        ("NUL in a value", with(&[("x-a", "b\0c")])),
        ("two hosts", with(&[("host", "www.example.test"), ("host", "www.example.test")])),
        ("host unlike authority", with(&[("host", "other.example.test")])),
        ("two unlike lengths", with(&[("content-length", "1"), ("content-length", "2")])),
        ("signed length", with(&[("content-length", "+0")])),
        ("huge length", with(&[("content-length", "99999999999999999999")])),
    ];
    for (name, bytes) in cases {
        let outcome = raw.request(&bytes).await;
        assert!(matches!(outcome, Outcome::Status(400) | Outcome::Reset(MESSAGE_ERROR)), "{name}: {outcome:?}");
    }
    assert_eq!(
        raw.request(&with(&[("host", "www.example.test")])).await,
        Outcome::Status(404),
        "the connection goes on"
    );
    assert_eq!(chain.upstream.log("/x").await.len(), 1, "only the last one reached the upstream");
}

#[tokio::test]
async fn bodies_unlike_their_length_and_broken_ends_never_look_complete() {
    let chain = Chain::start().await;
    let raw = Raw::connect(&chain).await;
    let trailer = frame(HEADERS, &section(&[("x-t", "1")]));
    let cases = [
        ("too short", [post("10"), frame(DATA, b"short")].concat(), vec![MESSAGE_ERROR]),
        ("too long", [post("3"), frame(DATA, b"too long")].concat(), vec![MESSAGE_ERROR]),
        ("too short behind an empty DATA", [post("5"), frame(DATA, b"")].concat(), vec![MESSAGE_ERROR]),
        ("trailers with a pseudo-field", [post("0"), head(&[(":path", "/y")])].concat(), vec![MESSAGE_ERROR]),
        ("trailers with a connection field", [post("0"), head(&[("connection", "x")])].concat(), vec![MESSAGE_ERROR]),
        ("nothing at all", vec![], vec![REQUEST_INCOMPLETE, MESSAGE_ERROR]),
        ("short with trailers", [post("9"), frame(DATA, b"abc"), trailer].concat(), vec![MESSAGE_ERROR]),
    ];
    for (name, bytes, codes) in cases {
        let outcome = raw.request(&bytes).await;
        let fine = match outcome {
            Outcome::Status(status) => status == 400,
            Outcome::Reset(code) => codes.contains(&code),
            Outcome::Closed(_) => false,
        };
        assert!(fine, "{name}: {outcome:?}");
    }
    assert_eq!(chain.upstream.executions("length").await["finished"], 0);
}

#[tokio::test]
async fn malformed_frames_end_their_connection_alone() {
    let chain = Chain::start().await;
    let bystander = Raw::connect(&chain).await;
    let truncated = frame(DATA, b"0123456789");
    let truncated = [head(&GET), truncated[..5].to_vec()].concat();
    let cases = [
        ("DATA before HEADERS", frame(DATA, b"x"), FRAME_UNEXPECTED),
        ("SETTINGS on a request", frame(4, &[]), FRAME_UNEXPECTED),
        ("GOAWAY on a request", frame(7, &[0]), FRAME_UNEXPECTED),
        ("HTTP/2's PRIORITY", [head(&GET), frame(2, &[0; 5])].concat(), FRAME_UNEXPECTED),
        ("PUSH_PROMISE from a client", frame(5, &[0, 0, 0]), FRAME_UNEXPECTED),
        ("a frame cut by the end", truncated, FRAME_ERROR),
        ("a field section that is garbage", frame(HEADERS, &[0xff; 20]), QPACK_DECOMPRESSION_FAILED),
        (
            "DATA after trailers",
            [head(&GET), frame(HEADERS, &section(&[("x-t", "1")])), frame(DATA, b"x")].concat(),
            FRAME_UNEXPECTED,
        ),
    ];
    for (name, bytes, code) in cases {
        let raw = Raw::connect(&chain).await;
        let (mut send, _receive) = raw.open().await;
        let _ = send.write_all(&bytes).await;
        let _ = send.finish();
        assert_eq!(raw.closed().await, code, "{name}");
    }
    assert_eq!(bystander.request(&head(&GET)).await, Outcome::Status(404));
}

#[tokio::test]
async fn malformed_control_streams_end_their_connection() {
    let chain = Chain::start().await;
    let control = |frames: &[Vec<u8>]| [vec![0], frames.concat()].concat();
    let mut twice = Vec::new();
    for value in [6, 100, 6, 200] {
        varint(value, &mut twice);
    }
    let cases = [
        ("no SETTINGS first", control(&[frame(7, &[0])]), MISSING_SETTINGS),
        ("SETTINGS twice", control(&[frame(4, &[]), frame(4, &[])]), FRAME_UNEXPECTED),
        ("a setting twice", control(&[frame(4, &twice)]), SETTINGS_ERROR),
        ("a setting of HTTP/2", control(&[frame(4, &[2, 0])]), SETTINGS_ERROR),
        ("a setting cut off", control(&[frame(4, &[6])]), FRAME_ERROR),
        ("DATA", control(&[frame(4, &[]), frame(DATA, b"x")]), FRAME_UNEXPECTED),
        ("HEADERS", control(&[frame(4, &[]), head(&GET)]), FRAME_UNEXPECTED),
        ("GOAWAY of two numbers", control(&[frame(4, &[]), frame(7, &[0, 0])]), FRAME_ERROR),
        ("CANCEL_PUSH of nothing", control(&[frame(4, &[]), frame(3, &[5])]), ID_ERROR),
    ];
    for (name, bytes, code) in cases {
        let raw = Raw::with_control(&chain, &bytes).await;
        assert_eq!(raw.closed().await, code, "{name}");
    }
    let mut raw = Raw::connect(&chain).await;
    raw.control.finish().expect("finish");
    assert_eq!(raw.closed().await, CLOSED_CRITICAL_STREAM, "the control stream ends");
    for (name, kind, code) in [
        ("a second control stream", 0, STREAM_CREATION_ERROR),
        ("a push stream from a client", 1, STREAM_CREATION_ERROR),
    ] {
        let raw = Raw::connect(&chain).await;
        let mut stream = raw.connection.open_uni().await.expect("a stream");
        stream.write_all(&[kind]).await.expect("write");
        assert_eq!(raw.closed().await, code, "{name}");
    }
}

#[tokio::test]
async fn unknown_frames_settings_and_streams_are_ignored() {
    let chain = Chain::start().await;
    let mut grease = Vec::new();
    for value in [0x21 + 0x1f * 7, 12345] {
        varint(value, &mut grease);
    }
    let raw = Raw::with_control(&chain, &[vec![0], frame(4, &grease), frame(0x21, b"grease")].concat()).await;
    let mut stream = raw.connection.open_uni().await.expect("a stream");
    let mut unknown = Vec::new();
    varint(0x21 + 0x1f * 9, &mut unknown);
    // The server may refuse the rest of it with STOP_SENDING.
    let _ = stream.write_all(&unknown).await;
    let request = [frame(0x21, b"before"), head(&GET), frame(0x40, b"behind")].concat();
    assert_eq!(raw.request(&request).await, Outcome::Status(404));
}

#[tokio::test]
async fn floods_of_resets_and_of_memory_are_stopped() {
    let chain = Chain::start().await;
    let raw = Raw::connect(&chain).await;
    let request = head(&[&GET[..3], &[(":path", "/sse?interval=1000")]].concat());
    let closed = crate::chain::in_time("H3_EXCESSIVE_LOAD", async {
        loop {
            let Ok((mut send, mut receive)) = raw.connection.open_bi().await else { break raw.closed().await };
            if send.write_all(&request).await.is_err() {
                break raw.closed().await;
            }
            // A reset counts when the request was seen: wait for its head.
            if receive.read_chunk(1, true).await.is_err() {
                break raw.closed().await;
            }
            let _ = send.reset(0x10c_u32.into());
            let _ = receive.stop(0x10c_u32.into());
        }
    })
    .await;
    assert_eq!(closed, 0x107, "H3_EXCESSIVE_LOAD");
}
