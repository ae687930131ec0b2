//! The receiving half of one direction of an exchange (sans-IO): the offset, and the credit given to the other end.
//!
//! Invariant: `received <= granted`. The window starts small and doubles while the reader drains it within two round
//! trips, so a slow reader cannot pin memory and a fast one is not throttled. What it grows by comes from a budget of the
//! whole process and goes back when the reader gets slow. Where a client is the reader, all of it comes from its
//! connection's [`Credit`] as well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::credit::{Credit, WINDOW_MIN};
use super::retention::Budget;

/// Round trips that half of a window may last before the window is more than the reader needs.
pub(super) const IDLE_ROUND_TRIPS: u32 = 32;

/// The other end sent more than it was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes beyond the credit")]
pub struct Overrun;

/// See the module.
#[derive(Debug)]
pub struct Receiver {
    received: u64,
    granted: u64,
    window: u64,
    window_min: u64,
    window_max: u64,
    granted_at: Option<Instant>,
    budget: Arc<Budget>,
    /// What it is part of at an edge, where clients read.
    credit: Option<Arc<Credit>>,
}

impl Receiver {
    /// A direction at offset 0 with this window, announced in HELLO, which may grow to `window_max` within `budget`.
    pub fn new(window: u64, window_max: u64, budget: Arc<Budget>) -> Self {
        let window_max = window_max.max(window);
        let (window_min, credit) = (window, None);
        Self { received: 0, granted: window, window, window_min, window_max, granted_at: None, budget, credit }
    }

    /// For an exchange of the client connection that has `credit`: it starts with what is left there and in `budget`, `window` at
    /// most, and goes down to the least when its client takes little.
    pub fn of_client(credit: Arc<Credit>, window: u64, window_max: u64, budget: Arc<Budget>) -> Self {
        let opened = credit.open(window);
        let more = opened.saturating_sub(WINDOW_MIN);
        let window = if budget.reserve(more) { opened } else { opened - more };
        credit.release(opened - window);
        let mut receiver = Self::new(window, window_max, budget);
        receiver.window_min = window.min(WINDOW_MIN);
        receiver.credit = Some(credit);
        receiver
    }

    /// What the other end may send at first.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Bytes received in order so far, where the other end goes on after a resume, and how many more it may send.
    pub fn resume_point(&self) -> (u64, u64) {
        (self.received, self.granted.saturating_sub(self.received))
    }

    /// `bytes` came from the stream and were taken by the reader.
    ///
    /// # Errors
    /// [`Overrun`] if they exceed the credit: the other end is broken.
    pub fn handle_received(&mut self, bytes: u64) -> Result<(), Overrun> {
        self.received += bytes;
        if self.received > self.granted { Err(Overrun) } else { Ok(()) }
    }

    /// The offset and window to announce, once half of the window is used up.
    pub fn poll_ack(&mut self, now: Instant, rtt: impl FnOnce() -> Duration) -> Option<(u64, u64)> {
        let left = self.granted - self.received.min(self.granted);
        if left > self.window / 2 {
            return None;
        }
        let (took, rtt) = (self.granted_at.map(|at| now.saturating_duration_since(at)), rtt());
        if let Some(credit) = &self.credit {
            credit.handle_taken(self.unacknowledged(), now, rtt);
        }
        if took.is_none_or(|took| took < rtt * 2) {
            self.grow();
        } else if took.is_some_and(|took| took > rtt * IDLE_ROUND_TRIPS) {
            self.shrink();
        }
        self.granted_at = Some(now);
        self.granted = self.received + self.window;
        Some((self.received, self.window))
    }

    fn grow(&mut self) {
        let more = self.window.min(self.window_max - self.window);
        if more == 0 || !self.budget.reserve(more) {
            return;
        }
        let window = self.window + more;
        match &self.credit {
            Some(credit) if !credit.reserve(more, window, self.received) => self.budget.release(more),
            _ => self.window = window,
        }
    }

    fn shrink(&mut self) {
        let less = (self.window / 2).min(self.window - self.window_min);
        self.window -= less;
        self.budget.release(less);
        if let Some(credit) = &self.credit {
            credit.release(less);
        }
    }

    /// Bytes that came and that the other end still keeps.
    pub fn unacknowledged(&self) -> u64 {
        (self.received + self.window).saturating_sub(self.granted)
    }

    /// The last acknowledgement: everything came.
    pub fn final_ack(&self) -> (u64, u64) {
        (self.received, 0)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.budget.release(self.window - self.window_min);
        if let Some(credit) = &self.credit {
            credit.release(self.window);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(10);

    fn receiver(window: u64, window_max: u64) -> Receiver {
        Receiver::new(window, window_max, Arc::new(Budget::new(1 << 30)))
    }

    #[test]
    fn the_window_grows_for_a_fast_reader_and_stays_for_a_slow_one() {
        let start = crate::clock::now();
        let (mut fast, mut slow) = (receiver(1000, 8000), receiver(1000, 8000));
        let (mut at, mut windows) = (start, (0, 0));
        for step in 0..20 {
            fast.handle_received(500).unwrap();
            if let Some((_, window)) = fast.poll_ack(start + RTT / 2 * step, || RTT) {
                windows.0 = window;
            }
            at += RTT * 10;
            slow.handle_received(500).unwrap();
            if let Some((_, window)) = slow.poll_ack(at, || RTT) {
                windows.1 = window;
            }
        }
        assert!(windows.0 >= 4000, "{windows:?}");
        assert!(windows.1 <= 2000, "{windows:?}");
    }

    #[test]
    fn bytes_beyond_the_credit_are_an_error() {
        let mut receiver = receiver(10, 10);
        assert_eq!(receiver.handle_received(10), Ok(()));
        assert_eq!(receiver.handle_received(1), Err(Overrun));
    }

    #[test]
    fn windows_grow_within_the_budget_and_give_it_back() {
        let budget = Arc::new(Budget::new(1500));
        let start = crate::clock::now();
        let drain = |receiver: &mut Receiver, at| {
            let left = receiver.granted - receiver.received;
            receiver.handle_received(left).unwrap();
            receiver.poll_ack(at, || RTT).unwrap().1
        };
        let mut first = Receiver::new(1000, 8000, budget.clone());
        let mut second = Receiver::new(1000, 8000, budget.clone());
        assert_eq!(drain(&mut first, start), 2000);
        assert_eq!(drain(&mut second, start), 1000, "nothing is left");
        assert_eq!(drain(&mut first, start + RTT * 100), 1000, "a slow reader needs less");
        assert_eq!(drain(&mut second, start + RTT), 2000);
        drop((first, second));
        assert_eq!(budget.used(), 0);
    }
}
