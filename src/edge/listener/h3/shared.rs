//! Stage 1, HTTP/3: what the tasks of one connection share. Made by `connection`, held by its requests and the reader of
//! its unidirectional streams; does no I/O beyond closing the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tracing::debug;

use super::Context;
use super::code::{Code, Error};
use super::priority::Updates;
use super::window::SendWindow;
use crate::edge::listener::Client;
use crate::quic::Connection;

/// Requests at once that show that a client wants many. Less than what comes in its first packet, if it sends a hundred: it
/// knows of its streams before the first answer is complete, and does not look for a second connection.
const MANY: usize = 8;

/// One connection, as its tasks see it.
pub struct Shared {
    /// The QUIC connection.
    pub quinn: Connection,
    /// Who is at the other end.
    pub client: Arc<Client>,
    /// Limits, metrics and the owner of tasks.
    pub context: Arc<Context>,
    /// Priorities that came in PRIORITY_UPDATE frames.
    pub updates: Updates,
    window: SendWindow,
    /// The largest field section the client takes.
    pub field_section_max: AtomicU64,
    requests: AtomicU64,
    resets: AtomicU64,
    active: AtomicUsize,
    /// It may open as many streams as the limits say.
    wide: AtomicBool,
    idle: Notify,
}

impl Shared {
    /// For a connection without requests yet.
    pub fn new(quinn: Connection, client: Arc<Client>, context: Arc<Context>) -> Self {
        let streams_max = usize::try_from(context.limits.streams_max).unwrap_or(usize::MAX);
        let window = SendWindow::new(context.limits.send_window, context.send_budget.clone());
        Self {
            quinn,
            client,
            context,
            window,
            updates: Updates::new(streams_max),
            field_section_max: AtomicU64::new(u64::MAX),
            requests: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            wide: AtomicBool::new(false),
            idle: Notify::new(),
        }
    }

    /// Closes the connection because the client broke a rule of the whole connection.
    pub fn close(&self, code: Code, why: &'static str) {
        if self.quinn.close_reason().is_none() {
            debug!(client = %self.client.address, ?code, why, "closing HTTP/3 connection");
            self.context.metrics.connection_errors.inc();
            self.quinn.close(code.varint(), why.as_bytes());
        }
    }

    /// Closes the connection if the error is one of the connection; returns the code for the stream otherwise.
    pub fn escalate(&self, error: Error) -> Code {
        match error {
            Error::Connection(code, why) => {
                self.close(code, why);
                code
            }
            Error::Stream(code, _) => code,
        }
    }

    /// Bytes of a body were written: the connection holds as many as its path is worth.
    pub fn count_written(&self, bytes: u64) {
        if let Some(size) = self.window.handle_written(bytes, || self.quinn.stats().path.cwnd) {
            self.quinn.set_send_window(size);
        }
    }

    /// Requests that were begun so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// A request begins; it counts as running until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> Active {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.context.metrics.requests.inc();
        let active = self.hold();
        if self.active.load(Ordering::Relaxed) >= MANY && !self.wide.swap(true, Ordering::Relaxed) {
            self.quinn.set_max_concurrent_bi_streams(self.context.limits.streams_max.into());
        }
        active
    }

    /// Something belonging to a request runs until the guard is dropped.
    pub fn hold(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        Active(Arc::clone(self))
    }

    /// The client made us throw a request away. Too many of them, beyond half of its requests, end the connection
    /// (RFC 9114 section 10.5): opening and resetting streams costs it nothing and our upstreams much.
    pub fn count_reset(&self) {
        let resets = self.resets.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let allowed = u64::from(self.context.limits.resets_max).saturating_add(self.requests() / 2);
        if resets > allowed && self.quinn.close_reason().is_none() {
            self.context.metrics.excessive_load.inc();
            self.close(Code::EXCESSIVE_LOAD, "too many stream resets");
        }
    }

    /// Resolves when no request runs.
    pub async fn idle(&self) {
        loop {
            let notified = self.idle.notified();
            if self.active.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// Keeps a connection from counting as idle.
pub struct Active(Arc<Shared>);

impl Drop for Active {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}
