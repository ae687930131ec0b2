//! Stage 1, what the listeners count. Counters are resolved once, so that counting is one atomic addition.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Protocol;
use super::admission::Refusal;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByProtocol {
    protocol: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

/// Counters of one protocol.
#[derive(Clone, Debug)]
pub struct ProtocolMetrics {
    /// Connections open now.
    pub open: Gauge,
    /// Connections that completed their handshake.
    pub connections: Counter,
    /// Requests whose head was refused here, before the spine.
    pub refused_requests: Counter,
    /// Requests that the client cancelled.
    pub resets: Counter,
}

/// What the listeners count.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    /// HTTP/1.1.
    pub http1: ProtocolMetrics,
    /// HTTP/2.
    pub http2: ProtocolMetrics,
    /// HTTP/3.
    pub http3: ProtocolMetrics,
    /// Refused: `connections_max`.
    pub refused_connections: Counter,
    /// Refused: `handshakes_max`.
    pub refused_handshakes: Counter,
    /// Refused: `connections_per_address_rate`.
    pub refused_addresses: Counter,
    /// Refused: draining.
    pub refused_draining: Counter,
    /// QUIC clients asked to validate their address.
    pub retries: Counter,
    /// TLS and QUIC handshakes that failed.
    pub handshakes_failed: Counter,
    /// TLS and QUIC handshakes that took longer than `header_timeout`.
    pub handshakes_late: Counter,
    /// Errors of accept(2).
    pub accept_errors: Counter,
    /// Connections closed: idle.
    pub closed_idle: Counter,
    /// Connections closed: a request head took longer than `header_timeout`.
    pub closed_header_timeout: Counter,
    /// Connections closed: more resets than `resets_max`.
    pub closed_resets: Counter,
    /// Streams or connections cut: the client took nothing for `body_timeout`.
    pub cut_stalled: Counter,
}

impl ListenerMetrics {
    /// Makes the counters and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let mut protocols = Protocols::register(registry);
        let reasons = |registry: &mut Registry, name: &str, help: &str| {
            let family = Family::<ByReason, Counter>::default();
            registry.register(name, help, family.clone());
            move |reason| family.get_or_create_owned(&ByReason { reason })
        };
        let refused =
            reasons(registry, "trunkline_listener_refused_connections", "Connections refused before their handshake");
        let failed = reasons(registry, "trunkline_listener_failed_handshakes", "Handshakes that were not completed");
        let closed = reasons(registry, "trunkline_listener_closed", "Connections and streams closed by a limit");
        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        Self {
            http1: protocols.of(Protocol::Http1),
            http2: protocols.of(Protocol::Http2),
            http3: protocols.of(Protocol::Http3),
            refused_connections: refused("connections_max"),
            refused_handshakes: refused("handshakes_max"),
            refused_addresses: refused("connections_per_address_rate"),
            refused_draining: refused("draining"),
            retries: counter(registry, "trunkline_listener_retries", "QUIC clients asked to validate their address"),
            handshakes_failed: failed("error"),
            handshakes_late: failed("timeout"),
            accept_errors: counter(registry, "trunkline_listener_accept_errors", "Errors of accept(2)"),
            closed_idle: closed("idle_timeout"),
            closed_header_timeout: closed("header_timeout"),
            closed_resets: closed("resets_max"),
            cut_stalled: closed("body_timeout"),
        }
    }

    /// The counters of `protocol`.
    pub fn of(&self, protocol: Protocol) -> &ProtocolMetrics {
        match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
            Protocol::Http3 => &self.http3,
        }
    }

    /// Counts a connection that was not let in.
    pub fn refuse(&self, refusal: Refusal) {
        match refusal {
            Refusal::Connections => &self.refused_connections,
            Refusal::Handshakes => &self.refused_handshakes,
            Refusal::Address => &self.refused_addresses,
        }
        .inc();
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn open(&self, protocol: Protocol) -> Open {
        let metrics = self.of(protocol);
        metrics.connections.inc();
        metrics.open.inc();
        Open { gauge: metrics.open.clone() }
    }
}

/// A connection that is counted as open.
#[derive(Debug)]
pub struct Open {
    gauge: Gauge,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

struct Protocols {
    open: Family<ByProtocol, Gauge>,
    connections: Family<ByProtocol, Counter>,
    refused_requests: Family<ByProtocol, Counter>,
    resets: Family<ByProtocol, Counter>,
}

impl Protocols {
    fn register(registry: &mut Registry) -> Self {
        let made = Self {
            open: Family::default(),
            connections: Family::default(),
            refused_requests: Family::default(),
            resets: Family::default(),
        };
        registry.register("trunkline_listener_open_connections", "Client connections open now", made.open.clone());
        registry.register(
            "trunkline_listener_connections",
            "Client connections that completed their handshake",
            made.connections.clone(),
        );
        registry.register(
            "trunkline_listener_refused_requests",
            "Requests whose head was refused by the listener",
            made.refused_requests.clone(),
        );
        registry.register("trunkline_listener_resets", "Requests cancelled by the client", made.resets.clone());
        made
    }

    fn of(&mut self, protocol: Protocol) -> ProtocolMetrics {
        let protocol = match protocol {
            Protocol::Http1 => "http1",
            Protocol::Http2 => "http2",
            Protocol::Http3 => "http3",
        };
        let labels = ByProtocol { protocol };
        ProtocolMetrics {
            open: self.open.get_or_create_owned(&labels),
            connections: self.connections.get_or_create_owned(&labels),
            refused_requests: self.refused_requests.get_or_create_owned(&labels),
            resets: self.resets.get_or_create_owned(&labels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_connections_are_counted_while_they_last() {
        let mut registry = Registry::default();
        let metrics = ListenerMetrics::register(&mut registry);
        let open = metrics.open(Protocol::Http2);
        metrics.refuse(Refusal::Handshakes);
        let text = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        let shown = text(&registry);
        assert!(shown.contains("trunkline_listener_open_connections{protocol=\"http2\"} 1"), "{shown}");
        assert!(shown.contains("trunkline_listener_refused_connections_total{reason=\"handshakes_max\"} 1"), "{shown}");
        drop(open);
        assert!(text(&registry).contains("trunkline_listener_open_connections{protocol=\"http2\"} 0"));
        assert_eq!(metrics.http2.connections.get(), 1);
    }
}
