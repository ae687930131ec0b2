//! From a request's path to its answer.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;

use super::body::{AnyBody, empty, full, with_trailers};
use super::files::Files;
use super::journal::{Journal, Tracked};
use super::link::Interim;
use super::pattern::PatternBody;
use super::query::Query;
use super::representation::Representation;
use super::{echo, events, websocket};
use crate::task::Tasks;

/// Most fields that `/fields` sends.
const FIELDS_MAX: usize = 400;

const HELP: &str = "\
This is Trunkline's built-in upstream.

/echo                method, path, fields and body of the request as JSON
/echo/body           the request body comes back as it arrives, trailers too
/hash                SHA-256 and length of the request body
/bytes/N             N reproducible bytes, with Range and ETag
/sse                 server-sent events: a clock (?interval=ms&count=n)
/ws                  WebSocket echo
/slow                a slow head and body (?delay=ms&chunk=bytes&chunks=n&interval=ms)
/abort               a body that is cut (?after=n&length=m)
/status/NNN          an answer with that status
/fields              many response fields (?count=n&size=bytes)
/trailers            a body with trailers
/early-hints         103, then 200 (?delay=ms)
/count               executions of a key (?key=k&delay=ms, &report to only look)
/log                 the requests so far (?prefix=/path)
";

/// Everything the upstream can answer.
pub struct Routes {
    files: Option<Files>,
    journal: Journal,
}

impl Routes {
    /// Routes with the static files of `root`, if any.
    ///
    /// # Errors
    /// When `root` cannot be read.
    pub fn new(root: Option<&Path>) -> io::Result<Self> {
        Ok(Self { files: root.map(Files::new).transpose()?, journal: Journal::default() })
    }

    /// Answers one request. `interim` takes 1xx responses where the protocol can send them.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        interim: Option<Interim>,
        tasks: Tasks,
    ) -> Result<Response<AnyBody>, Infallible> {
        let open = self.journal.open(&request);
        if request.uri().path() == "/ws" {
            return Ok(websocket::websocket(request, &tasks, open));
        }
        let method = request.method().clone();
        let mut response = self.route(request, interim).await;
        if method == Method::HEAD {
            response = without_body(response);
        }
        Ok(response.map(|body| Tracked::new(body, open).boxed_unsync()))
    }

    async fn route(&self, request: Request<Incoming>, interim: Option<Interim>) -> Response<AnyBody> {
        let uri = request.uri().clone();
        // A file goes before a built-in path of its name.
        if let Some(response) = self.file(&request).await {
            return response;
        }
        if uri.path() == "*" || (request.method() == Method::OPTIONS && !uri.path().starts_with("/echo")) {
            return options();
        }
        match uri.path() {
            "/echo" => echo::echo(request).await,
            "/echo/body" => echo::echo_body(request),
            "/hash" => echo::hash(request).await,
            "/count" => echo::count(request, &self.journal).await,
            "/sse" => events::sse(&uri),
            "/slow" => events::slow(&uri).await,
            "/abort" => events::abort(&uri),
            "/early-hints" => events::early_hints(&uri, interim).await,
            "/trailers" => trailers(),
            "/fields" => fields(&uri),
            "/log" => json(&json!(self.journal.entries(Query::of(&uri).get("prefix").unwrap_or("/")))),
            path => match path.split_at_checked(1).and_then(|(_, path)| path.split_once('/')) {
                Some(("bytes", length)) => bytes(length, &request),
                Some(("status", code)) => status(code),
                _ => nothing(&uri),
            },
        }
    }

    async fn file(&self, request: &Request<Incoming>) -> Option<Response<AnyBody>> {
        self.files.as_ref()?.answer(request).await
    }
}

/// No file and no built-in path.
fn nothing(uri: &Uri) -> Response<AnyBody> {
    match uri.path() {
        "/" => plain(StatusCode::OK, HELP),
        _ => plain(StatusCode::NOT_FOUND, "not found\n"),
    }
}

/// `/bytes/N`
fn bytes(length: &str, request: &Request<Incoming>) -> Response<AnyBody> {
    let Ok(length) = length.parse::<u64>() else { return plain(StatusCode::NOT_FOUND, "not a number of bytes\n") };
    let representation = Representation {
        length,
        etag: format!("\"pattern-{length}\""),
        modified: None,
        content_type: "application/octet-stream".to_owned(),
    };
    let content = |part: std::ops::Range<u64>| PatternBody::new(part.start, part.end - part.start).boxed_unsync();
    representation.respond(request.method(), request.headers(), content)
}

/// `/status/NNN`
fn status(code: &str) -> Response<AnyBody> {
    let Some(status) = StatusCode::from_bytes(code.as_bytes()).ok().filter(|status| !status.is_informational()) else {
        return plain(StatusCode::NOT_FOUND, "not a final status\n");
    };
    match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => {
            let mut response = Response::new(empty());
            *response.status_mut() = status;
            response
        }
        status if status.is_redirection() => with_field(plain(status, format!("{status}\n")), LOCATION, "/"),
        status => plain(status, format!("{status}\n")),
    }
}

/// `/trailers`
fn trailers() -> Response<AnyBody> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("abc123"));
    trailers.insert("x-count", HeaderValue::from_static("1"));
    let response = Response::new(with_trailers("trailers follow\n", trailers));
    with_field(with_field(response, TRAILER, "x-checksum, x-count"), CONTENT_TYPE, "text/plain")
}

/// `/fields?count=n&size=bytes`
fn fields(uri: &Uri) -> Response<AnyBody> {
    let query = Query::of(uri);
    let value = "v".repeat(query.number("size", 10));
    let mut response = plain(StatusCode::OK, "many fields\n");
    for n in 0..query.number("count", 10_usize).min(FIELDS_MAX) {
        if let Ok(name) = HeaderName::try_from(format!("x-field-{n}")) {
            response = with_field(response, name, &value);
        }
    }
    response
}

fn options() -> Response<AnyBody> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    with_field(response, ALLOW, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
}

/// The answer to HEAD: the same fields, with the length that GET would have where it is known.
fn without_body(response: Response<AnyBody>) -> Response<AnyBody> {
    let length = http_body::Body::size_hint(response.body()).exact();
    let (mut head, _) = response.into_parts();
    let silent = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let (Some(length), false) = (length, silent || head.headers.contains_key(CONTENT_LENGTH)) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(head, empty())
}

/// A text answer.
pub fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<AnyBody> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    with_field(response, CONTENT_TYPE, "text/plain; charset=utf-8")
}

/// A JSON answer.
pub fn json(value: &serde_json::Value) -> Response<AnyBody> {
    with_field(Response::new(full(format!("{value}\n"))), CONTENT_TYPE, "application/json")
}

/// `response` with one more field; a value that is none is left out.
pub fn with_field(mut response: Response<AnyBody>, name: HeaderName, value: &str) -> Response<AnyBody> {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}
