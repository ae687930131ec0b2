//! What came of a load: the figures of one outage, and the assertions that all outages share.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::load::{Finished, Kind};

/// Failures that are never right, whatever the outage: bytes that are wrong or a short body that ends well.
const NEVER: &str = "WRONG";

/// Events whose numbers are shown.
const EVENTS: [&str; 8] = ["replay", "hedge", "continuation", "resume", "suspicion", "recovery", "verdict", "ejection"];

impl Finished {
    /// Failed requests of these kinds, of clients of the PoPs that `pop` keeps.
    pub fn failed(&self, kinds: &[Kind], pop: impl Fn(usize) -> bool) -> Vec<String> {
        let failed = self.outcomes.iter().filter(|outcome| kinds.contains(&outcome.kind) && pop(outcome.pop));
        failed.filter_map(|o| Some(format!("{:?} {}: {}", o.kind, o.path, o.failure.as_ref()?))).collect()
    }

    /// Asserts that no idempotent request failed.
    pub fn assert_idempotent(&self) {
        assert_eq!(self.failed(&[Kind::Get, Kind::Download], |_| true), Vec::<String>::new());
    }

    /// Asserts that nothing failed at all.
    pub fn assert_flawless(&self) {
        self.assert_idempotent();
        assert_eq!(self.failed(&[Kind::Post, Kind::Upload], |_| true), Vec::<String>::new());
    }

    /// Longest time without a success.
    pub fn gap(&self) -> Duration {
        let mut ends: Vec<_> = self.outcomes.iter().filter(|o| o.failure.is_none()).map(|o| o.ended).collect();
        ends.sort_unstable();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    fn slowest(&self, kind: Kind) -> Duration {
        self.slowest_begun(kind, |_| true)
    }

    /// The longest that a request of this kind took, of those whose beginning `keep` keeps.
    pub fn slowest_begun(&self, kind: Kind, keep: impl Fn(Instant) -> bool) -> Duration {
        let quick = self.outcomes.iter().filter(|o| o.failure.is_none() && o.kind == kind && keep(o.began));
        quick.map(|o| o.ended - o.began).max().unwrap_or_default()
    }

    /// Prints the figures, and asserts what holds in every outage: no wrong byte, no panic in any process, no POST executed twice, and none that
    /// was answered and not executed.
    pub async fn report(&self, outage: &str, cluster: &mut Cluster) {
        let mut counters = Vec::new();
        for name in EVENTS {
            counters.push(format!("{name} {}", cluster.events(name).await));
        }
        counters.push(format!("bytes again {}", cluster.count("trunkline_tunnel_resumed_bytes_total").await));
        println!("{} {} |", self.figures(outage), counters.join(", "));
        for outcome in self.outcomes.iter().filter(|outcome| outcome.failure.is_some()).take(8) {
            println!("    {outcome:?}");
        }
        let wrong = self.outcomes.iter().filter_map(|o| o.failure.as_ref()).filter(|f| f.contains(NEVER)).count();
        assert_eq!(wrong, 0, "wrong bytes or a short end");
        assert_eq!(cluster.panics(), Vec::<String>::new());
        let executions = cluster.executions("/count").await;
        let twice: Vec<_> = executions.iter().filter(|(_, times)| *times > 1).collect();
        assert!(twice.is_empty(), "executed twice: {twice:?}");
    }

    /// What clients noticed, as the beginning of a line of the table.
    pub fn figures(&self, outage: &str) -> String {
        let mut failed = BTreeMap::new();
        for outcome in self.outcomes.iter().filter(|outcome| outcome.failure.is_some()) {
            *failed.entry(format!("{:?}", outcome.kind)).or_insert(0) += 1;
        }
        format!(
            "| {outage} | {} requests | failed {failed:?} | again {} | gap {} ms | slowest GET {} ms, POST {} ms |",
            self.outcomes.len(),
            self.again,
            self.gap().as_millis(),
            self.slowest(Kind::Get).as_millis(),
            self.slowest(Kind::Post).as_millis(),
        )
    }
}
