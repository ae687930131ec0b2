//! Stage 8: the deadlines of one request on its connection, with one timer.
//!
//! Polled by the request's future until the response head is there, and by the response body after that. The timer is
//! not moved at every piece of progress: when it fires, it looks how far things are and is set anew.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::outgoing::{Phase, Progress};
use crate::clock;
use crate::config::UpstreamLimits;
use crate::fault::{Fault, Kind, Side, Stage};

/// What the response side owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// The head: within the response timeout from the end of the request.
    Head,
    /// Bytes of the body: some within every body timeout, counted from here.
    Body(Instant),
    /// Nothing by any time: an event stream.
    Nothing,
}

/// Deadlines of one request.
pub(super) struct Watch {
    progress: Arc<Progress>,
    due: Due,
    response_timeout: Duration,
    body_timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    pub(super) fn new(progress: Arc<Progress>, limits: &UpstreamLimits) -> Self {
        let UpstreamLimits { response_timeout, body_timeout, .. } = *limits;
        Self { progress, due: Due::Head, response_timeout, body_timeout, timer: None }
    }

    /// How far the request is.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The head came. `steady` is whether its body must keep coming.
    pub(super) fn handle_head(&mut self, steady: bool) {
        self.due = if steady { Due::Body(clock::now()) } else { Due::Nothing };
    }

    /// The response body moved.
    pub(super) fn handle_progress(&mut self) {
        if let Due::Body(since) = &mut self.due {
            *since = clock::now();
        }
    }

    /// Resolves when a deadline has passed. To be polled while the upstream owes something.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        loop {
            if let Some(timer) = &mut self.timer
                && timer.as_mut().poll(cx).is_pending()
            {
                return Poll::Pending;
            }
            let now = clock::now();
            match self.check(now) {
                Ok(next) => match &mut self.timer {
                    Some(timer) => timer.as_mut().reset(next.into()),
                    None => self.timer = Some(Box::pin(tokio::time::sleep_until(next.into()))),
                },
                Err(kind) => return Poll::Ready(Fault::new(Stage::Upstream, Side::Upstream, kind)),
            }
        }
    }

    /// When to look again, or what is late.
    fn check(&self, now: Instant) -> Result<Instant, Kind> {
        let (phase, since) = self.progress.phase();
        let sending = (phase == Phase::Sending).then(|| (since + self.body_timeout, Kind::ConnectionWriteTimeout));
        let receiving = match self.due {
            Due::Head => (phase == Phase::Sent).then(|| (since + self.response_timeout, Kind::ResponseTimeout)),
            Due::Body(since) => Some((since + self.body_timeout, Kind::ConnectionReadTimeout)),
            Due::Nothing => None,
        };
        // Nothing is due now, but may be at once: look again before that could be late.
        let again = now + self.response_timeout.min(self.body_timeout);
        [sending, receiving]
            .into_iter()
            .flatten()
            .try_fold(again, |next, (deadline, kind)| if deadline <= now { Err(kind) } else { Ok(next.min(deadline)) })
    }
}
