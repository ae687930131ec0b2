//! Which of several links (sans-IO): the power of two choices over cost, and ejection of links that do not answer.
//!
//! Cost = peak-EWMA of the time to head x (in flight + 1) / weight, more where the gateway is busy or packets are lost. A failure counts as a slow answer. A link that keeps
//! requests waiting while no head comes at all, though its heartbeats may be fine (grey failure), is ejected for a second,
//! doubling to a minute; so is one that fails several times in a row. Never more than half are ejected at once.
//!
//! Invariants: `choose` answers a candidate whenever there is one; an ejection ends by itself; any head ends it at once.

use std::time::{Duration, Instant};

/// Half-life of the smoothed time to head.
const DECAY: Duration = Duration::from_secs(5);
/// Assumed time to head of a link that answered nothing yet.
const FRESH: Duration = Duration::from_millis(5);
/// A new link's share grows to the whole over this time.
const RAMP: Duration = Duration::from_secs(5);
/// What a failure counts as.
const PENALTY: Duration = Duration::from_secs(1);
/// Without any head for this long (or three times its usual time) while requests wait, a link counts as grey.
pub const SILENCE_MIN: Duration = Duration::from_millis(1_500);
/// How long a link counts as silent after an ejection of which nobody knows whether it helped.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// Failures in a row that eject.
const FAILURES: u32 = 5;
/// First ejection.
const EJECTION: Duration = Duration::from_secs(1);
/// Longest ejection.
const EJECTION_MAX: Duration = Duration::from_secs(60);

/// What is known of one link from its answers.
#[derive(Clone, Debug)]
pub struct Stats {
    since: Instant,
    ewma: f64,
    updated: Instant,
    waiting: u32,
    /// The last head, or since when requests wait without one.
    silent_since: Instant,
    answered: Option<Instant>,
    failures: u32,
    ejections: u32,
    ejected_until: Option<Instant>,
    /// Since an ejection ended, this is when the one request began that shows whether it answers again.
    trial: Option<Instant>,
}

impl Stats {
    /// A link that is new at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            ewma: FRESH.as_secs_f64(),
            updated: now,
            waiting: 0,
            silent_since: now,
            answered: None,
            failures: 0,
            ejections: 0,
            ejected_until: None,
            trial: None,
        }
    }

    /// A request is given to the link.
    pub fn handle_begin(&mut self, now: Instant) {
        if self.ejections > 0 && !self.was_ejected(now) {
            self.trial = Some(now);
        }
    }

    /// All of a request went, and it begins to wait for its head: how long a client takes to send it says nothing of the link.
    pub fn handle_sent(&mut self, now: Instant) {
        if self.waiting == 0 {
            self.silent_since = now;
        }
        self.waiting += 1;
    }

    /// A head came after `took`.
    pub fn handle_head(&mut self, now: Instant, took: Duration) {
        self.waiting = self.waiting.saturating_sub(1);
        self.silent_since = now;
        self.answered = Some(now);
        self.failures = 0;
        self.ejections = 0;
        self.ejected_until = None;
        self.trial = None;
        self.observe(now, took);
    }

    /// The link or its gateway failed a request. Answers whether that ejects it.
    pub fn handle_failure(&mut self, now: Instant) -> bool {
        self.waiting = self.waiting.saturating_sub(1);
        self.failures += 1;
        self.observe(now, PENALTY);
        let ejects = self.failures >= FAILURES;
        if ejects {
            self.eject(now);
        }
        ejects
    }

    /// A request that waited ended without telling anything about the link.
    pub fn handle_cancel(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// When its last head came.
    pub fn answered(&self) -> Option<Instant> {
        self.answered
    }

    /// Ejections since it answered last.
    pub fn ejections(&self) -> u32 {
        self.ejections
    }

    /// Whether it is ejected already.
    pub fn was_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| until > now)
    }

    /// Whether it was ejected and has not answered since; after a while without requests nobody knows.
    pub fn is_silent(&self, now: Instant) -> bool {
        self.ejections > 0 && self.ejected_until.is_some_and(|until| now < until + SILENT_FOR)
    }

    /// Whether it is ejected now. Notices grey failure.
    pub fn is_ejected(&mut self, now: Instant) -> bool {
        // One request at a time tries whether it answers again.
        if self.was_ejected(now) || self.trial.is_some_and(|begun| now < begun + self.patience()) {
            return true;
        }
        let silent = now.saturating_duration_since(self.silent_since);
        if self.waiting > 0 && silent > self.patience() {
            self.eject(now);
            // One more chance after the ejection, not another one at once.
            self.silent_since = now + self.ejection();
            return true;
        }
        false
    }

    /// Silence that is no wonder yet.
    fn patience(&self) -> Duration {
        SILENCE_MIN.max(Duration::from_secs_f64(self.ewma.clamp(0.0, 60.0)) * 3)
    }

    fn ejection(&self) -> Duration {
        EJECTION.saturating_mul(1 << self.ejections.saturating_sub(1).min(10)).min(EJECTION_MAX)
    }

    fn eject(&mut self, now: Instant) {
        self.failures = 0;
        self.trial = None;
        self.ejections = self.ejections.saturating_add(1);
        self.ejected_until = Some(now + self.ejection());
    }

    fn observe(&mut self, now: Instant, took: Duration) {
        let took = took.as_secs_f64();
        let kept = self.decay(now);
        // Peak: a slow answer counts at once, quick ones bring it down slowly.
        self.ewma = if took > self.ewma { took } else { self.ewma * kept + took * (1.0 - kept) };
        self.updated = now;
    }

    fn decay(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.updated).as_secs_f64();
        (-elapsed / DECAY.as_secs_f64()).exp2()
    }

    /// The cost of one more request.
    pub fn cost(&self, now: Instant, in_flight: usize, weight: u64, strain: Strain) -> f64 {
        // Without news the memory of a slow answer fades.
        let kept = self.decay(now);
        let latency = self.ewma * kept + FRESH.as_secs_f64().min(self.ewma) * (1.0 - kept);
        let age = now.saturating_duration_since(self.since).as_secs_f64() / RAMP.as_secs_f64();
        let ramp = age.clamp(0.1, 1.0);
        #[allow(clippy::cast_precision_loss, reason = "a share of work, not an amount")]
        let (load, weight) = ((in_flight + 1) as f64, weight.max(1) as f64);
        latency * load / (weight * ramp) * strain.factor()
    }
}

/// What makes a link dearer besides its answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strain {
    /// The gateway would rather have no new requests.
    pub busy: bool,
    /// Packets lost lately, both directions added, thousandths.
    pub lost_permille: u64,
}

impl Strain {
    /// Busy is four times as dear. So are 3 % of loss: at 40 ms they leave a connection a fraction of its rate.
    fn factor(self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "at most 2,000")]
        let loss = 1.0 + self.lost_permille as f64 / 10.0;
        if self.busy { loss * 4.0 } else { loss }
    }
}

/// The cheaper of two random candidates. `random` draws a number below its argument; `cost` is asked at most twice.
fn choose<T>(candidates: &[T], mut random: impl FnMut(usize) -> usize, cost: impl Fn(&T) -> f64) -> Option<&T> {
    match candidates {
        [] => None,
        [only] => Some(only),
        many => {
            let first = random(many.len());
            // A different one, each with the same chance.
            let second = (first + 1 + random(many.len() - 1)) % many.len();
            let (first, second) = (many.get(first)?, many.get(second)?);
            Some(if cost(first) <= cost(second) { first } else { second })
        }
    }
}

/// How many times as dear a `near` candidate may be as a far one: another worker thread costs a request some 50 us, waiting
/// behind others costs more.
const NEARNESS: f64 = 3.0;

/// Like `choose`, among candidates of the own worker thread unless a far one is much cheaper.
pub fn choose_near<'a, T>(
    near: &'a [T],
    far: &'a [T],
    mut random: impl FnMut(usize) -> usize,
    cost: impl Fn(&T) -> f64,
) -> Option<&'a T> {
    let (near, far) = (choose(near, &mut random, &cost), choose(far, random, &cost));
    match (near, far) {
        (Some(near), Some(far)) if cost(near) > cost(far) * NEARNESS => Some(far),
        (near, far) => near.or(far),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);
    /// Gives it a request without a body.
    fn ask(stats: &mut Stats, now: Instant) {
        stats.handle_begin(now);
        stats.handle_sent(now);
    }

    const WELL: Strain = Strain { busy: false, lost_permille: 0 };

    #[test]
    fn a_slow_link_costs_more_at_once_and_is_forgiven_with_time() {
        let start = crate::clock::now();
        let mut now = start + RAMP;
        let (mut slow, mut quick) = (Stats::new(start), Stats::new(start));
        for stats in [&mut slow, &mut quick] {
            ask(stats, now);
            stats.handle_head(now, MS * 5);
        }
        ask(&mut slow, now);
        slow.handle_head(now, MS * 500);
        assert!(slow.cost(now, 0, 1, WELL) > 50.0 * quick.cost(now, 0, 1, WELL));
        now += DECAY * 8;
        assert!(slow.cost(now, 0, 1, WELL) < 2.0 * quick.cost(now, 0, 1, WELL));
    }

    #[test]
    fn a_link_that_answers_nothing_while_requests_wait_is_ejected_within_two_seconds_and_tried_again() {
        let start = crate::clock::now();
        let mut stats = Stats::new(start);
        ask(&mut stats, start);
        assert!(!stats.is_ejected(start + MS * 1_400));
        assert!(stats.is_ejected(start + MS * 1_600));
        assert!(stats.is_ejected(start + MS * 2_500));
        assert!(!stats.is_ejected(start + MS * 2_700), "one more chance");
        stats.handle_head(start + MS * 2_800, MS * 2_800);
        assert!(!stats.is_ejected(start + MS * 2_900));
    }

    #[test]
    fn uploads_that_take_long_do_not_make_a_link_silent() {
        let start = crate::clock::now();
        let mut stats = Stats::new(start);
        (0..3).for_each(|_| stats.handle_begin(start));
        assert!(!stats.is_ejected(start + MS * 60_000));
        stats.handle_sent(start + MS * 60_000);
        assert!(stats.is_ejected(start + MS * 62_000));
    }

    #[test]
    fn after_an_ejection_one_request_at_a_time_tries_the_link() {
        let start = crate::clock::now();
        let mut stats = Stats::new(start);
        assert!((0..FAILURES).any(|_| stats.handle_failure(start)));
        let mut now = start + EJECTION;
        assert!(!stats.is_ejected(now) && stats.is_silent(now));
        ask(&mut stats, now);
        now += MS * 10;
        assert!(stats.is_ejected(now), "one is enough");
        now += PENALTY * 3;
        assert!(stats.is_ejected(now), "it was not answered");
        assert!(stats.was_ejected(now + EJECTION * 3 / 2), "for twice as long");
        stats.handle_head(now, MS);
        assert!(!stats.is_ejected(now) && !stats.is_silent(now));
    }

    #[test]
    fn ejections_double_up_to_a_minute_and_any_head_ends_them() {
        let mut now = crate::clock::now();
        let mut stats = Stats::new(now);
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            let ejected: Vec<_> = (0..FAILURES).map(|_| stats.handle_failure(now)).collect();
            assert!(ejected.ends_with(&[false, true]), "the last one of them ejects");
            let length = stats.ejected_until.unwrap() - now;
            assert!(length >= last && length <= EJECTION_MAX);
            last = length;
            now += length;
        }
        assert_eq!(last, EJECTION_MAX);
        stats.handle_head(now, MS);
        assert!(!stats.is_ejected(now));
    }

    #[test]
    fn a_new_link_gets_its_share_by_and_by_and_weight_counts() {
        let now = crate::clock::now();
        let stats = Stats::new(now);
        assert!(stats.cost(now, 0, 1, WELL) > 5.0 * stats.cost(now + RAMP, 0, 1, WELL));
        let later = now + RAMP;
        assert!(stats.cost(later, 0, 1, WELL) > 1.9 * stats.cost(later, 0, 2, WELL));
        assert!(stats.cost(later, 0, 1, Strain { busy: true, ..WELL }) > 3.9 * stats.cost(later, 0, 1, WELL));
    }

    #[test]
    fn a_busy_gateway_gets_work_only_when_the_other_has_four_times_as_much_and_loss_adds_to_that() {
        let now = crate::clock::now() + RAMP;
        let stats = Stats::new(now - RAMP);
        let chosen = |in_flight: [usize; 2], strains: [Strain; 2], seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let cost = |index: &usize| stats.cost(now, in_flight[*index], 1, strains[*index]);
            choose(&[0, 1], |below| random.usize(..below), cost).copied().unwrap()
        };
        let busy = Strain { busy: true, ..WELL };
        let lossy = Strain { lost_permille: 50, ..WELL };
        for seed in 0..50 {
            assert_eq!(chosen([0, 2], [busy, WELL], seed), 1);
            assert_eq!(chosen([0, 4], [busy, WELL], seed), 0, "both are worse than one in demand");
            assert_eq!(chosen([0, 4], [lossy, WELL], seed), 1);
            assert_eq!(chosen([0, 20], [Strain { busy: true, ..lossy }, WELL], seed), 1);
        }
    }

    #[test]
    fn a_saturated_gateway_with_the_only_link_of_a_worker_does_not_get_all_its_requests() {
        let far = |near: f64, far: f64| *choose_near(&[near], &[far], |_| 0, |cost| *cost).unwrap() == far;
        assert!(!far(1.0, 0.9) && !far(1.0, 0.5), "a hop is dear while both do well");
        assert!(far(1.0, 0.2), "and cheap beside waiting");
        assert_eq!(choose_near(&[], &[7.0], |_| 0, |cost| *cost), Some(&7.0));
        assert_eq!(choose_near(&[7.0], &[], |_| 0, |cost| *cost), Some(&7.0));
    }

    proptest! {
        #[test]
        fn the_choice_is_the_cheaper_of_two_different_candidates(costs in proptest::collection::vec(0.0..9.0f64, 1..9), seed in any::<u64>()) {
            let mut random = fastrand::Rng::with_seed(seed);
            let chosen = choose(&costs, |below| random.usize(..below), |cost| *cost);
            let dearest = costs.iter().copied().fold(0.0, f64::max);
            prop_assert!(chosen.is_some());
            // The single dearest of several never wins.
            let unique = costs.iter().filter(|cost| **cost == dearest).count() == 1;
            prop_assert!(costs.len() == 1 || !unique || *chosen.unwrap() < dearest);
        }
    }
}
