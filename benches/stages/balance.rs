//! Stage 5: the choice of a link by cost.

use std::time::Duration;

use trunkline::clock;
use trunkline::edge::dispatch::balance::{Stats, Strain, choose_near};

use super::stopwatch::Stopwatch;

/// Links of this worker and of others.
const LINKS: usize = 8;
const MS: Duration = Duration::from_millis(1);

/// Measures what a request costs the balance: a choice among sixteen links, and the news of its answer.
pub fn run(stopwatch: &Stopwatch) {
    // Of one moment, so that every run weighs the same.
    let now = clock::now();
    let links: Vec<Stats> = (1..=2 * LINKS as u32).map(|number| answered(now, number * MS)).collect();
    let (near, far) = links.split_at(LINKS);
    let mut luck = fastrand::Rng::with_seed(1);
    let strain = Strain { busy: false, lost_permille: 3 };
    stopwatch.measure("5 balance, choice among 16 links", || {
        let cost = |stats: &Stats| stats.cost(now, 7, 1, strain);
        choose_near(near, far, |below| luck.usize(..below), cost).map(|stats| stats.cost(now, 7, 1, strain))
    });
    let mut stats = answered(now, MS);
    stopwatch.measure("5 balance, begin and head", || {
        stats.handle_begin(now);
        let ejected = stats.is_ejected(now);
        stats.handle_head(now, MS);
        ejected
    });
}

fn answered(now: std::time::Instant, took: Duration) -> Stats {
    let mut stats = Stats::new(now);
    stats.handle_begin(now);
    stats.handle_head(now, took);
    stats
}
