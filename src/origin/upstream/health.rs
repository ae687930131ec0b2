//! Stage 8: passive health of one upstream. Pure: `now` is passed in.
//!
//! Called when connects succeed or fail. An upstream that cannot be connected to is skipped for a while that doubles;
//! it never stops a request when there is nothing else to try.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Whether connects to one upstream have failed lately.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: u32,
    down_until: Option<Instant>,
}

impl Health {
    /// Whether other upstreams should be tried first.
    pub(super) fn is_down(&self, now: Instant) -> bool {
        self.down_until.is_some_and(|until| now < until)
    }

    /// A connect succeeded.
    pub(super) fn handle_success(&mut self) {
        *self = Self::default();
    }

    /// A connect failed. Failures of connects that began before the last verdict do not add up: a burst counts once.
    pub(super) fn handle_failure(&mut self, now: Instant) {
        if self.is_down(now) {
            return;
        }
        let pause = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.down_until = now.checked_add(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn pauses_double_up_to_ten_seconds_and_a_success_ends_them() {
        let mut now = clock::now();
        let mut health = Health::default();
        for pause in [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000] {
            health.handle_failure(now);
            assert!(health.is_down(now + Duration::from_millis(pause - 1)), "{pause}");
            now += Duration::from_millis(pause);
            assert!(!health.is_down(now), "{pause}");
        }
        health.handle_failure(now);
        health.handle_success();
        assert!(!health.is_down(now));
        health.handle_failure(now);
        assert!(!health.is_down(now + FIRST), "back to the shortest pause");
    }

    #[test]
    fn a_burst_of_failures_counts_once() {
        let now = clock::now();
        let mut health = Health::default();
        for _ in 0..50 {
            health.handle_failure(now);
        }
        assert!(!health.is_down(now + FIRST));
    }
}
