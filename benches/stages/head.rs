//! Stages 1 and 6: a request head from HTTP/3 to the tunnel and a response head back.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use trunkline::config::Limits;
use trunkline::edge::listener::h3::fields;
use trunkline::edge::listener::h3::frame::{DATA, Decoder, HEADERS, put_head};
use trunkline::edge::listener::h3::qpack::encode;
use trunkline::tunnel::message::{
    Meta, RequestHead, ResponseHead, get_request, get_response, put_request, put_response,
};

use super::stopwatch::Stopwatch;

/// Measures each step of a head's way.
pub fn run(stopwatch: &Stopwatch) {
    let limits = Limits::default();
    let section = browser_section();
    let frame = framed(&section);
    stopwatch.measure("1 h3 frame, HEADERS", || {
        let mut decoder = Decoder::request(limits.field_section_max);
        decoder.decode(&mut frame.clone()).expect("a frame")
    });
    let body = body(&frame);
    stopwatch.measure("1 h3 frame, 16 KiB of DATA", || {
        let mut decoder = Decoder::request(limits.field_section_max);
        let mut left = body.clone();
        let events = std::iter::from_fn(|| decoder.decode(&mut left).expect("a frame")).count();
        (events, decoder.finish().is_ok())
    });
    stopwatch.measure("1 h3 fields, browser request", || fields::request(section.clone(), &limits).expect("a head"));
    let head = fields::request(section, &limits).expect("a head").head;
    tunnel_request(stopwatch, &head);
    tunnel_response(stopwatch);
}

fn tunnel_request(stopwatch: &Stopwatch, head: &RequestHead) {
    let meta =
        Meta { service: "web".to_owned(), request_id: Bytes::from_static(b"0123456789abcdef"), ..Meta::default() };
    let mut out = BytesMut::new();
    stopwatch.measure("6 tunnel request head, encode", || {
        out.clear();
        put_request(&mut out, head, &meta);
        out.len()
    });
    out.clear();
    put_request(&mut out, head, &meta);
    let payload = payload(&out);
    stopwatch.measure("6 tunnel request head, decode", || get_request(payload.clone()).expect("a head"));
}

fn tunnel_response(stopwatch: &Stopwatch) {
    let head = ResponseHead { status: StatusCode::OK, headers: answer_fields() };
    let mut out = BytesMut::new();
    stopwatch.measure("6 tunnel response head, encode", || {
        out.clear();
        put_response(&mut out, &head);
        out.len()
    });
    out.clear();
    put_response(&mut out, &head);
    let payload = payload(&out);
    stopwatch.measure("6 tunnel response head, decode", || get_response(payload.clone()).expect("a head"));
    stopwatch.measure("1 h3 fields, response encode", || {
        out.clear();
        encode::response(&mut out, head.status, &head.headers)
    });
}

/// A tunnel frame's payload: behind its one-byte type and its length.
fn payload(frame: &[u8]) -> Bytes {
    let mut frame = Bytes::copy_from_slice(frame);
    let _ = frame.split_to(1);
    let length = trunkline::tunnel::wire::get_varint(&mut frame).expect("a length");
    assert_eq!(length, frame.len() as u64, "one whole frame");
    frame
}

fn framed(section: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    put_head(&mut frame, HEADERS, section.len() as u64);
    frame.extend_from_slice(section);
    frame.freeze()
}

/// A request with its body: HEADERS, then DATA (RFC 9114 section 7.2.1).
fn body(headers: &[u8]) -> Bytes {
    let mut request = BytesMut::from(headers);
    put_head(&mut request, DATA, 16 << 10);
    request.put_bytes(b'0', 16 << 10);
    request.freeze()
}

/// What a browser sends with a GET, names and common values from the static table (RFC 9204 appendix A).
fn browser_section() -> Bytes {
    let mut section = BytesMut::from(&[0, 0, 0xc0 | 17, 0xc0 | 23][..]);
    named(&mut section, 0, "www.example.com");
    named(&mut section, 1, "/assets/app/main.3f9c2d1e.js?v=20261122");
    section.put_slice(&[0xc0 | 29, 0xc0 | 31]);
    named(&mut section, 72, "en-GB,en;q=0.9,de;q=0.8");
    named(&mut section, 13, "https://www.example.com/products/overview");
    named(&mut section, 5, "session=5f0c1d2e3b4a59687786958473625140; theme=dark");
    named(
        &mut section,
        95,
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0 Safari/537.36",
    );
    section.freeze()
}

/// A literal field line with a name of the static table, plain text (RFC 9204 section 4.5.4).
fn named(section: &mut BytesMut, name: u8, value: &str) {
    match name {
        0..15 => section.put_u8(0x50 | name),
        _ => section.put_slice(&[0x5f, name - 15]),
    }
    section.put_u8(u8::try_from(value.len()).expect("a short value"));
    section.put_slice(value.as_bytes());
}

fn answer_fields() -> HeaderMap {
    let fields = [
        (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (header::CONTENT_LENGTH, "18243"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::ETAG, "\"3f9c2d1e-4743\""),
        (header::DATE, "Sun, 22 Nov 2026 12:00:00 GMT"),
        (header::VARY, "accept-encoding"),
    ];
    fields.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
}
