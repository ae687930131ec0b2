//! Stage 1, HTTP/3: the body of one request. Owned by the spine; reads the stream when polled and at no other time, which is
//! the backpressure. It never ends cleanly unless the client ended the stream in order and every declared byte came.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Sleep;

use super::code::{Code, Error};
use super::fields::{self, Refusal};
use super::receive::{Batch, End, Receiver};
use super::shared::{Active, Shared};
use crate::clock;
use crate::edge::listener::head::BodyLength;
use crate::fault::{Fault, Kind, Side, Stage};

/// What the two directions of one request know of each other.
#[derive(Default)]
pub struct Gate {
    state: Mutex<GateState>,
    /// Counts progress of the response, so that a request body may rest while the response moves.
    progress: AtomicUsize,
    counted: AtomicBool,
}

#[derive(Default)]
enum GateState {
    /// The response is not complete.
    #[default]
    Open,
    /// The response is complete: what the spine does not want any more is stopped at once.
    Answered,
    /// The spine let the body go before its end; it is stopped after the response (RFC 9114 section 4.1), because clients
    /// exist that take an early STOP_SENDING for a failure.
    Returned(Receiver),
}

impl Gate {
    /// The response is complete, or there will be none.
    pub fn answered(&self, code: Code) {
        let before = std::mem::replace(&mut *self.state.lock(), GateState::Answered);
        if let GateState::Returned(receiver) = before {
            receiver.stop(code);
        }
    }

    /// The response moved on.
    pub fn progressed(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a cancelled request once, whichever direction sees it first.
    pub fn count_cancel(&self, shared: &Shared) {
        if !self.counted.swap(true, Ordering::Relaxed) {
            shared.context.metrics.cancelled.inc();
            shared.count_reset();
        }
    }

    fn give_back(&self, receiver: Receiver) {
        let mut state = self.state.lock();
        match *state {
            GateState::Open => *state = GateState::Returned(receiver),
            GateState::Answered | GateState::Returned(_) => {
                drop(state);
                receiver.stop(Code::NO_ERROR);
            }
        }
    }
}

/// A request body; for extended CONNECT the bytes from the client.
pub struct Body {
    /// Gone after an error.
    receiver: Option<Receiver>,
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    length: BodyLength,
    tunnel: bool,
    /// Received and counted, not handed on.
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
    patience: Patience,
    _active: Active,
}

impl Body {
    /// The body behind a head; `batch` is what came with the head.
    pub fn new(
        receiver: Receiver,
        batch: Batch,
        shared: &Arc<Shared>,
        length: Option<u64>,
        tunnel: bool,
        gate: Arc<Gate>,
    ) -> Result<Self, End> {
        let mut body = Self {
            receiver: Some(receiver),
            shared: Arc::clone(shared),
            gate,
            length: BodyLength::new(length),
            tunnel,
            data: None,
            trailers: None,
            patience: Patience::new(shared.context.limits.body_timeout),
            _active: shared.hold(),
        };
        body.take_in(batch)?;
        Ok(body)
    }

    fn is_ended(&self) -> bool {
        self.receiver.as_ref().is_none_or(Receiver::is_ended)
    }

    /// Checks and keeps what came.
    fn take_in(&mut self, batch: Batch) -> Result<(), End> {
        let moved = batch.data.is_some() || batch.trailers.is_some() || batch.end;
        if let Some(data) = batch.data {
            self.length.count(data.len()).map_err(Error::from)?;
            self.data = Some(data);
        }
        if batch.trailers.is_some() && self.tunnel {
            return Err(Error::Connection(Code::FRAME_UNEXPECTED, "HEADERS in a tunnel").into());
        }
        if batch.too_large {
            return Err(Error::malformed("trailers too large").into());
        }
        if let Some(section) = batch.trailers {
            let trailers = fields::trailers(section, &self.shared.context.limits);
            self.trailers = Some(trailers.map_err(|refusal| match refusal {
                Refusal::Error(error) => error,
                Refusal::Answer(_) => Error::malformed("trailers too large"),
            })?);
        }
        if batch.end || self.trailers.is_some() {
            self.length.finish().map_err(Error::from)?;
        }
        if moved {
            self.patience.reset();
        }
        Ok(())
    }

    /// What may be handed on. The bytes that complete the declared length wait for the end of the stream: if more follow, the
    /// request is malformed and must not have looked complete to anyone. Trailers wait for it too.
    fn ready(&mut self) -> Option<Frame<Bytes>> {
        let ended = self.is_ended();
        if self.data.is_some() && (ended || self.trailers.is_some() || !self.length.is_complete()) {
            return self.data.take().map(Frame::data);
        }
        if ended && self.data.is_none() { self.trailers.take().map(Frame::trailers) } else { None }
    }

    /// Ends the body with an error, and the stream or connection with a code.
    fn fail(&mut self, end: End) -> Fault {
        let receiver = self.receiver.take();
        (self.data, self.trailers) = (None, None);
        match end {
            End::Cancelled => self.gate.count_cancel(&self.shared),
            End::Lost => {}
            End::Error(error) => {
                let code = self.shared.escalate(error);
                self.shared.context.metrics.malformed.inc();
                self.shared.count_reset();
                if let Some(receiver) = receiver {
                    receiver.stop(code);
                }
                return Fault::bad_request(Stage::Listener, StatusCode::BAD_REQUEST);
            }
        }
        Fault::client_gone(Stage::Listener)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        loop {
            if let Some(frame) = self.ready() {
                return Poll::Ready(Some(Ok(frame)));
            }
            let Some(receiver) = self.receiver.as_mut().filter(|receiver| !receiver.is_ended()) else {
                return Poll::Ready(None);
            };
            let taken = match receiver.poll_batch(cx) {
                Poll::Ready(batch) => batch.and_then(|batch| self.take_in(batch)),
                Poll::Pending if self.tunnel => return Poll::Pending,
                Poll::Pending => {
                    if self.patience.poll_over(cx, self.gate.progress.load(Ordering::Relaxed)).is_pending() {
                        return Poll::Pending;
                    }
                    self.receiver = None;
                    let fault = Fault::new(Stage::Listener, Side::Client, Kind::ConnectionReadTimeout);
                    return Poll::Ready(Some(Err(fault)));
                }
            };
            if let Err(end) = taken {
                return Poll::Ready(Some(Err(self.fail(end))));
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.get_mut().poll_ready(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended() && self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.data.as_ref().map_or(0, |data| data.len() as u64);
        match self.length.left() {
            Some(left) => SizeHint::with_exact(left.saturating_add(held)),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(receiver) = self.receiver.take().filter(|receiver| !receiver.is_ended()) {
            self.gate.give_back(receiver);
        }
    }
}

/// How long the client may send nothing while somebody waits for it and nothing moves in the other direction either.
struct Patience {
    timeout: Duration,
    /// Since when we wait, and how far the response was then.
    waiting: Option<(Instant, usize)>,
    /// Made when first needed: most bodies are there before they are asked for.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(timeout: Duration) -> Self {
        Self { timeout, waiting: None, sleep: None }
    }

    fn reset(&mut self) {
        self.waiting = None;
    }

    /// Ready when it is over.
    fn poll_over(&mut self, cx: &mut Context<'_>, progress: usize) -> Poll<()> {
        loop {
            let now = clock::now();
            let since = match self.waiting {
                Some((since, then)) if then == progress => since,
                _ => {
                    self.waiting = Some((now, progress));
                    now
                }
            };
            let deadline = since + self.timeout;
            if now >= deadline {
                return Poll::Ready(());
            }
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            sleep.as_mut().reset(deadline.into());
        }
    }
}
