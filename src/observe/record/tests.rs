//! Records told exactly once. `Watched` is for the tests of the access log too.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::*;
use crate::observe::lines::Lines;
use crate::observe::lines::tests::Captured;
use crate::observe::log::Form;

/// An edge's observer with an access log that can be read.
pub(crate) struct Watched {
    pub observer: Observer,
    pub shutdown: Shutdown,
    registry: Registry,
    lines: Lines,
    output: Captured,
}

impl Watched {
    pub(crate) fn new(form: Form) -> Self {
        let (output, shutdown) = (Captured::default(), Shutdown::default());
        let lines = Lines::start(output.clone(), 1 << 20).unwrap();
        let mut registry = Registry::default();
        let metrics = RequestMetrics::register(&mut registry, "edge", ["web"]);
        let access = AccessLog::edge(lines.clone(), form, "pop-a");
        let observer = Observer::new(Some(access), metrics, shutdown.clone());
        Self { observer, shutdown, registry, lines, output }
    }

    pub(crate) fn record(&self) -> Record {
        self.observer.record(opening("/index.html?a=b"), clock::now())
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        assert!(self.lines.flush(Duration::from_secs(10)));
        self.output.text().lines().map(str::to_owned).collect()
    }

    fn metric(&self, series: &str) -> Option<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text.lines().find_map(|line| Some(line.strip_prefix(series)?.strip_prefix(' ')?.to_owned()))
    }
}

pub(crate) fn opening(path: &'static str) -> Opening {
    Opening {
        wire: Wire::Http3,
        client: "[::ffff:192.0.2.7]:5000".parse().unwrap(),
        request_id: Some(HeaderValue::from_static("4f2a")),
        method: Method::GET,
        authority: Authority::from_static("www.example.com"),
        path: PathAndQuery::from_static(path),
    }
}

fn refused() -> Fault {
    Fault::new(Stage::Upstream, Side::Upstream, Kind::ConnectionRefused)
}

#[test]
fn a_finished_record_is_told_exactly_once() {
    let watched = Watched::new(Form::Json);
    let mut record = watched.record();
    assert_eq!(watched.metric("trunkline_edge_requests_in_flight").as_deref(), Some("1"));
    record.routed(0);
    record.dispatched(&"gw-1".into());
    record.head(StatusCode::OK);
    record.received().add(3);
    record.sent(5);
    record.finish();
    assert_eq!(watched.lines().len(), 1);
    assert_eq!(watched.metric("trunkline_edge_requests_in_flight").as_deref(), Some("0"));
    let series = "trunkline_edge_requests_total{protocol=\"h3\",status=\"2xx\",service=\"web\"}";
    assert_eq!(watched.metric(series).as_deref(), Some("1"));
    assert_eq!(watched.metric("trunkline_edge_received_bytes_total{service=\"web\"}").as_deref(), Some("3"));
    assert_eq!(watched.metric("trunkline_edge_sent_bytes_total{service=\"web\"}").as_deref(), Some("5"));
}

#[test]
fn a_dropped_record_is_a_client_that_went_away() {
    let watched = Watched::new(Form::Json);
    drop(watched.record());
    let lines = watched.lines();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("\"termination\":\"client_gone@request\",\"side\":\"client\""), "{lines:?}");
    let series = "trunkline_edge_faults_total{error_type=\"client_gone\",stage=\"listener\"}";
    assert_eq!(watched.metric(series).as_deref(), Some("1"));
}

#[test]
fn a_record_dropped_by_force_does_not_blame_the_client() {
    let watched = Watched::new(Form::Json);
    let mut record = watched.record();
    record.routed(0);
    watched.shutdown.start_force();
    drop(record);
    assert!(watched.lines()[0].contains("\"termination\":\"forced@dispatch\",\"side\":\"edge\""));
}

#[test]
fn the_first_fault_stays_the_cause_even_when_its_answer_is_sent_whole() {
    let watched = Watched::new(Form::Json);
    let mut record = watched.record();
    record.fault(&refused());
    record.fault(&Fault::client_gone(Stage::Listener));
    record.head(StatusCode::BAD_GATEWAY);
    record.finish();
    assert!(watched.lines()[0].contains("\"termination\":\"connection_refused@upstream\",\"side\":\"upstream\""));
    let series = "trunkline_edge_faults_total{error_type=\"connection_refused\",stage=\"upstream\"}";
    assert_eq!(watched.metric(series).as_deref(), Some("1"));
}

#[test]
fn replays_are_counted_and_the_last_gateway_is_named() {
    let watched = Watched::new(Form::Json);
    let mut record = watched.record();
    record.routed(0);
    record.dispatched(&"gw-1".into());
    record.dispatched(&"gw-2".into());
    assert_eq!((record.attempts, record.phase()), (2, Phase::Head));
    record.finish();
    assert!(watched.lines()[0].contains("\"gateway\":\"gw-2\",\"attempts\":2"));
}

#[test]
fn the_parts_of_the_time_never_exceed_the_whole() {
    let watched = Watched::new(Form::Json);
    let mut record = watched.record();
    record.routed(0);
    record.dispatched(&"gw-1".into());
    record.head(StatusCode::OK);
    let times = record.times(clock::now());
    let parts = times.request.unwrap() + times.dispatch.unwrap() + times.head.unwrap();
    assert!(parts <= times.total);
}

#[test]
fn without_an_access_log_requests_are_still_counted() {
    let mut registry = Registry::default();
    let metrics = RequestMetrics::register(&mut registry, "edge", ["web"]);
    let observer = Observer::new(None, metrics, Shutdown::default());
    observer.record(opening("/"), clock::now()).finish();
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    assert!(text.contains("trunkline_edge_requests_total{protocol=\"h3\",status=\"none\",service=\"-\"} 1"), "{text}");
}
