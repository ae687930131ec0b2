//! When to dial again (sans-IO): at once after a loss, then with decorrelated jitter, slowly where the other end refused
//! who we are.

use std::time::Duration;

/// Shortest wait after the first retry.
const FIRST: Duration = Duration::from_millis(100);
/// A refused identity or version does not heal by itself soon.
const REFUSED: Duration = Duration::from_secs(30);

/// The waits between dials of one link.
#[derive(Debug)]
pub struct Backoff {
    last: Option<Duration>,
    max: Duration,
}

impl Backoff {
    /// No failures yet; waits grow to `max`.
    pub fn new(max: Duration) -> Self {
        Self { last: None, max: max.max(FIRST) }
    }

    /// The link came to be: the next loss is met at once.
    pub fn handle_ready(&mut self) {
        self.last = None;
    }

    /// A dial failed, or the link was lost: how long to wait. `random` is in 0..1.
    pub fn handle_failure(&mut self, random: f64) -> Duration {
        let wait = match self.last {
            None => Duration::ZERO,
            Some(last) => {
                let ceiling = (last * 3).clamp(FIRST, self.max);
                FIRST + (ceiling - FIRST).mul_f64(random.clamp(0.0, 1.0))
            }
        };
        self.last = Some(wait.max(FIRST));
        wait
    }

    /// The other end refused identity or version.
    pub fn handle_refused(&mut self) -> Duration {
        self.last = Some(self.max);
        REFUSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_retry_is_immediate_and_again_after_success() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        assert_eq!(backoff.handle_failure(0.5), Duration::ZERO);
        assert!(backoff.handle_failure(0.5) >= FIRST);
        backoff.handle_ready();
        assert_eq!(backoff.handle_failure(0.5), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn waits_stay_within_bounds_and_can_reach_the_longest(random in proptest::collection::vec(0.0..=1.0f64, 1..50)) {
            let max = Duration::from_secs(10);
            let mut backoff = Backoff::new(max);
            backoff.handle_failure(0.0);
            for random in random {
                let wait = backoff.handle_failure(random);
                prop_assert!((FIRST..=max).contains(&wait));
            }
            let mut backoff = Backoff::new(max);
            let longest = (0..12).map(|_| backoff.handle_failure(1.0)).max();
            prop_assert_eq!(longest, Some(max));
        }
    }
}
