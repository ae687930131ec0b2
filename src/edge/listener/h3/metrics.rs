//! Stage 1, HTTP/3: counters, resolved once. Incremented by the codec, read by the admin listener.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What HTTP/3 counts.
#[derive(Clone, Debug, Default)]
pub struct H3Metrics {
    /// Connections open now.
    pub connections: Gauge,
    /// Request streams begun.
    pub requests: Counter,
    /// Requests that the client cancelled or reset.
    pub cancelled: Counter,
    /// Requests and bodies refused with H3_MESSAGE_ERROR.
    pub malformed: Counter,
    /// Requests that the codec answered itself (431 and others).
    pub refused: Counter,
    /// Streams we reset because a response could not be completed.
    pub aborted: Counter,
    /// Connections closed because the client broke a rule of the connection.
    pub connection_errors: Counter,
    /// Connections closed with H3_EXCESSIVE_LOAD for too many resets.
    pub excessive_load: Counter,
    /// Requests rejected after GOAWAY; safe to send again.
    pub rejected: Counter,
}

impl H3Metrics {
    /// Makes the metrics known to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("trunkline_h3_connections", "HTTP/3 connections open", metrics.connections.clone());
        for (name, help, counter) in [
            ("trunkline_h3_requests", "HTTP/3 request streams begun", &metrics.requests),
            ("trunkline_h3_cancelled_requests", "HTTP/3 requests cancelled by the client", &metrics.cancelled),
            ("trunkline_h3_malformed_requests", "HTTP/3 requests refused as malformed", &metrics.malformed),
            ("trunkline_h3_refused_requests", "HTTP/3 requests the codec answered itself", &metrics.refused),
            ("trunkline_h3_aborted_responses", "HTTP/3 responses that could not be completed", &metrics.aborted),
            ("trunkline_h3_connection_errors", "HTTP/3 connections closed with an error", &metrics.connection_errors),
            ("trunkline_h3_excessive_load", "HTTP/3 connections closed for too many resets", &metrics.excessive_load),
            ("trunkline_h3_rejected_requests", "HTTP/3 requests rejected after GOAWAY", &metrics.rejected),
        ] {
            registry.register(name, help, counter.clone());
        }
        metrics
    }
}
