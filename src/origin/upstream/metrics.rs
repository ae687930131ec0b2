//! Stage 8: what the upstream client counts. Resolved once; nothing here looks up a label.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::fault::{Fault, Kind};

/// Counters of the upstream client, shared by the services of a process.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    /// Requests asked for.
    pub requests: Counter,
    /// Upstream connections that exist now, those being opened included.
    pub connections: Gauge,
    /// Connections opened.
    pub connects: Counter,
    /// Connects that failed (refused, timed out, TLS, DNS).
    pub connect_failures: Counter,
    /// Requests that went on a connection used before.
    pub reuses: Counter,
    /// Unused connections closed because they reached the idle timeout.
    pub idle_closed: Counter,
    /// Requests waiting for a connection now.
    pub waiting: Gauge,
    /// Requests refused because the queue was full.
    pub queue_full: Counter,
    /// Requests that waited for the whole queue timeout.
    pub queue_timeouts: Counter,
    /// Requests sent again on another connection because they provably were not processed.
    pub unsent_retries: Counter,
    /// Requests sent again because they are idempotent and a reused connection broke.
    pub replays: Counter,
    /// Response heads that did not come in time.
    pub response_timeouts: Counter,
    /// Bodies that made no progress, in either direction.
    pub body_timeouts: Counter,
    /// Malformed or oversized responses, and unasked upgrades.
    pub protocol_errors: Counter,
    /// Connections that broke before the head, and bodies that were cut.
    pub broken: Counter,
    /// Upgrades that turned a connection into two byte streams.
    pub upgrades: Counter,
    /// From handing the request to a connection to the response head, seconds.
    pub head_seconds: Histogram,
}

impl UpstreamMetrics {
    /// Registers all of them under `trunkline_upstream_`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::unregistered();
        metrics.add_counters(registry);
        registry.register("trunkline_upstream_connections", "Connections now", metrics.connections.clone());
        registry.register("trunkline_upstream_waiting_requests", "Requests queued now", metrics.waiting.clone());
        registry.register("trunkline_upstream_head_seconds", "Time to the response head", metrics.head_seconds.clone());
        metrics
    }

    /// The same counters known to no registry.
    pub fn unregistered() -> Self {
        Self {
            requests: Counter::default(),
            connections: Gauge::default(),
            connects: Counter::default(),
            connect_failures: Counter::default(),
            reuses: Counter::default(),
            idle_closed: Counter::default(),
            waiting: Gauge::default(),
            queue_full: Counter::default(),
            queue_timeouts: Counter::default(),
            unsent_retries: Counter::default(),
            replays: Counter::default(),
            response_timeouts: Counter::default(),
            body_timeouts: Counter::default(),
            protocol_errors: Counter::default(),
            broken: Counter::default(),
            upgrades: Counter::default(),
            head_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 18)),
        }
    }

    fn add_counters(&self, registry: &mut Registry) {
        let counters = [
            ("requests", "Requests", &self.requests),
            ("connects", "Connections opened", &self.connects),
            ("connect_failures", "Connects that failed", &self.connect_failures),
            ("reuses", "Requests on a reused connection", &self.reuses),
            ("idle_closed", "Connections closed for being idle", &self.idle_closed),
            ("queue_full", "Requests refused by a full queue", &self.queue_full),
            ("queue_timeouts", "Requests that waited too long for a connection", &self.queue_timeouts),
            ("unsent_retries", "Requests sent again, not processed before", &self.unsent_retries),
            ("replays", "Idempotent requests sent again", &self.replays),
            ("response_timeouts", "Response heads that came too late", &self.response_timeouts),
            ("body_timeouts", "Bodies without progress", &self.body_timeouts),
            ("protocol_errors", "Malformed responses", &self.protocol_errors),
            ("broken", "Connections broken in mid-request", &self.broken),
            ("upgrades", "Upgraded connections", &self.upgrades),
        ];
        for (name, help, counter) in counters {
            registry.register(format!("trunkline_upstream_{name}"), help, counter.clone());
        }
    }

    /// Counts a fault that ends a request after it was handed to a connection.
    pub(super) fn count_fault(&self, fault: &Fault) {
        let counter = match fault.kind {
            Kind::ResponseTimeout => &self.response_timeouts,
            Kind::ConnectionReadTimeout | Kind::ConnectionWriteTimeout => &self.body_timeouts,
            Kind::ProtocolError | Kind::ResponseHeaderSectionSize | Kind::UpgradeFailed => &self.protocol_errors,
            Kind::ConnectionTerminated | Kind::ResponseIncomplete => &self.broken,
            _ => return,
        };
        counter.inc();
    }
}
