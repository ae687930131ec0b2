//! The rate, queue and delay of one direction of a link.
//!
//! Called by the hub. Pure: `now` is passed in. A packet waits until those before it have been sent at the rate, takes
//! its own time to send, and arrives a constant delay later; a full queue drops it (drop-tail).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What a direction is like. Without a rate nothing ever waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Bits per second.
    pub rate: Option<u64>,
    /// From the last bit sent to the arrival.
    pub delay: Duration,
    /// Packets that may wait, the one being sent among them.
    pub queue: usize,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Lane {
    shape: Shape,
    /// When those that wait will have been sent.
    waiting: VecDeque<Instant>,
}

impl Lane {
    /// An empty lane.
    pub fn new(shape: Shape) -> Self {
        Self { shape, waiting: VecDeque::new() }
    }

    /// Takes a packet of `bytes`; says when it arrives, or nothing if the queue is full.
    pub fn admit(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let Some(rate) = self.shape.rate else { return Some(now + self.shape.delay) };
        while self.waiting.front().is_some_and(|sent| *sent <= now) {
            self.waiting.pop_front();
        }
        if self.waiting.len() >= self.shape.queue {
            return None;
        }
        let nanos = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(8_000_000_000) / rate.max(1);
        let sent = self.waiting.back().map_or(now, |last| (*last).max(now)) + Duration::from_nanos(nanos);
        self.waiting.push_back(sent);
        Some(sent + self.shape.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn packets_leave_at_the_rate_and_arrive_after_the_delay() {
        let start = trunkline::clock::now();
        let mut lane = Lane::new(Shape { rate: Some(10_000_000), delay: 15 * MS, queue: 25 });
        // 1,250 bytes take one millisecond at 10 Mbit/s.
        for count in 1..=10 {
            assert_eq!(lane.admit(start, 1_250), Some(start + 15 * MS + count * MS));
        }
        assert_eq!(lane.admit(start + 100 * MS, 1_250), Some(start + 116 * MS), "an idle lane owes nothing");
    }

    #[test]
    fn a_full_queue_drops_and_takes_again_when_one_has_left() {
        let start = trunkline::clock::now();
        let mut lane = Lane::new(Shape { rate: Some(10_000_000), delay: MS, queue: 2 });
        assert!(lane.admit(start, 1_250).is_some());
        assert!(lane.admit(start, 1_250).is_some());
        assert_eq!(lane.admit(start, 1_250), None);
        assert_eq!(lane.admit(start + MS, 1_250), Some(start + 4 * MS));
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let start = trunkline::clock::now();
        let mut lane = Lane::new(Shape { rate: None, delay: 15 * MS, queue: 0 });
        assert_eq!(lane.admit(start, 65_000), Some(start + 15 * MS));
    }
}
