//! Counters of the tunnel layers, the same at both ends.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

macro_rules! tunnel_metrics {
    ($( $field:ident: $type:ty = $name:literal, $help:literal; )*) => {
        /// Counters of links and exchanges.
        #[derive(Clone, Debug, Default)]
        pub struct TunnelMetrics { $( #[doc = $help] pub $field: $type, )* }

        impl TunnelMetrics {
            /// Registers all of them.
            pub fn register(registry: &mut Registry) -> Self {
                let metrics = Self::default();
                $( registry.register($name, $help, metrics.$field.clone()); )*
                metrics
            }
        }
    };
}

tunnel_metrics! {
    links: Gauge = "trunkline_tunnel_links", "Links with a finished handshake";
    links_opened: Counter<u64, AtomicU64> = "trunkline_tunnel_links_opened", "Links that finished their handshake";
    links_failed: Counter<u64, AtomicU64> = "trunkline_tunnel_links_failed", "Links that failed before or during their handshake";
    links_refused: Counter<u64, AtomicU64> = "trunkline_tunnel_links_refused", "Links refused because their gateway has too many";
    suspicions: Counter<u64, AtomicU64> = "trunkline_tunnel_suspicions", "Links suspected of being dead";
    false_suspicions: Counter<u64, AtomicU64> = "trunkline_tunnel_false_suspicions", "Suspected links that were heard again";
    verdicts: Counter<u64, AtomicU64> = "trunkline_tunnel_verdicts", "Links closed because nothing was heard";
    rebinds: Counter<u64, AtomicU64> = "trunkline_tunnel_rebinds", "Links moved to a fresh source port";
    exchanges: Counter<u64, AtomicU64> = "trunkline_tunnel_exchanges", "Exchanges opened or taken";
    detached: Counter<u64, AtomicU64> = "trunkline_tunnel_detached", "Exchanges that lost the stream they rode on";
    resumed: Counter<u64, AtomicU64> = "trunkline_tunnel_resumed", "Exchanges that went on on another stream";
    bytes_again: Counter<u64, AtomicU64> = "trunkline_tunnel_resumed_bytes", "Bytes sent again by resuming";
    credit_waits: Counter<u64, AtomicU64> = "trunkline_tunnel_credit_waits", "Times an exchange waited for credit";
}
