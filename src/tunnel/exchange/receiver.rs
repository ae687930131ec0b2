//! The receiving half of one direction of an exchange (sans-IO): the offset, and the credit given to the other end.
//!
//! Invariant: `received <= granted`. The window starts small and doubles while the reader drains it within two round
//! trips, so a slow reader cannot pin memory and a fast one is not throttled.

use std::time::{Duration, Instant};

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
    window_max: u64,
    granted_at: Option<Instant>,
}

impl Receiver {
    /// A direction at offset 0 with this window, announced in HELLO, which may grow to `window_max`.
    pub fn new(window: u64, window_max: u64) -> Self {
        Self { received: 0, granted: window, window, window_max: window_max.max(window), granted_at: None }
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
        let quick = self.granted_at.is_none_or(|at| now.saturating_duration_since(at) < rtt() * 2);
        if quick {
            self.window = (self.window * 2).min(self.window_max);
        }
        self.granted_at = Some(now);
        self.granted = self.received + self.window;
        Some((self.received, self.window))
    }

    /// The last acknowledgement: everything came.
    pub fn final_ack(&self) -> (u64, u64) {
        (self.received, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(10);

    #[test]
    fn the_window_grows_for_a_fast_reader_and_stays_for_a_slow_one() {
        let start = crate::clock::now();
        let (mut fast, mut slow) = (Receiver::new(1000, 8000), Receiver::new(1000, 8000));
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
        let mut receiver = Receiver::new(10, 10);
        assert_eq!(receiver.handle_received(10), Ok(()));
        assert_eq!(receiver.handle_received(1), Err(Overrun));
    }
}
