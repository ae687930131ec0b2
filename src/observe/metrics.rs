//! Metrics: the registry with what every process has, and the counters of a request's way.
//!
//! Other modules define their own `XMetrics` beside their code and register them in the same [`Registry`]. Everything on
//! the hot path is resolved before it is counted: a request costs a few atomic additions, never a label lookup.

use std::array;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::process::Process;
use super::record::Wire;
use crate::fault::Fault;

/// A registry with the process's own metrics and the build's. `binary` is `edge` or `origin`.
pub fn registry(binary: &'static str) -> Registry {
    let mut registry = Registry::default();
    let build = Info::new(vec![("binary", binary), ("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("trunkline_build", "What runs here", build);
    registry.register_collector(Box::new(Process::new()));
    registry
}

/// Upper bounds from 250 us to 65 s, each twice the one before.
fn seconds_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 19))
}

type HistogramFamily = Family<ServiceLabel, Histogram, fn() -> Histogram>;

/// Counters of requests, fed by [`super::record::Record`].
#[derive(Debug)]
pub struct RequestMetrics {
    pub(super) in_flight: Gauge,
    faults: Family<FaultLabels, Counter>,
    services: Vec<Arc<ServiceMetrics>>,
    unrouted: Arc<ServiceMetrics>,
}

/// Counters of one service's requests.
#[derive(Debug)]
pub struct ServiceMetrics {
    name: Option<Arc<str>>,
    requests: Family<RequestLabels, Counter>,
    /// Each series is created at its first request, so that a service costs only the series it has.
    slots: [[OnceLock<Counter>; STATUS_CLASSES.len()]; Wire::ALL.len()],
    duration: Histogram,
    time_to_head: Histogram,
    pub(super) received: Counter,
    pub(super) sent: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServiceLabel {
    service: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    protocol: &'static str,
    status: &'static str,
    service: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FaultLabels {
    error_type: &'static str,
    stage: &'static str,
}

/// Classes of the status code; the first stands for requests that ended before any head.
const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The families that services share.
struct Families {
    requests: Family<RequestLabels, Counter>,
    duration: HistogramFamily,
    time_to_head: HistogramFamily,
    received: Family<ServiceLabel, Counter>,
    sent: Family<ServiceLabel, Counter>,
}

impl RequestMetrics {
    /// Registers the counters of `stage` (`edge` or `gateway`) for these services; their order gives their index.
    /// Requests that no service took are counted under the service `-`.
    pub fn register<'a>(
        registry: &mut Registry,
        stage: &str,
        services: impl IntoIterator<Item = &'a str>,
    ) -> Arc<Self> {
        let families = Families::register(registry, stage);
        let in_flight = Gauge::default();
        registry.register(format!("trunkline_{stage}_requests_in_flight"), "Requests now", in_flight.clone());
        let faults = Family::default();
        let help = "Requests that ended with a fault, by RFC 9209 error type and the stage that saw it";
        registry.register(format!("trunkline_{stage}_faults"), help, faults.clone());
        Arc::new(Self {
            in_flight,
            faults,
            services: services.into_iter().map(|name| Arc::new(families.service(Some(name)))).collect(),
            unrouted: Arc::new(families.service(None)),
        })
    }

    /// The counters of the service at `index` in the order of registration.
    pub fn service(&self, index: usize) -> &Arc<ServiceMetrics> {
        self.services.get(index).unwrap_or(&self.unrouted)
    }

    /// The counters of requests that no service took.
    pub fn unrouted(&self) -> &Arc<ServiceMetrics> {
        &self.unrouted
    }

    pub(super) fn fault(&self, fault: &Fault) {
        let labels = FaultLabels { error_type: fault.error_type(), stage: fault.stage.name() };
        self.faults.get_or_create(&labels).inc();
    }
}

impl Families {
    fn register(registry: &mut Registry, stage: &str) -> Self {
        let families = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(seconds_histogram),
            time_to_head: Family::new_with_constructor(seconds_histogram),
            received: Family::default(),
            sent: Family::default(),
        };
        let name = |what: &str| format!("trunkline_{stage}_{what}");
        let Self { requests, duration, time_to_head, received, sent } = &families;
        registry.register(name("requests"), "Requests ended", requests.clone());
        let help = "From a request's first byte to the end of its response";
        registry.register_with_unit(name("request_duration"), help, Unit::Seconds, duration.clone());
        let help = "From dispatch to the response head";
        registry.register_with_unit(name("time_to_head"), help, Unit::Seconds, time_to_head.clone());
        registry.register_with_unit(name("received"), "Body bytes of requests", Unit::Bytes, received.clone());
        registry.register_with_unit(name("sent"), "Body bytes of responses", Unit::Bytes, sent.clone());
        families
    }

    fn service(&self, name: Option<&str>) -> ServiceMetrics {
        let label = ServiceLabel { service: Arc::from(name.unwrap_or("-")) };
        ServiceMetrics {
            name: name.map(|_| label.service.clone()),
            requests: self.requests.clone(),
            slots: array::from_fn(|_| array::from_fn(|_| OnceLock::new())),
            duration: self.duration.get_or_create_owned(&label),
            time_to_head: self.time_to_head.get_or_create_owned(&label),
            received: self.received.get_or_create_owned(&label),
            sent: self.sent.get_or_create_owned(&label),
        }
    }
}

impl ServiceMetrics {
    /// The service's name; none for requests that no service took.
    pub fn name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }

    pub(super) fn ended(&self, wire: Wire, status: Option<u16>, total: Duration, to_head: Option<Duration>) {
        let class = usize::from(status.unwrap_or(0) / 100);
        let slot = self.slots.get(wire.index()).and_then(|classes| classes.get(class));
        if let (Some(slot), Some(status)) = (slot, STATUS_CLASSES.get(class)) {
            slot.get_or_init(|| self.series(wire, status)).inc();
        }
        self.duration.observe(total.as_secs_f64());
        if let Some(to_head) = to_head {
            self.time_to_head.observe(to_head.as_secs_f64());
        }
    }

    fn series(&self, wire: Wire, status: &'static str) -> Counter {
        let service = self.name.clone().unwrap_or_else(|| Arc::from("-"));
        self.requests.get_or_create_owned(&RequestLabels { protocol: wire.name(), status, service })
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::fault::{Kind, Side, Stage};

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    fn value<'a>(text: &'a str, series: &str) -> Option<&'a str> {
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
    }

    #[test]
    fn requests_are_counted_by_protocol_status_class_and_service() {
        let mut registry = Registry::default();
        let metrics = RequestMetrics::register(&mut registry, "edge", ["web", "api"]);
        let millis = Duration::from_millis;
        metrics.service(1).ended(Wire::Http3, Some(204), millis(3), Some(millis(2)));
        metrics.service(1).ended(Wire::Http3, Some(200), millis(3), None);
        metrics.unrouted().ended(Wire::Http2, None, millis(1), None);
        metrics.service(9).ended(Wire::Http1, Some(999), millis(1), None);
        let text = text(&registry);
        let series = "trunkline_edge_requests_total{protocol=\"h3\",status=\"2xx\",service=\"api\"}";
        assert_eq!(value(&text, series), Some("2"), "{text}");
        let series = "trunkline_edge_requests_total{protocol=\"h2\",status=\"none\",service=\"-\"}";
        assert_eq!(value(&text, series), Some("1"), "{text}");
        assert_eq!(value(&text, "trunkline_edge_time_to_head_seconds_count{service=\"api\"}"), Some("1"), "{text}");
        assert_eq!(value(&text, "trunkline_edge_request_duration_seconds_count{service=\"-\"}"), Some("2"), "{text}");
        assert!(!text.contains("service=\"web\",status"), "no series without a request: {text}");
    }

    #[test]
    fn faults_are_counted_by_error_type_and_stage() {
        let mut registry = Registry::default();
        let metrics = RequestMetrics::register(&mut registry, "edge", []);
        metrics.fault(&Fault::new(Stage::Upstream, Side::Upstream, Kind::ConnectionRefused));
        let series = "trunkline_edge_faults_total{error_type=\"connection_refused\",stage=\"upstream\"}";
        assert_eq!(value(&text(&registry), series), Some("1"));
    }

    #[test]
    fn every_process_tells_its_build_and_resources() {
        let text = text(&registry("edge"));
        assert!(text.contains("trunkline_build_info{binary=\"edge\",version=\""), "{text}");
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            let number = value(&text, name).and_then(|value| value.parse::<f64>().ok());
            assert!(number.is_some_and(|number| number >= 0.0), "{name} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_service_name_cannot_break_the_text() {
        let mut registry = Registry::default();
        RequestMetrics::register(&mut registry, "edge", ["a\"b\\c\nd"]);
        let text = text(&registry);
        assert!(text.contains(r#"service="a\"b\\c\nd""#), "{text}");
    }
}
