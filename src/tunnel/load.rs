//! What one end tells the other of its work and of the path, in LOAD (sans-IO): when it is worth telling, and how much of
//! what was sent is lost. [`super::link`] asks at each tick.
//!
//! Invariants: two reports are never closer than `INTERVAL`; when nothing changes for long, what was told last is within
//! `Reporter::is_news` of what is; loss is a share of at least `SENT_MIN` packets.

use std::time::{Duration, Instant};

use super::control::Load;

/// Between two reports, at least.
const INTERVAL: Duration = Duration::from_millis(250);
/// An end that was busy stays so for this long: requests that wait come and go.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// Half-life of what is known of loss.
const HALF_LIFE: Duration = Duration::from_secs(2);
/// Fewer packets tell nothing.
const SENT_MIN: f64 = 100.0;
/// Loss that is told of as an event, and makes other links preferable, begins here, and ends at half of it; thousandths.
pub const LOSSY: u64 = 20;

/// Decides when to send LOAD.
#[derive(Debug, Default)]
pub struct Reporter {
    told: Load,
    told_at: Option<Instant>,
    busy_until: Option<Instant>,
}

impl Reporter {
    /// What to report at `now`, `load` being how things are; `None` if it is no news, or too soon.
    pub fn poll_report(&mut self, now: Instant, mut load: Load) -> Option<Load> {
        if load.busy {
            self.busy_until = Some(now + BUSY_FOR);
        }
        load.busy = self.busy_until.is_some_and(|until| now < until);
        let soon = self.told_at.is_some_and(|at| now < at + INTERVAL);
        if soon || !self.is_news(&load) {
            return None;
        }
        (self.told, self.told_at) = (load, Some(now));
        Some(load)
    }

    /// Whether the other end would do anything else if it knew.
    fn is_news(&self, load: &Load) -> bool {
        load.busy != self.told.busy
            || differs(load.in_flight, self.told.in_flight, 8)
            || differs(load.upstream_micros, self.told.upstream_micros, 1_000)
            || differs(load.lost_permille, self.told.lost_permille, 5)
    }
}

/// By half, and not by a trifle.
fn differs(now: u64, told: u64, trifle: u64) -> bool {
    now.abs_diff(told) > trifle.max(told / 2)
}

/// The share of packets lost lately in one direction, from counters that only rise.
#[derive(Debug)]
pub struct Loss {
    seen: (u64, u64),
    sent: f64,
    lost: f64,
    updated: Instant,
}

impl Loss {
    /// Nothing sent yet.
    pub fn new(now: Instant) -> Self {
        Self { seen: (0, 0), sent: 0.0, lost: 0.0, updated: now }
    }

    /// The counters stand at `sent` and `lost` packets. Answers thousandths lost lately.
    pub fn handle_sample(&mut self, now: Instant, sent: u64, lost: u64) -> u64 {
        let elapsed = now.saturating_duration_since(self.updated).as_secs_f64();
        let kept = (-elapsed / HALF_LIFE.as_secs_f64()).exp2();
        let new = (sent.saturating_sub(self.seen.0), lost.saturating_sub(self.seen.1));
        (self.seen, self.updated) = ((sent, lost), now);
        #[allow(clippy::cast_precision_loss, reason = "a share, not an amount")]
        let (sent, lost) = (new.0 as f64, new.1 as f64);
        self.sent = self.sent * kept + sent;
        self.lost = self.lost * kept + lost;
        if self.sent < SENT_MIN {
            return 0;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
        let permille = (self.lost / self.sent * 1_000.0).clamp(0.0, 1_000.0).round() as u64;
        permille
    }
}

/// Says once when a direction becomes lossy, and again after it was well.
#[derive(Debug, Default)]
pub struct LossAlarm {
    raised: bool,
}

impl LossAlarm {
    /// Whether `permille` is news.
    pub fn handle_loss(&mut self, permille: u64) -> bool {
        let raise = permille >= LOSSY && !self.raised;
        self.raised = if self.raised { permille >= LOSSY / 2 } else { raise };
        raise
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn load(in_flight: u64, busy: bool) -> Load {
        Load { in_flight, busy, ..Load::default() }
    }

    #[test]
    fn an_idle_end_says_nothing_and_a_busy_one_says_so_once_and_takes_it_back_a_second_later() {
        let start = crate::clock::now();
        let mut reporter = Reporter::default();
        assert_eq!(reporter.poll_report(start, load(0, false)), None);
        assert_eq!(reporter.poll_report(start, load(3, true)), Some(load(3, true)));
        for tick in 1..=19 {
            assert_eq!(reporter.poll_report(start + MS * 50 * tick, load(3, tick % 2 == 0 && tick < 4)), None);
        }
        let mut quiet = (20..40).map(|tick| start + MS * 50 * tick);
        let told = quiet.find_map(|now| reporter.poll_report(now, load(3, false)));
        assert_eq!(told, Some(load(3, false)));
    }

    #[test]
    fn loss_is_seen_within_three_seconds_and_forgotten_when_it_ends() {
        let start = crate::clock::now();
        let (mut loss, mut alarm) = (Loss::new(start), LossAlarm::default());
        let (mut sent, mut lost, mut alarms) = (0, 0, 0);
        for tick in 0..60u32 {
            sent += 20;
            lost += 2;
            alarms += u32::from(alarm.handle_loss(loss.handle_sample(start + MS * 50 * tick, sent, lost)));
        }
        assert_eq!(alarms, 1, "in three seconds, once");
        let mut permille = 1_000;
        for tick in 60..360 {
            sent += 10;
            permille = loss.handle_sample(start + MS * 50 * tick, sent, lost);
            alarm.handle_loss(permille);
        }
        assert!(permille < 3, "{permille}");
        assert!(alarm.handle_loss(LOSSY), "the next time is news again");
    }

    #[test]
    fn a_lost_packet_among_few_is_no_loss() {
        let start = crate::clock::now();
        assert_eq!(Loss::new(start).handle_sample(start, 5, 2), 0);
    }

    proptest! {
        #[test]
        fn reports_are_apart_and_nothing_that_lasts_stays_untold(
            steps in proptest::collection::vec((1u32..200, 0u64..100, any::<bool>(), 0u64..100_000, 0u64..1_000), 1..60),
        ) {
            let mut now = crate::clock::now();
            let (mut reporter, mut last, mut told) = (Reporter::default(), None::<Instant>, Load::default());
            let mut then = Load::default();
            for (wait, in_flight, busy, upstream_micros, lost_permille) in steps {
                now += MS * wait;
                then = Load { in_flight, busy, upstream_micros, lost_permille };
                if let Some(report) = reporter.poll_report(now, then) {
                    prop_assert!(last.is_none_or(|last| now - last >= INTERVAL));
                    (last, told) = (Some(now), report);
                }
            }
            for _ in 0..30 {
                now += MS * 50;
                told = reporter.poll_report(now, then).unwrap_or(told);
            }
            prop_assert_eq!(told.busy, then.busy);
            prop_assert!(!differs(then.in_flight, told.in_flight, 8));
        }
    }
}
