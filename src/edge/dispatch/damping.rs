//! Paths that come and go (sans-IO): one that failed is used again after a second, after its next failure soon after that
//! only after three, then nine, to a minute. Requests do not follow it up and down.
//!
//! Invariant: a hold ends by itself, after `HOLD_MAX` at most.

use std::time::{Duration, Instant};

/// After the first failure.
const HOLD: Duration = Duration::from_secs(1);
/// At most.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// A path that was well for this long begins anew.
const FORGIVEN: Duration = Duration::from_secs(120);
/// Failures of several links of one path at once are one.
const TOGETHER: Duration = Duration::from_millis(500);

/// What is known of one path.
#[derive(Debug, Default)]
pub struct Damping {
    failures: u32,
    last: Option<Instant>,
    until: Option<Instant>,
}

impl Damping {
    /// A link on the path became suspect, or began to lose packets.
    pub fn handle_failure(&mut self, now: Instant) {
        match self.last {
            Some(last) if now < last + TOGETHER => return,
            Some(last) if now < last + FORGIVEN => self.failures += 1,
            _ => self.failures = 0,
        }
        self.last = Some(now);
        self.until = Some(now + HOLD.saturating_mul(3u32.saturating_pow(self.failures)).min(HOLD_MAX));
    }

    /// Whether other paths should be taken.
    pub fn is_held(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_that_flaps_every_second_is_left_at_most_six_times_in_a_minute() {
        let start = crate::clock::now();
        let (mut damping, mut left, mut used) = (Damping::default(), 0, true);
        for milli in 0..60_000u64 {
            let now = start + Duration::from_millis(milli);
            let is_up = (milli / 1_000) % 2 == 0;
            used = used || (is_up && !damping.is_held(now));
            if used && !is_up {
                (used, left) = (false, left + 1);
                damping.handle_failure(now);
            }
        }
        assert!((2..=6).contains(&left), "{left}");
    }

    #[test]
    fn a_single_failure_costs_a_second_and_two_links_at_once_are_one_failure() {
        let start = crate::clock::now();
        let mut damping = Damping::default();
        damping.handle_failure(start);
        damping.handle_failure(start + TOGETHER / 2);
        assert!(damping.is_held(start + HOLD / 2) && !damping.is_held(start + HOLD));
        damping.handle_failure(start + FORGIVEN * 2);
        assert!(!damping.is_held(start + FORGIVEN * 2 + HOLD), "long ago");
    }

    proptest! {
        #[test]
        fn no_path_is_held_for_longer_than_a_minute(failures in proptest::collection::vec(0u64..200, 1..60)) {
            let mut now = crate::clock::now();
            let mut damping = Damping::default();
            for wait in failures {
                now += Duration::from_secs(wait);
                damping.handle_failure(now);
                prop_assert!(!damping.is_held(now + HOLD_MAX));
            }
        }
    }
}
