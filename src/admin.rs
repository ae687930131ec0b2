//! The admin listener: `/metrics`, `/healthz`, `/readyz`, `/status` and `POST /drain` over HTTP/1.1, for the operator
//! and the supervisor of this machine. Started by both binaries; decides nothing but drain, which it passes on.
//!
//! Bounded in every direction: few connections, one request on each, a deadline for all of it, bodies unread.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ORIGIN};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

pub use self::readiness::Readiness;
pub use self::socket::AdminSocket;
use self::socket::Stream;
use crate::task::{Shutdown, Tasks};

pub mod client;
mod readiness;
mod socket;

/// Connections at once; more are closed unread.
const CONNECTIONS_MAX: usize = 64;
/// From a connection's first byte to the end of its request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole connection, which carries one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes and fields of a request head.
const HEAD_MAX: usize = 16 << 10;
const FIELDS_MAX: usize = 64;

type Answer = Response<Full<Bytes>>;
/// Answers a request.
type Respond = fn(&Admin) -> Answer;

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";
/// What `prometheus-client` writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the admin listener tells.
pub struct Admin {
    /// The metrics of the process.
    pub registry: Registry,
    /// Whether new work is wanted.
    pub readiness: Readiness,
    /// The answer to `/status`; called on the admin listener's thread, must not block.
    pub status: Report,
    /// Drained by `POST /drain`.
    pub shutdown: Shutdown,
    /// What only this binary can be asked: paths of POST, and what each does.
    pub commands: Vec<(&'static str, Command)>,
}

/// Does what it is asked, given the query of the path, and answers; or says why not. Called on the admin listener's thread,
/// must not block; what takes long may be dropped after 15 s.
pub type Command = Box<dyn Fn(&str) -> BoxFuture<'static, Result<Value, String>> + Send + Sync>;

/// Something the admin listener asks the process.
pub type Report = Box<dyn Fn() -> Value + Send + Sync>;

/// Answers on `socket` until force begins, so that a drain can be watched. The tasks belong to `tasks`: give it an
/// owner that is not waited for by the drain.
pub fn start(socket: AdminSocket, admin: Admin, tasks: &Tasks) {
    let owner = tasks.clone();
    tasks.spawn(async move { accept(socket, Arc::new(admin), &owner).await });
}

async fn accept(socket: AdminSocket, admin: Arc<Admin>, tasks: &Tasks) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match socket.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, or a peer that was gone first: neither ends the listener, nor may it spin.
                tracing::warn!(%error, "admin connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            tracing::warn!(max = CONNECTIONS_MAX, "too many admin connections");
            continue;
        };
        let admin = admin.clone();
        tasks.spawn(async move {
            if tokio::time::timeout(CONNECTION_TIMEOUT, converse(stream, &admin)).await.is_err() {
                tracing::debug!("admin connection cut at its deadline");
            }
            drop(slot);
        });
    }
}

async fn converse(stream: Stream, admin: &Admin) {
    let service = service_fn(async |request: Request<Incoming>| Ok::<_, Infallible>(admin.answer(&request).await));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .max_headers(FIELDS_MAX)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "admin connection");
    }
}

impl Admin {
    async fn answer<B>(&self, request: &Request<B>) -> Answer {
        let read = [Method::GET, Method::HEAD];
        let path = request.uri().path();
        let command = self.commands.iter().find(|(name, _)| *name == path).map(|(_, command)| command);
        let (allowed, answer): (&[Method], Respond) = match path {
            "/metrics" => (&read, Self::metrics),
            "/healthz" => (&read, |_| text(StatusCode::OK, PLAIN, "ok\n")),
            "/readyz" => (&read, Self::ready),
            "/status" => (&read, |admin| json_text(StatusCode::OK, &(admin.status)())),
            "/drain" => (&[Method::POST], Self::drain),
            _ if command.is_some() => (&[Method::POST], |_| not_found()),
            _ => return not_found(),
        };
        if !allowed.contains(request.method()) {
            return not_allowed(allowed);
        }
        // A web page may make a browser on this machine post here (no preflight asks first); nothing else sends Origin.
        if request.method() == Method::POST && request.headers().contains_key(ORIGIN) {
            return text(StatusCode::FORBIDDEN, PLAIN, "not for web pages\n");
        }
        match command {
            Some(command) => run(path, command, request.uri().query().unwrap_or_default()).await,
            None => answer(self),
        }
    }

    fn metrics(&self) -> Answer {
        let mut body = String::new();
        match encode(&mut body, &self.registry) {
            Ok(()) => text(StatusCode::OK, OPENMETRICS, body),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "metrics cannot be encoded\n"),
        }
    }

    fn ready(&self) -> Answer {
        let reasons = self.readiness.reasons();
        let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json_text(status, &json!({ "ready": reasons.is_empty(), "reasons": reasons }))
    }

    fn drain(&self) -> Answer {
        tracing::info!("drain asked for by the admin listener");
        self.shutdown.start_drain();
        json_text(StatusCode::ACCEPTED, &json!({ "draining": true }))
    }
}

/// Does what an operator asks.
async fn run(path: &str, command: &Command, query: &str) -> Answer {
    tracing::info!(path, query, "asked for by the admin listener");
    match command(query).await {
        Ok(value) => json_text(StatusCode::ACCEPTED, &value),
        Err(reason) => json_text(StatusCode::CONFLICT, &json!({ "error": reason })),
    }
}

fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, PLAIN, "not found\n")
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn json_text(status: StatusCode, value: &Value) -> Answer {
    text(status, JSON, format!("{value}\n"))
}

fn not_allowed(allowed: &[Method]) -> Answer {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "method not allowed\n");
    let allow = if allowed.contains(&Method::POST) { "POST" } else { "GET, HEAD" };
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

#[cfg(test)]
mod tests;
