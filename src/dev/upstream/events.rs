//! Paths whose answers take time: `/sse`, `/slow`, `/abort`, `/early-hints`.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LINK};
use http::{Response, StatusCode, Uri};
use http_body_util::BodyExt;

use super::body::{AnyBody, Cut, Paced};
use super::link::Interim;
use super::pattern::PatternBody;
use super::query::Query;
use super::routes::{plain, with_field};

/// Largest piece of `/slow`, bytes.
const CHUNK_MAX: usize = 1 << 20;

/// `/sse?interval=ms&count=n`: a clock. The data of each event is the unix time in milliseconds at which it was made.
pub fn sse(uri: &Uri) -> Response<AnyBody> {
    let query = Query::of(uri);
    let interval = Duration::from_millis(query.number("interval", 1_000));
    let count = query.get("count").and_then(|count| count.parse().ok());
    let clock = Paced::new(count, interval, |number| {
        Bytes::from(format!("id: {number}\nevent: tick\ndata: {}\n\n", unix_milliseconds()))
    });
    let response = with_field(Response::new(clock.boxed_unsync()), CONTENT_TYPE, "text/event-stream");
    with_field(response, CACHE_CONTROL, "no-store")
}

/// `/slow?delay=ms&chunk=bytes&chunks=n&interval=ms`: the head after `delay`, then pieces at a pace.
pub async fn slow(uri: &Uri) -> Response<AnyBody> {
    let query = Query::of(uri);
    tokio::time::sleep(Duration::from_millis(query.number("delay", 1_000))).await;
    let size = query.number("chunk", 64_usize).min(CHUNK_MAX);
    let interval = Duration::from_millis(query.number("interval", 100));
    let piece = Bytes::from(vec![b'.'; size]);
    let body = Paced::new(Some(query.number("chunks", 1)), interval, move |_| piece.clone());
    with_field(Response::new(body.boxed_unsync()), CONTENT_TYPE, "text/plain")
}

/// `/abort?after=n&length=m`: breaks after `n` bytes of the pattern; announces `m` bytes, or no length without it.
pub fn abort(uri: &Uri) -> Response<AnyBody> {
    let query = Query::of(uri);
    let body = Cut::after(PatternBody::new(0, query.number("after", 1_000)));
    let response = with_field(Response::new(body.boxed_unsync()), CONTENT_TYPE, "application/octet-stream");
    match query.get("length") {
        Some(length) => with_field(response, CONTENT_LENGTH, length),
        None => response,
    }
}

/// `/early-hints?delay=ms`: 103, then 200 after `delay`. Over HTTP/2 there is no 103: hyper's server cannot send it.
pub async fn early_hints(uri: &Uri, interim: Option<Interim>) -> Response<AnyBody> {
    let delay = Duration::from_millis(Query::of(uri).number("delay", 0));
    if let Some(interim) = interim {
        interim.send(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload; as=style\r\n\r\n");
        // At least one return to the connection, which flushes.
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(delay).await;
    with_field(plain(StatusCode::OK, "hinted\n"), LINK, "</style.css>; rel=preload; as=style")
}

fn unix_milliseconds() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis())
}
