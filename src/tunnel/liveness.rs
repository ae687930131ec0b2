//! Whether a link is alive (sans-IO): suspect quickly, convict slowly.
//!
//! A side with exchanges in flight, or that had one a moment ago, sends a heartbeat at each tick, an idle one every 2 s; the
//! acknowledgement of it, or any other packet, is a sign of life. An idle link whose heartbeat is not answered at once ticks
//! like a busy one: the dialler must notice soon what only the other end is waiting on. Silence makes a link *suspect*
//! (reversible), long silence is a *verdict*. Lateness of the own clock tick moves all deadlines: then it was this side that
//! stalled.
//!
//! A *hint* (ICMP says that the other end cannot be reached) can be forged: it makes the link prove itself within a moment, on
//! pain of suspicion. Hints that were wrong are heeded ever more rarely.
//!
//! Invariants: a verdict comes only after a suspicion; a sign of life always clears a suspicion, and nothing else does. A
//! suspected link ticks like a busy one, though its exchanges have left it: it is soon heard or convicted.

use std::time::{Duration, Instant};

/// Between heartbeats while an exchange waits on the link.
const BUSY: Duration = Duration::from_millis(50);
/// Between heartbeats of an idle link.
const IDLE: Duration = Duration::from_secs(2);
/// A side on which an exchange rode goes on like a busy one for so long: the other end may be sending the next one into the dark,
/// and only the dialler can take the link to another port.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// A tick later than this was this side's own stall.
const LATE: Duration = Duration::from_millis(20);
/// Silence that convicts, at least.
const VERDICT_MIN: Duration = Duration::from_secs(1);
/// Time to answer after a hint, at least.
const HINT_GRACE: Duration = Duration::from_millis(20);
/// Between two hints that are heeded; doubled each time one was wrong.
const HINT_PAUSE: Duration = Duration::from_millis(20);
/// Longest such pause.
const HINT_PAUSE_MAX: Duration = Duration::from_secs(30);

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
    /// Silence counts from here: the last sign of life, later by what this side itself was late.
    silent_since: Instant,
    /// Datagrams that came, ever.
    received: u64,
    /// There was a sign of life since the last tick.
    heard: bool,
    busy_since: Option<Instant>,
    busy_until: Instant,
    suspected: bool,
    tick_due: Instant,
    /// A heartbeat went out and nothing was heard since.
    unanswered: bool,
    heartbeat_due: Instant,
    /// A hint was given, and until then the link may prove itself.
    hint_due: Option<Instant>,
    /// The next hint is heeded from here on.
    hints_from: Instant,
    hint_pause: Duration,
    /// The present suspicion came of a hint.
    hinted: bool,
}

impl Liveness {
    /// A link that was just heard: `received` datagrams came until now.
    pub fn new(now: Instant, received: u64) -> Self {
        Self {
            silent_since: now,
            received,
            heard: false,
            busy_since: None,
            busy_until: now,
            suspected: false,
            tick_due: now + IDLE,
            unanswered: false,
            heartbeat_due: now,
            hint_due: None,
            hints_from: now,
            hint_pause: HINT_PAUSE,
            hinted: false,
        }
    }

    /// `received` datagrams came until now: each new one is a sign of life.
    pub fn handle_received(&mut self, now: Instant, received: u64) {
        if std::mem::replace(&mut self.received, received) != received {
            self.handle_heard(now);
        }
    }

    fn handle_heard(&mut self, now: Instant) {
        self.silent_since = self.silent_since.max(now);
        self.heard = true;
        self.unanswered = false;
        if self.hint_due.take().is_some() {
            self.hints_from = now + self.hint_pause;
            self.hint_pause = (self.hint_pause * 2).min(HINT_PAUSE_MAX);
        }
    }

    /// ICMP says that the other end cannot be reached; the `received` datagrams that came until now say nothing against it.
    /// Answers whether to probe it, with anything that it acknowledges.
    pub fn handle_hint(&mut self, now: Instant, rtt: Duration, received: u64) -> bool {
        self.handle_received(now, received);
        let heeded = !self.suspected && self.hint_due.is_none() && now >= self.hints_from;
        if heeded {
            self.hint_due = Some(now + HINT_GRACE.max(rtt * 3));
        }
        heeded
    }

    /// Whether the present suspicion came of a hint.
    pub fn is_hinted(&self) -> bool {
        self.hinted
    }

    /// How long nothing was heard, this side's own stalls not counted.
    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.silent_since)
    }

    /// Whether the link is suspected.
    pub fn is_suspected(&self) -> bool {
        self.suspected
    }

    /// When [`Self::handle_tick`] is due, the last one having been at `ticked`. `busy`: an exchange waits on the link.
    pub fn due(&self, ticked: Instant, busy: bool) -> Instant {
        let due = if self.is_urgent(busy, ticked) { ticked + BUSY } else { self.heartbeat_due.max(ticked) };
        self.hint_due.map_or(due, |hint| hint.min(due))
    }

    fn is_urgent(&self, busy: bool, now: Instant) -> bool {
        busy || now < self.busy_until || self.suspected || self.unanswered
    }

    /// Whether to send a heartbeat at this tick.
    pub fn poll_heartbeat(&mut self, now: Instant, busy: bool) -> bool {
        let due = self.is_urgent(busy, now) || now >= self.heartbeat_due;
        if due {
            self.unanswered = true;
            self.heartbeat_due = now + IDLE;
            self.tick_due = now + BUSY;
        }
        due
    }

    /// Judges the link. `busy`: an exchange waits on it; `rtt` and `rtt_variance` as QUIC measured them.
    pub fn handle_tick(&mut self, now: Instant, busy: bool, rtt: Duration, rtt_variance: Duration) -> Judgement {
        self.forgive_own_lateness(now);
        let heard = std::mem::take(&mut self.heard);
        if busy {
            self.busy_until = now + BUSY_FOR;
        }
        let urgent = self.is_urgent(busy, now);
        self.busy_since = if urgent { self.busy_since.or(Some(now)) } else { None };
        // An idle link's heartbeats are far apart: silence counts from when it became busy.
        let since = self.busy_since.map_or(self.silent_since, |busy_since| busy_since.max(self.silent_since));
        let silence = now.saturating_duration_since(since);
        let suspicion = (BUSY * 3).max(rtt / 2 + rtt_variance * 4 + BUSY);
        let unproven = self.hint_due.take_if(|due| now >= *due).is_some();
        let judgement = match self.suspected {
            true if heard => Judgement::Cleared,
            true if silence > VERDICT_MIN.max(suspicion * 6) => Judgement::Dead,
            false if unproven || (urgent && silence > suspicion) => Judgement::Suspect,
            _ => Judgement::Fine,
        };
        self.hinted = if self.suspected { self.hinted } else { unproven };
        self.suspected = match judgement {
            Judgement::Suspect => true,
            Judgement::Cleared => false,
            _ => self.suspected,
        };
        self.tick_due = self.due(now, busy);
        judgement
    }

    fn forgive_own_lateness(&mut self, now: Instant) {
        let late = now.saturating_duration_since(self.tick_due);
        if late > LATE {
            self.silent_since = (self.silent_since + late).min(now);
            self.busy_since = self.busy_since.map(|since| (since + late).min(now));
            // The answer may wait unread.
            self.hint_due = self.hint_due.map(|due| due.max(now + HINT_GRACE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RTT: Duration = Duration::from_millis(1);

    #[test]
    fn a_hint_makes_a_silent_link_suspect_at_once_and_only_silence_convicts_it() {
        let start = crate::clock::now();
        let mut liveness = Liveness::new(start, 0);
        liveness.poll_heartbeat(start, false);
        assert!(liveness.handle_hint(start, RTT, 0));
        let due = liveness.due(start, false);
        assert_eq!(due, start + HINT_GRACE);
        assert_eq!(liveness.handle_tick(due, false, RTT, RTT / 4), Judgement::Suspect);
        assert!(liveness.is_hinted());
        let mut at = due;
        let dead = loop {
            at += BUSY;
            assert!(!liveness.handle_hint(at, RTT, 0), "it is suspected already");
            match liveness.handle_tick(at, false, RTT, RTT / 4) {
                Judgement::Fine => {}
                judgement => break judgement,
            }
        };
        assert_eq!(dead, Judgement::Dead);
        assert!(at - start > VERDICT_MIN);
    }

    #[test]
    fn a_side_that_was_busy_a_moment_ago_notices_silence_as_soon_as_a_busy_one() {
        let start = crate::clock::now();
        let mut liveness = Liveness::new(start, 0);
        let (mut now, mut received) = (start, 0);
        let mut tick = |liveness: &mut Liveness, busy: bool, heard: bool| {
            received += u64::from(heard);
            liveness.handle_received(now, received);
            let judgement = liveness.handle_tick(now, busy, RTT, RTT / 4);
            let heartbeat = liveness.poll_heartbeat(now, busy);
            let wait = liveness.due(now, busy) - now;
            now += wait;
            (judgement, heartbeat, wait)
        };
        tick(&mut liveness, true, true);
        assert_eq!(tick(&mut liveness, false, true), (Judgement::Fine, true, BUSY));
        let silent = std::iter::from_fn(|| Some(tick(&mut liveness, false, false).0));
        let soon: Vec<_> = silent.take(4).collect();
        assert!(soon.contains(&Judgement::Suspect), "{soon:?}");
        // Heard, it is idle again when the moment is over.
        let idle = (0..40).any(|_| tick(&mut liveness, false, true).2 > BUSY);
        assert!(idle);
    }

    #[test]
    fn what_came_before_a_hint_says_nothing_against_it() {
        let start = crate::clock::now();
        let mut liveness = Liveness::new(start, 7);
        assert_eq!(liveness.handle_tick(start, true, RTT, RTT / 4), Judgement::Fine);
        let killed = start + BUSY / 2;
        assert!(liveness.handle_hint(killed, RTT, 8), "the eighth came before");
        let due = liveness.due(start, true).min(killed + HINT_GRACE);
        liveness.handle_received(due, 8);
        assert_eq!(liveness.handle_tick(due, true, RTT, RTT / 4), Judgement::Suspect);
        liveness.handle_received(due + RTT, 9);
        assert_eq!(liveness.handle_tick(due + RTT, true, RTT, RTT / 4), Judgement::Cleared);
    }

    #[test]
    fn a_thousand_forged_hints_a_second_draw_few_probes_and_no_suspicion() {
        let start = crate::clock::now();
        let (mut liveness, mut probes) = (Liveness::new(start, 0), 0);
        let mut tick = start;
        for milli in 0..60_000 {
            let now = start + Duration::from_millis(milli);
            let probed = liveness.handle_hint(now, RTT, 0);
            probes += u32::from(probed);
            if probed {
                liveness.handle_heard(now + RTT);
            }
            if now >= liveness.due(tick, true) {
                tick = now;
                liveness.handle_heard(now);
                assert_eq!(liveness.handle_tick(now, true, RTT, RTT / 4), Judgement::Fine);
                liveness.poll_heartbeat(now, true);
            }
        }
        assert!(probes < 16, "{probes} in a minute");
    }

    fn silence(total: Duration) -> Vec<(Duration, Judgement)> {
        let start = crate::clock::now();
        let mut liveness = Liveness::new(start, 0);
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
        let mut liveness = Liveness::new(start, 0);
        for step in 0..=10 {
            assert_ne!(liveness.handle_tick(start + BUSY * step, true, RTT, RTT), Judgement::Dead);
        }
        assert!(liveness.is_suspected());
        liveness.handle_heard(start + BUSY * 11);
        assert_eq!(liveness.handle_tick(start + BUSY * 11, true, RTT, RTT), Judgement::Cleared);
    }

    #[test]
    fn a_suspected_link_that_its_exchanges_left_is_convicted_as_soon_and_never_cleared_by_silence() {
        let start = crate::clock::now();
        let mut liveness = Liveness::new(start, 0);
        let (mut at, mut judged) = (Duration::ZERO, Vec::new());
        while at < Duration::from_secs(3) && judged.last() != Some(&Judgement::Dead) {
            let busy = !liveness.is_suspected();
            let judgement = liveness.handle_tick(start + at, busy, RTT, RTT / 4);
            judged.extend((judgement != Judgement::Fine).then_some(judgement));
            at += BUSY;
        }
        assert_eq!(judged, [Judgement::Suspect, Judgement::Dead]);
        assert!(at < Duration::from_millis(1_200), "{at:?}");
    }

    /// Ticks when it is due, with a round-trip time of `answered` until `silent_from`; the times of heartbeats and judgements.
    fn idle(answered: Duration, silent_from: Duration, until: Duration) -> (Vec<Duration>, Vec<(Duration, Judgement)>) {
        let start = crate::clock::now();
        let mut liveness = Liveness::new(start, 0);
        let (mut now, mut heartbeats, mut judged) = (start, Vec::new(), Vec::new());
        while now < start + until {
            let at = now - start;
            let answer = heartbeats.iter().any(|sent| (at.saturating_sub(BUSY)..at).contains(&(*sent + answered)));
            if at >= BUSY && answer && at < silent_from {
                liveness.handle_heard(now);
            }
            let judgement = liveness.handle_tick(now, false, RTT, RTT / 4);
            judged.extend((judgement != Judgement::Fine).then_some((at, judgement)));
            if liveness.poll_heartbeat(now, false) {
                heartbeats.push(at);
            }
            now = liveness.due(now, false);
        }
        (heartbeats, judged)
    }

    #[test]
    fn an_idle_link_sends_a_heartbeat_every_two_seconds() {
        let (heartbeats, judged) = idle(RTT, Duration::MAX, Duration::from_secs(20));
        assert_eq!((heartbeats.len(), judged.len()), (10, 0));
    }

    #[test]
    fn an_idle_link_whose_heartbeat_is_not_answered_is_suspected_and_convicted_as_a_busy_one() {
        let silent = Duration::from_millis(2_500);
        let (_, judged) = idle(RTT, silent, Duration::from_secs(6));
        let [(suspected, Judgement::Suspect), (dead, Judgement::Dead), ..] = judged[..] else { panic!("{judged:?}") };
        assert!(suspected < silent + Duration::from_millis(2_250), "{suspected:?}");
        assert!(dead < suspected + Duration::from_secs(1), "{dead:?}");
    }

    proptest! {
        #[test]
        fn own_stalls_alone_never_convict(stalls in proptest::collection::vec(0u64..5_000, 1..40)) {
            let start = crate::clock::now();
            let mut liveness = Liveness::new(start, 0);
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
