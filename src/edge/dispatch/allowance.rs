//! How many replays overload may cause, and how many hedges doubt (sans-IO). Replays after a failure are bounded by what was in flight; but where
//! gateways refuse because they are full, sending again makes them fuller: those take from an allowance of 10 % of the
//! requests and 10 a second, saved up for at most 10 seconds.

use std::time::{Duration, Instant};

/// Earned by each request.
const PER_REQUEST: f64 = 0.1;
/// Earned each second.
const PER_SECOND: f64 = 10.0;
/// Saved up at most.
const SAVED_MAX: f64 = 100.0;

/// See the module.
#[derive(Debug)]
pub struct Allowance {
    saved: f64,
    updated: Instant,
}

impl Allowance {
    /// With a second's worth to begin with.
    pub fn new(now: Instant) -> Self {
        Self { saved: PER_SECOND, updated: now }
    }

    /// A request came.
    pub fn handle_request(&mut self) {
        self.saved = (self.saved + PER_REQUEST).min(SAVED_MAX);
    }

    /// Takes one replay from the allowance, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let elapsed: Duration = now.saturating_duration_since(self.updated);
        self.updated = now;
        self.saved = (self.saved + elapsed.as_secs_f64() * PER_SECOND).min(SAVED_MAX);
        let granted = self.saved >= 1.0;
        if granted {
            self.saved -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overload_of_ten_seconds_makes_a_tenth_more_attempts_beside_ten_a_second() {
        let mut now = crate::clock::now();
        let mut allowance = Allowance::new(now);
        let mut replays = 0;
        for _ in 0..10_000 {
            now += Duration::from_millis(1);
            allowance.handle_request();
            replays += u32::from(allowance.take(now));
        }
        assert!((1_090..=1_111).contains(&replays), "{replays}");
    }

    #[test]
    fn nothing_is_saved_beyond_ten_seconds() {
        let start = crate::clock::now();
        let mut allowance = Allowance::new(start);
        let later = start + Duration::from_secs(3_600);
        assert_eq!((0..500).filter(|_| allowance.take(later)).count(), 100);
    }
}
