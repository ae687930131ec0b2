//! What the built-in upstream did: one entry per request (`/log`) and executions per key (`/count`).
//!
//! Tests read it to prove that a cancellation arrived or that a POST ran once. Bounded: old entries fall out.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use serde::Serialize;

use super::body::{AnyBody, BodyError};

/// Requests remembered.
const ENTRIES_MAX: usize = 4_096;
/// Keys counted; a new key beyond them replaces the smallest.
const KEYS_MAX: usize = 4_096;

/// How far a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It runs.
    Open,
    /// Its response was handed over to the end.
    Finished,
    /// The client went away, or the response was cut.
    Cancelled,
}

/// One request.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    number: u64,
    method: String,
    path: String,
    version: String,
    request_id: Option<String>,
    state: State,
    sent: u64,
}

/// Executions of one key.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Executions {
    /// Request heads that arrived.
    pub started: u64,
    /// Request bodies that arrived whole.
    pub finished: u64,
    /// Request heads by method.
    pub methods: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Pages {
    next: u64,
    entries: VecDeque<Entry>,
    executions: BTreeMap<String, Executions>,
}

/// The record of one upstream process.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Pages>>);

impl Journal {
    /// Begins an entry; its state follows the returned guard.
    pub fn open<B>(&self, request: &http::Request<B>) -> Open {
        let mut pages = self.0.lock();
        let number = pages.next;
        pages.next += 1;
        if pages.entries.len() == ENTRIES_MAX {
            pages.entries.pop_front();
        }
        let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
        pages.entries.push_back(Entry {
            number,
            method: request.method().to_string(),
            path: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
            version: format!("{:?}", request.version()),
            request_id: id.map(ToOwned::to_owned),
            state: State::Open,
            sent: 0,
        });
        Open { journal: self.clone(), number, sent: 0, finished: false }
    }

    /// All remembered requests whose path starts with `prefix`, oldest first.
    pub fn entries(&self, prefix: &str) -> Vec<Entry> {
        self.0.lock().entries.iter().filter(|entry| entry.path.starts_with(prefix)).cloned().collect()
    }

    /// Counts the arrival of a request for `key`.
    pub fn started(&self, key: &str, method: &http::Method) {
        let mut pages = self.0.lock();
        if pages.executions.len() == KEYS_MAX && !pages.executions.contains_key(key) {
            pages.executions.pop_first();
        }
        let executions = pages.executions.entry(key.to_owned()).or_default();
        executions.started += 1;
        *executions.methods.entry(method.to_string()).or_default() += 1;
    }

    /// Counts the whole arrival of a request body for `key`.
    pub fn finished(&self, key: &str) {
        if let Some(executions) = self.0.lock().executions.get_mut(key) {
            executions.finished += 1;
        }
    }

    /// What is counted for `key`.
    pub fn executions(&self, key: &str) -> Executions {
        self.0.lock().executions.get(key).cloned().unwrap_or_default()
    }
}

/// An entry under way. Dropped before [`Open::finish`], it is cancelled.
pub struct Open {
    journal: Journal,
    number: u64,
    sent: u64,
    finished: bool,
}

impl Open {
    /// The request came to its regular end.
    pub fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut pages = self.journal.0.lock();
        if let Some(entry) = pages.entries.iter_mut().rev().find(|entry| entry.number == self.number) {
            entry.state = if self.finished { State::Finished } else { State::Cancelled };
            entry.sent = self.sent;
        }
    }
}

/// A response body that ends its entry.
pub struct Tracked {
    inner: AnyBody,
    open: Open,
}

impl Tracked {
    /// Ties `open` to `inner`.
    pub fn new(inner: AnyBody, mut open: Open) -> Self {
        open.finished = inner.is_end_stream();
        Self { inner, open }
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.open.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        self.open.finished = match &frame {
            None => true,
            Some(Ok(_)) => self.inner.is_end_stream(),
            Some(Err(_)) => false,
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_is_dropped_early_is_cancelled_and_old_ones_fall_out() {
        let journal = Journal::default();
        let request = http::Request::get("/slow").body(()).expect("request");
        let mut first = journal.open(&request);
        let second = journal.open(&request);
        first.finish();
        drop(first);
        drop(second);
        let states: Vec<_> = journal.entries("/slow").iter().map(|entry| entry.state).collect();
        assert_eq!(states, [State::Finished, State::Cancelled]);
        for _ in 0..ENTRIES_MAX + 10 {
            drop(journal.open(&request));
        }
        assert_eq!(journal.entries("/").len(), ENTRIES_MAX);
    }
}
