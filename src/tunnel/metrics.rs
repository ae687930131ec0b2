//! Counters of the tunnel layers, the same at both ends. What happens to links and exchanges in trouble is told as
//! [`crate::observe::event`]s.

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
    exchanges: Counter<u64, AtomicU64> = "trunkline_tunnel_exchanges", "Exchanges opened or taken";
    detached: Counter<u64, AtomicU64> = "trunkline_tunnel_detached", "Exchanges that lost the stream they rode on";
    bytes_again: Counter<u64, AtomicU64> = "trunkline_tunnel_resumed_bytes", "Bytes sent again by resuming";
    copies: Counter<u64, AtomicU64> = "trunkline_tunnel_copies", "Short datagrams sent twice because the way loses some";
    credit_waits: Counter<u64, AtomicU64> = "trunkline_tunnel_credit_waits", "Times an exchange waited for credit";
}
