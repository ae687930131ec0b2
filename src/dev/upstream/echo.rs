//! Paths that answer with what they were sent: `/echo`, `/echo/body`, `/hash`, `/count`.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TRAILER};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::body::{AnyBody, BodyError};
use super::journal::Journal;
use super::query::Query;
use super::routes::{json, plain};
use super::sha256::Sha256;

/// Longest body that `/echo` repeats as text.
const TEXT_MAX: usize = 64 << 10;

/// What a request body was.
struct Read {
    length: u64,
    sha256: String,
    start: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// `/echo`: the request as JSON. `/echo/body` is [`echo_body`].
pub async fn echo(request: Request<Incoming>) -> Response<AnyBody> {
    let (head, body) = request.into_parts();
    let body = match read(body).await {
        Ok(body) => body,
        Err(error) => return plain(StatusCode::BAD_REQUEST, format!("request body: {error}\n")),
    };
    let text = (body.length <= TEXT_MAX as u64).then(|| String::from_utf8_lossy(&body.start).into_owned());
    json(&json!({
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map(ToString::to_string),
        "authority": head.uri.authority().map(ToString::to_string),
        "version": format!("{:?}", head.version),
        "headers": fields(&head.headers),
        "length": body.length,
        "sha256": body.sha256,
        "body": text,
        "trailers": body.trailers.as_ref().map(fields),
    }))
}

/// `/hash`: SHA-256 and length of the request body, read as fast as it comes.
pub async fn hash(request: Request<Incoming>) -> Response<AnyBody> {
    match read(request.into_body()).await {
        Ok(body) => json(&json!({ "length": body.length, "sha256": body.sha256 })),
        Err(error) => plain(StatusCode::BAD_REQUEST, format!("request body: {error}\n")),
    }
}

/// `/count?key=K`: counts this execution; with `&report` it only tells. Any `delay` (ms) lies between the count and
/// the answer.
pub async fn count(request: Request<Incoming>, journal: &Journal) -> Response<AnyBody> {
    let uri = request.uri().clone();
    let query = Query::of(&uri);
    let key = query.get("key").unwrap_or("");
    if query.get("report").is_none() {
        journal.started(key, request.method());
        if let Err(error) = read(request.into_body()).await {
            return plain(StatusCode::BAD_REQUEST, format!("request body: {error}\n"));
        }
        journal.finished(key);
        tokio::time::sleep(std::time::Duration::from_millis(query.number("delay", 0))).await;
    }
    json(&json!(journal.executions(key)))
}

/// `/echo/body`: the request body comes back while it is still arriving, with its trailers.
pub fn echo_body(request: Request<Incoming>) -> Response<AnyBody> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Same(body).boxed_unsync());
    for name in [CONTENT_TYPE, TRAILER] {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// A request body as a response body.
struct Same(Incoming);

impl Body for Same {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.0).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

async fn read(mut body: Incoming) -> Result<Read, hyper::Error> {
    let (mut hash, mut length, mut start, mut trailers) = (Sha256::new(), 0, Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                hash.update(&data);
                length += data.len() as u64;
                start.extend_from_slice(data.get(..data.len().min(TEXT_MAX - start.len())).unwrap_or(&[]));
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Read { length, sha256: hash.finish(), start, trailers })
}

/// Fields in the order they came, repeated ones repeated.
fn fields(headers: &HeaderMap) -> Value {
    headers.iter().map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])).collect()
}
