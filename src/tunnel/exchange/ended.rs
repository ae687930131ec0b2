//! Which exchanges of a peer must not be started (again) here (sans-IO): a gateway asks before it starts one.
//!
//! OPEN travels on one link. If that link dies first, the edge's RESUME on another link is the first that the gateway
//! hears of the exchange, and it starts there. Both may come, in either order and late; the handler must run once.
//!
//! Invariant: a counter is answered as known from [`Ended::handle_end`] on for [`MEMORY`] at least.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Longer than a datagram, an unread socket buffer or a detached exchange's grace time lasts.
pub const MEMORY: Duration = Duration::from_secs(60);
/// Counters remembered one by one; when there are more, everything up to the oldest counts as known.
const COUNTERS_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Ended {
    in_time: VecDeque<(Instant, u64)>,
    counters: BTreeSet<u64>,
    /// Everything below counts as known: it was more than could be remembered.
    floor: u64,
}

impl Ended {
    /// An exchange ended that another OPEN or RESUME might still come for.
    pub fn handle_end(&mut self, now: Instant, counter: u64) {
        self.forget(now);
        if self.counters.insert(counter) {
            self.in_time.push_back((now + MEMORY, counter));
        }
        if self.in_time.len() > COUNTERS_MAX
            && let Some((_, oldest)) = self.in_time.pop_front()
        {
            self.counters.remove(&oldest);
            self.floor = self.floor.max(oldest + 1);
        }
    }

    /// Whether the exchange may have been here.
    pub fn knows(&self, counter: u64) -> bool {
        counter < self.floor || self.counters.contains(&counter)
    }

    fn forget(&mut self, now: Instant) {
        while let Some((until, counter)) = self.in_time.front().copied() {
            if until > now {
                break;
            }
            self.in_time.pop_front();
            self.counters.remove(&counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_is_known_for_its_time_and_then_forgotten() {
        let (mut ended, start) = (Ended::default(), crate::clock::now());
        ended.handle_end(start, 7);
        ended.handle_end(start + MEMORY / 2, 9);
        assert!(ended.knows(7) && ended.knows(9) && !ended.knows(8));
        ended.handle_end(start + MEMORY, 11);
        assert!(!ended.knows(7) && ended.knows(9) && ended.knows(11));
    }

    #[test]
    fn more_than_can_be_remembered_makes_all_older_ones_known() {
        let (mut ended, start) = (Ended::default(), crate::clock::now());
        for counter in 0..=COUNTERS_MAX as u64 {
            ended.handle_end(start, counter * 2 + 10);
        }
        assert!(ended.knows(10) && ended.knows(3) && !ended.knows(13));
        assert_eq!(ended.counters.len(), COUNTERS_MAX);
    }
}
