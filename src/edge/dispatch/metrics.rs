//! Counters of dispatch.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::replay::Class;

/// Replays by why they were safe.
#[derive(Clone, Debug)]
pub struct DispatchMetrics {
    not_started: Counter,
    not_accepted: Counter,
    idempotent: Counter,
    /// Replays withheld because gateways are full.
    pub withheld: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

impl DispatchMetrics {
    /// Registers `trunkline_dispatch_replays_total`.
    pub fn register(registry: &mut Registry) -> Self {
        let family = Family::<ClassLabel, Counter>::default();
        registry.register("trunkline_dispatch_replays", "Requests sent again, by why that was safe", family.clone());
        let of = |class| family.get_or_create_owned(&ClassLabel { class });
        let withheld = Counter::default();
        let help = "Requests not sent again because too many gateways refused for being full";
        registry.register("trunkline_dispatch_replays_withheld", help, withheld.clone());
        Self {
            withheld,
            not_started: of("not_started"),
            not_accepted: of("not_accepted"),
            idempotent: of("idempotent"),
        }
    }

    pub(super) fn replayed(&self, class: Class) {
        match class {
            Class::NotStarted => self.not_started.inc(),
            Class::NotAccepted => self.not_accepted.inc(),
            Class::Idempotent => self.idempotent.inc(),
        };
    }
}
