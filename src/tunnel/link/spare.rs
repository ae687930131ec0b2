//! Whether short datagrams of a link are worth sending twice (sans-IO): its way loses some, and what it carries leaves room for
//! them. Asked by [`super::pulse`] at each tick; who sends them is [`crate::quic::Copies`].
//!
//! Invariants: copies are asked for only while what was sent lately is at most half of what congestion control allows, so that
//! together they are within it; what copies hide of the loss is still told for [`HOLD`], and then it is looked at anew.

use std::time::{Duration, Instant};

/// Loss from which a second copy pays, thousandths: of a hundred short requests with their answers half a one is hit.
const LOSS_MIN: u64 = 2;
/// How long a loss that was seen counts. Copies hide it, and the second without them that it takes to see it again is a small part.
const HOLD: Duration = Duration::from_secs(10);
/// Between two looks at how full the way is, at least.
const LOOK: Duration = Duration::from_millis(100);

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It loses nothing to speak of.
    Sound,
    /// It loses some, and half of it is free.
    Spare,
    /// It loses some, and is in use.
    Full,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Spare {
    way: Way,
    /// The largest loss seen lately, thousandths.
    loss: u64,
    loss_until: Instant,
    looked: Instant,
    /// Bytes sent until then.
    sent: u64,
}

impl Spare {
    pub(super) fn new(now: Instant) -> Self {
        Self { way: Way::Sound, loss: 0, loss_until: now, looked: now, sent: 0 }
    }

    /// Of what was sent lately `permille` were lost. Answers how many would have been without copies.
    pub(super) fn handle_loss(&mut self, now: Instant, permille: u64) -> u64 {
        if permille >= self.loss || now >= self.loss_until {
            (self.loss, self.loss_until) = (permille, now + HOLD);
        }
        if self.way == Way::Spare { self.loss } else { permille }
    }

    /// The connection sent `sent` bytes until now and may have `window` on their way, which takes them `rtt` there and back.
    /// Answers how the way is, if it was looked at.
    pub(super) fn poll(&mut self, now: Instant, sent: u64, rtt: Duration, window: u64) -> Option<Way> {
        let elapsed = now.saturating_duration_since(self.looked);
        if elapsed < LOOK.max(rtt) {
            return None;
        }
        let bytes = sent.saturating_sub(self.sent);
        (self.looked, self.sent) = (now, sent);
        // bytes * rtt / elapsed <= window / 2, in whole numbers.
        let used = u128::from(bytes) * rtt.as_micros() * 2;
        self.way = match used <= u128::from(window) * elapsed.as_micros() {
            _ if self.loss < LOSS_MIN => Way::Sound,
            true => Way::Spare,
            false => Way::Full,
        };
        Some(self.way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(20);
    const WINDOW: u64 = 14_520;
    /// Of 100 ms: half the window in each round trip.
    const HALF: u64 = WINDOW / 2 * 5;

    #[test]
    fn a_way_that_loses_some_is_spare_while_no_more_than_half_of_it_is_used() {
        let start = crate::clock::now();
        let mut spare = Spare::new(start);
        assert_eq!(spare.poll(start + LOOK, 0, RTT, WINDOW), Some(Way::Sound));
        assert_eq!(spare.handle_loss(start, LOSS_MIN - 1), LOSS_MIN - 1);
        assert_eq!(spare.poll(start + LOOK * 2, HALF, RTT, WINDOW), Some(Way::Sound));
        spare.handle_loss(start, LOSS_MIN);
        assert_eq!(spare.poll(start + LOOK * 3, HALF * 2, RTT, WINDOW), Some(Way::Spare));
        assert_eq!(spare.poll(start + LOOK * 4, HALF * 3 + 1, RTT, WINDOW), Some(Way::Full));
        assert_eq!(spare.poll(start + LOOK * 5 - RTT, HALF * 3 + 1, RTT, WINDOW), None, "too soon to say");
        let far = LOOK * 3;
        assert_eq!(spare.poll(start + LOOK * 6, HALF * 3 + 1, far, WINDOW), None, "not a round trip later");
        assert_eq!(spare.poll(start + LOOK * 7, HALF * 3 + 1, far, WINDOW), Some(Way::Spare));
    }

    #[test]
    fn a_loss_that_copies_hide_is_told_until_it_is_time_to_look_again() {
        let start = crate::clock::now();
        let mut spare = Spare::new(start);
        assert_eq!(spare.handle_loss(start, 30), 30);
        assert_eq!(spare.handle_loss(start, 10), 10, "without copies it is what it is");
        assert_eq!(spare.poll(start + LOOK, 0, RTT, WINDOW), Some(Way::Spare));
        assert_eq!(spare.handle_loss(start + LOOK, 0), 30);
        assert_eq!(spare.handle_loss(start + HOLD, 0), 0);
        assert_eq!(spare.poll(start + HOLD, 0, RTT, WINDOW), Some(Way::Sound));
        assert_eq!(spare.handle_loss(start + HOLD + LOOK, 25), 25, "seen again");
        assert_eq!(spare.poll(start + HOLD + LOOK, 0, RTT, WINDOW), Some(Way::Spare));
    }
}
