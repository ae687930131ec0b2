//! Stage 1, what a TCP connection is doing: the basis of its idle, head and reset limits.
//!
//! Written by the connection's transport and requests, read by its driver ([`super::drive`]). Pure state: time is passed
//! in.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::super::metrics::ProtocolMetrics;
use crate::config::Limits;

/// Requests under way and since when nothing was.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    active: usize,
    requests: u64,
    resets: u64,
    idle_since: Instant,
    /// First byte of the head that is being read. HTTP/1.1 only: in HTTP/2 bytes come between requests too.
    head_since: Option<Instant>,
    times_heads: bool,
}

/// What the driver should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Look again then.
    Wait(Instant),
    /// No request for `idle_timeout`.
    Idle,
    /// A head took longer than `header_timeout`.
    HeadLate,
    /// More resets than `resets_max` and half of the requests.
    Excessive,
}

impl Activity {
    pub(super) fn new(now: Instant) -> Arc<Self> {
        let state = State { active: 0, requests: 0, resets: 0, idle_since: now, head_since: None, times_heads: false };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// The handshake is over; `times_heads` for HTTP/1.1.
    pub(super) fn established(&self, now: Instant, times_heads: bool) {
        let mut state = self.state.lock();
        state.idle_since = now;
        state.head_since = None;
        state.times_heads = times_heads;
    }

    /// Bytes came from the client.
    pub(super) fn bytes_read(&self, now: Instant) {
        let mut state = self.state.lock();
        if state.times_heads && state.active == 0 && state.head_since.is_none() {
            state.head_since = Some(now);
        }
    }

    /// A head is complete. Returns when its first byte came, as far as that is known.
    pub(super) fn request(self: &Arc<Self>, now: Instant, metrics: &ProtocolMetrics) -> (Active, Instant) {
        let mut state = self.state.lock();
        state.active += 1;
        state.requests += 1;
        let started = state.head_since.take().unwrap_or(now);
        (Active { activity: self.clone(), resets: metrics.resets.clone(), complete: false }, started)
    }

    pub(super) fn verdict(&self, now: Instant, limits: &Limits) -> Verdict {
        let state = self.state.lock();
        if state.resets > u64::from(limits.resets_max) + state.requests / 2 {
            return Verdict::Excessive;
        }
        if state.active > 0 {
            return Verdict::Wait(now + limits.idle_timeout);
        }
        let (deadline, reached) = match state.head_since {
            Some(since) => (since + limits.header_timeout, Verdict::HeadLate),
            None => (state.idle_since + limits.idle_timeout, Verdict::Idle),
        };
        if deadline <= now { reached } else { Verdict::Wait(deadline) }
    }
}

/// A request under way; dropped before [`Active::complete`] it counts as a reset by the client.
#[derive(Debug)]
pub(super) struct Active {
    activity: Arc<Activity>,
    resets: prometheus_client::metrics::counter::Counter,
    complete: bool,
}

impl Active {
    /// The response has been handed over whole, or it is not the client who cuts it.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut state = self.activity.state.lock();
        state.active = state.active.saturating_sub(1);
        state.idle_since = crate::clock::now();
        if !self.complete {
            state.resets += 1;
            self.resets.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::registry::Registry;

    use super::*;
    use crate::edge::listener::metrics::ListenerMetrics;

    fn limits() -> Limits {
        Limits {
            idle_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(10),
            resets_max: 2,
            ..Limits::default()
        }
    }

    fn metrics() -> ProtocolMetrics {
        ListenerMetrics::register(&mut Registry::default()).http1
    }

    #[tokio::test]
    async fn a_connection_is_idle_only_without_requests() {
        let start = crate::clock::now();
        let activity = Activity::new(start);
        assert_eq!(activity.verdict(start, &limits()), Verdict::Wait(start + Duration::from_secs(60)));
        assert_eq!(activity.verdict(start + Duration::from_secs(60), &limits()), Verdict::Idle);
        let (active, _) = activity.request(start, &metrics());
        let late = start + Duration::from_secs(600);
        assert_eq!(activity.verdict(late, &limits()), Verdict::Wait(late + Duration::from_secs(60)));
        drop(active);
        let ended = crate::clock::now();
        assert!(
            matches!(activity.verdict(ended, &limits()), Verdict::Wait(at) if at > start + Duration::from_secs(60))
        );
        assert_eq!(activity.verdict(ended + Duration::from_secs(60), &limits()), Verdict::Idle);
    }

    #[tokio::test]
    async fn a_head_is_timed_from_its_first_byte_however_slowly_the_rest_comes() {
        let start = crate::clock::now();
        let activity = Activity::new(start);
        activity.established(start, true);
        let at = |seconds| start + Duration::from_secs(seconds);
        activity.bytes_read(at(5));
        activity.bytes_read(at(14));
        assert_eq!(activity.verdict(at(14), &limits()), Verdict::Wait(at(15)));
        assert_eq!(activity.verdict(at(15), &limits()), Verdict::HeadLate);
        let (active, started) = activity.request(at(15), &metrics());
        assert_eq!(started, at(5));
        activity.bytes_read(at(16));
        drop(active);
        assert!(matches!(activity.verdict(at(16), &limits()), Verdict::Wait(_)), "body bytes are no head");
    }

    #[tokio::test]
    async fn http2_bytes_between_requests_are_no_head() {
        let start = crate::clock::now();
        let activity = Activity::new(start);
        activity.established(start, false);
        activity.bytes_read(start);
        assert_eq!(activity.verdict(start, &limits()), Verdict::Wait(start + Duration::from_secs(60)));
    }

    #[tokio::test]
    async fn resets_beyond_the_limit_and_half_of_the_requests_are_excessive() {
        let start = crate::clock::now();
        let activity = Activity::new(start);
        let metrics = metrics();
        for _ in 0..4 {
            activity.request(start, &metrics).0.complete();
        }
        for number in 1..=8 {
            drop(activity.request(start, &metrics));
            let excessive = activity.verdict(start, &limits()) == Verdict::Excessive;
            // 4 + number requests: more than 2 + (4 + number) / 2 resets.
            assert_eq!(excessive, number > 2 + (4 + number) / 2, "{number}");
        }
        assert!(metrics.resets.get() >= 8);
    }
}
