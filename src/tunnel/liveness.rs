//! Whether a link is alive (sans-IO): suspect quickly, convict slowly.
//!
//! Each side sends a heartbeat every interval, a short one while exchanges are in flight; QUIC's acknowledgement of it, or
//! any other packet, is a sign of life. Silence makes a link *suspect* (reversible), long silence is a
//! *verdict*. Lateness of the own clock tick moves all deadlines: then it was this side that stalled.
//!
//! Invariants: a verdict comes only after a suspicion; a sign of life always clears a suspicion.

use std::time::{Duration, Instant};

/// Between heartbeats while an exchange waits on the link.
const BUSY: Duration = Duration::from_millis(50);
/// Between heartbeats of an idle link.
const IDLE: Duration = Duration::from_secs(2);
/// A tick later than this was this side's own stall.
const LATE: Duration = Duration::from_millis(20);
/// Silence that convicts, at least.
const VERDICT_MIN: Duration = Duration::from_secs(1);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing.
    Fine,
    /// Silence: treat the link as suspect.
    Suspect,
    /// It was heard again.
    Cleared,
    /// Silence for long: close the link.
    Dead,
}

/// See the module.
#[derive(Debug)]
pub struct Liveness {
    heard: Instant,
    busy_since: Option<Instant>,
    /// Since when it is suspected; only a later sign of life clears that.
    suspected: Option<Instant>,
    tick_due: Instant,
}

impl Liveness {
    /// A link that was just heard.
    pub fn new(now: Instant) -> Self {
        Self { heard: now, busy_since: None, suspected: None, tick_due: now + BUSY }
    }

    /// A sign of life.
    pub fn handle_heard(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    /// Whether the link is suspected.
    pub fn is_suspected(&self) -> bool {
        self.suspected.is_some()
    }

    /// Time until the next [`Self::handle_tick`], which is also the interval between heartbeats. A suspected link is
    /// asked as often as a busy one: its exchanges may have left it.
    pub fn interval(&self, busy: bool) -> Duration {
        if busy || self.is_suspected() { BUSY } else { IDLE }
    }

    /// Judges the link. `busy`: an exchange waits on it; `rtt` and `rtt_variance` as QUIC measured them.
    pub fn handle_tick(&mut self, now: Instant, busy: bool, rtt: Duration, rtt_variance: Duration) -> Judgement {
        self.forgive_own_lateness(now);
        let asking = busy || self.is_suspected();
        let interval = self.interval(busy);
        self.tick_due = now + interval;
        self.busy_since = if asking { self.busy_since.or(Some(now)) } else { None };
        // An idle link's heartbeats are far apart: silence counts from when it became busy.
        let since = self.busy_since.map_or(self.heard, |busy_since| busy_since.max(self.heard));
        let silence = now.saturating_duration_since(since);
        let suspicion = (interval * 3).max(rtt / 2 + rtt_variance * 4 + interval);
        let verdict = VERDICT_MIN.max(suspicion * 6);
        match self.suspected {
            Some(since) if self.heard > since => {
                self.suspected = None;
                Judgement::Cleared
            }
            Some(_) if silence > verdict => Judgement::Dead,
            None if silence > suspicion => {
                self.suspected = Some(now);
                Judgement::Suspect
            }
            _ => Judgement::Fine,
        }
    }

    fn forgive_own_lateness(&mut self, now: Instant) {
        let late = now.saturating_duration_since(self.tick_due);
        if late > LATE {
            self.heard = (self.heard + late).min(now);
            self.suspected = self.suspected.map(|since| (since + late).min(now));
            self.busy_since = self.busy_since.map(|since| (since + late).min(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RTT: Duration = Duration::from_millis(1);

    fn silence(total: Duration) -> Vec<(Duration, Judgement)> {
        let start = crate::clock::now();
        let mut liveness = Liveness::new(start);
        let mut at = Duration::ZERO;
        let mut judged = Vec::new();
        while at <= total {
            let judgement = liveness.handle_tick(start + at, true, RTT, RTT / 4);
            if judgement != Judgement::Fine {
                judged.push((at, judgement));
            }
            at += BUSY;
        }
        judged
    }

    #[test]
    fn silence_is_suspected_after_three_intervals_and_convicted_after_a_second() {
        let judged = silence(Duration::from_millis(1_100));
        assert_eq!(judged[0], (Duration::from_millis(200), Judgement::Suspect));
        assert_eq!(judged[1], (Duration::from_millis(1_050), Judgement::Dead));
    }

    #[test]
    fn half_a_second_of_silence_convicts_nobody_and_a_sign_of_life_clears() {
        let start = crate::clock::now();
        let mut liveness = Liveness::new(start);
        for step in 0..=10 {
            assert_ne!(liveness.handle_tick(start + BUSY * step, true, RTT, RTT), Judgement::Dead);
        }
        assert!(liveness.is_suspected());
        liveness.handle_heard(start + BUSY * 11);
        assert_eq!(liveness.handle_tick(start + BUSY * 11, true, RTT, RTT), Judgement::Cleared);
    }

    #[test]
    fn a_suspected_link_that_its_exchanges_left_stays_suspected_until_it_is_heard() {
        let start = crate::clock::now();
        let mut liveness = Liveness::new(start);
        let mut judged = Vec::new();
        for step in 0..=21 {
            let judgement = liveness.handle_tick(start + BUSY * step, step <= 4, RTT, RTT / 4);
            judged.extend((judgement != Judgement::Fine).then_some(judgement));
        }
        assert_eq!(judged, [Judgement::Suspect, Judgement::Dead]);
    }

    proptest! {
        #[test]
        fn own_stalls_alone_never_convict(stalls in proptest::collection::vec(0u64..5_000, 1..40)) {
            let start = crate::clock::now();
            let mut liveness = Liveness::new(start);
            let mut now = start;
            for stall in stalls {
                now += BUSY + Duration::from_millis(stall);
                prop_assert_ne!(liveness.handle_tick(now, true, RTT, RTT), Judgement::Dead);
                // The first thing after a stall is to read what waited in the socket.
                liveness.handle_heard(now);
            }
        }
    }
}
