//! Stage 8: a request body on its way to an upstream, watched.
//!
//! hyper's connection pulls it; [`super::watch`] looks at how far it is. It checks the bytes against the announced
//! length, so that a wrong body breaks its request instead of the upstream's next one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use crate::clock;
use crate::fault::{Fault, Side, Stage};

/// Whom the request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The upstream, to take what was handed over.
    Sending,
    /// The client, for more of the body.
    Starved,
    /// Nobody: it is complete.
    Sent,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    fault: Option<Fault>,
    aborted: bool,
    waker: Option<Waker>,
}

/// How far a request is; shared by the body, the request's future and the response body.
#[derive(Debug)]
pub(super) struct Progress(Mutex<State>);

impl Progress {
    fn new(phase: Phase) -> Self {
        let state = State { phase, since: clock::now(), fault: None, aborted: false, waker: None };
        Self(Mutex::new(state))
    }

    /// The request is being handed to a connection: time counts from here.
    pub(super) fn restart(&self) {
        self.0.lock().since = clock::now();
    }

    /// The phase and its beginning.
    pub(super) fn phase(&self) -> (Phase, Instant) {
        let state = self.0.lock();
        (state.phase, state.since)
    }

    /// Whether the whole request was handed over.
    pub(super) fn is_sent(&self) -> bool {
        self.0.lock().phase == Phase::Sent
    }

    /// Why the body could not be completed, if it was not the upstream.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.0.lock().fault
    }

    /// Ends an unfinished body with an error, so that hyper breaks the request off.
    pub(super) fn abort(&self) {
        let mut state = self.0.lock();
        if state.phase == Phase::Sent {
            return;
        }
        state.aborted = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn enter(&self, phase: Phase) {
        let mut state = self.0.lock();
        // Starving is not re-timed by spurious polls.
        if phase != state.phase || phase != Phase::Starved {
            state.phase = phase;
            state.since = clock::now();
        }
    }

    fn fail(&self, fault: Fault) -> Fault {
        self.0.lock().fault = Some(fault);
        fault
    }

    /// Whether the body must end now; otherwise it will be woken when it must.
    fn is_aborted(&self, cx: &Context<'_>) -> bool {
        let mut state = self.0.lock();
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            empty => *empty = Some(cx.waker().clone()),
        }
        state.aborted
    }
}

type Inner = Pin<Box<dyn Body<Data = Bytes, Error = Fault> + Send>>;

/// A request body.
pub(super) struct Outgoing {
    inner: Option<Inner>,
    /// Bytes still to come if the head announced a length.
    remaining: Option<u64>,
    progress: Arc<Progress>,
}

impl Outgoing {
    /// Wraps a body of `length` bytes, if the head says so.
    pub(super) fn new<B>(body: B, length: Option<u64>) -> Self
    where
        B: Body<Data = Bytes, Error = Fault> + Send + 'static,
    {
        if body.is_end_stream() && length.unwrap_or(0) == 0 {
            return Self::empty();
        }
        let progress = Arc::new(Progress::new(Phase::Sending));
        Self { inner: Some(Box::pin(body)), remaining: length, progress }
    }

    /// No body at all.
    pub(super) fn empty() -> Self {
        Self { inner: None, remaining: None, progress: Arc::new(Progress::new(Phase::Sent)) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    fn handle_frame(&mut self, frame: &Frame<Bytes>) -> Result<(), Fault> {
        if let Some(data) = frame.data_ref() {
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            if let Some(remaining) = &mut self.remaining {
                *remaining = remaining.checked_sub(length).ok_or_else(wrong_length)?;
            }
        }
        let ended = frame.is_trailers() || self.inner.as_ref().is_none_or(|inner| inner.is_end_stream());
        if ended {
            return self.handle_end();
        }
        self.progress.enter(Phase::Sending);
        Ok(())
    }

    fn handle_end(&mut self) -> Result<(), Fault> {
        self.inner = None;
        if self.remaining.is_some_and(|remaining| remaining > 0) {
            return Err(wrong_length());
        }
        self.progress.enter(Phase::Sent);
        Ok(())
    }
}

/// The client's body is not as long as its head says (RFC 9110 section 8.6).
fn wrong_length() -> Fault {
    Fault::bad_request(Stage::Upstream, http::StatusCode::BAD_REQUEST)
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        if this.progress.is_aborted(cx) {
            this.inner = None;
            return Poll::Ready(Some(Err(Fault::internal(Stage::Upstream, Side::Gateway))));
        }
        let checked = match inner.as_mut().poll_frame(cx) {
            Poll::Pending => {
                this.progress.enter(Phase::Starved);
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(frame))) => this.handle_frame(&frame).map(|()| Some(frame)),
            Poll::Ready(Some(Err(fault))) => Err(fault),
            Poll::Ready(None) => this.handle_end().map(|()| None),
        };
        match checked {
            Ok(frame) => Poll::Ready(frame.map(Ok)),
            Err(fault) => {
                this.inner = None;
                Poll::Ready(Some(Err(this.progress.fail(fault))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.inner, self.remaining) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Some(remaining)) => SizeHint::with_exact(remaining),
            (Some(inner), None) => inner.size_hint(),
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        // hyper drops a body it needs no more of, having all announced bytes; then the request is complete too.
        if self.inner.is_some() && self.remaining == Some(0) {
            self.progress.enter(Phase::Sent);
        }
    }
}
