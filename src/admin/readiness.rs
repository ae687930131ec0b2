//! Whether this process wants new work, and if not, why: what `/readyz` tells a load balancer.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::task::Shutdown;

/// Asked whether a reason holds whenever somebody wants to know.
type Check = Box<dyn Fn() -> bool + Send + Sync>;

/// The reason that a drain gives by itself.
const DRAINING: &str = "draining";

/// Named reasons not to send new work here; ready when there is none. Cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    reasons: Arc<Mutex<BTreeSet<&'static str>>>,
    checks: Arc<Mutex<Vec<(&'static str, Check)>>>,
    shutdown: Shutdown,
}

impl Readiness {
    /// Not ready for these reasons until each is cleared, nor once `shutdown` begins to drain.
    pub fn new(shutdown: Shutdown, reasons: &[&'static str]) -> Self {
        Self { reasons: Arc::new(Mutex::new(reasons.iter().copied().collect())), checks: Arc::default(), shutdown }
    }

    /// States whether `reason` holds now.
    pub fn set(&self, reason: &'static str, holds: bool) {
        let mut reasons = self.reasons.lock();
        let changed = if holds { reasons.insert(reason) } else { reasons.remove(reason) };
        let ready = reasons.is_empty();
        drop(reasons);
        if changed {
            tracing::info!(reason, holds, ready, "readiness");
        }
    }

    /// Not ready for `reason` whenever `check` says so; it must not block.
    pub fn check(&self, reason: &'static str, check: impl Fn() -> bool + Send + Sync + 'static) {
        self.checks.lock().push((reason, Box::new(check)));
    }

    /// Why new work is not wanted, in alphabetical order; empty when it is.
    pub fn reasons(&self) -> Vec<&'static str> {
        let mut reasons = self.reasons.lock().clone();
        if self.shutdown.is_draining() {
            reasons.insert(DRAINING);
        }
        reasons.extend(self.checks.lock().iter().filter(|(_, check)| check()).map(|(reason, _)| *reason));
        reasons.into_iter().collect()
    }

    /// Whether new work is wanted.
    pub fn is_ready(&self) -> bool {
        self.reasons().is_empty()
    }

    /// Makes it visible as `trunkline_process_ready`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(ReadyMetric(self.clone())));
    }
}

struct ReadyMetric(Readiness);

impl std::fmt::Debug for ReadyMetric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ReadyMetric").field(&self.0.reasons()).finish()
    }
}

impl Collector for ReadyMetric {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauge = ConstGauge::new(i64::from(self.0.is_ready()));
        let help = "1 when new work is wanted, see /readyz";
        gauge.encode(encoder.encode_descriptor("trunkline_process_ready", help, None, gauge.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_reason_is_cleared() {
        let readiness = Readiness::new(Shutdown::default(), &["no_tunnel", "http3"]);
        assert_eq!(readiness.reasons(), ["http3", "no_tunnel"]);
        readiness.set("no_tunnel", false);
        assert!(!readiness.is_ready());
        readiness.set("http3", false);
        assert!(readiness.is_ready() && readiness.reasons().is_empty());
        readiness.set("no_tunnel", true);
        assert_eq!(readiness.reasons(), ["no_tunnel"]);
    }

    #[test]
    fn a_check_is_asked_each_time() {
        let readiness = Readiness::new(Shutdown::default(), &[]);
        let holds = Arc::new(Mutex::new(false));
        let asked = holds.clone();
        readiness.check("silent", move || *asked.lock());
        assert!(readiness.is_ready());
        *holds.lock() = true;
        assert_eq!(readiness.reasons(), ["silent"]);
    }

    #[test]
    fn a_drain_is_a_reason_at_once() {
        let shutdown = Shutdown::default();
        let readiness = Readiness::new(shutdown.clone(), &[]);
        assert!(readiness.is_ready());
        shutdown.start_drain();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.reasons(), ["draining"]);
    }
}
