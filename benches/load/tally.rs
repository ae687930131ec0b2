//! What is counted during a measurement, and the report made of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use trunkline::clock;

use super::client::Failure;
use crate::Outcome;
use crate::machine::Usage;

/// Longest latency that is told apart, nanoseconds; longer ones count as this.
const LATENCY_MAX: u64 = 60_000_000_000;

/// Counts what happens while it is open; everything before and after passes by.
pub struct Tally {
    open: AtomicBool,
    requests: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    first_error: Mutex<Option<String>>,
    latency: Mutex<Histogram<u64>>,
    /// When requests were due that have no answer yet; no two at the same time.
    waiting: Mutex<BTreeSet<Instant>>,
}

impl Tally {
    /// A closed one.
    pub fn new() -> Outcome<Self> {
        Ok(Self {
            open: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            first_error: Mutex::new(None),
            latency: Mutex::new(Histogram::new_with_bounds(1_000, LATENCY_MAX, 3)?),
            waiting: Mutex::default(),
        })
    }

    /// Opens or closes it.
    pub fn set_open(&self, open: bool) {
        self.open.store(open, Relaxed);
    }

    /// Body bytes that moved, in either direction.
    pub fn moved(&self, bytes: u64) {
        if self.open.load(Relaxed) {
            self.bytes.fetch_add(bytes, Relaxed);
        }
    }

    /// A request that is due at `due` begins, and counts as slow if it never ends: who answers only what is easy must not look fast.
    pub fn begun(&self, due: Instant) {
        self.waiting.lock().insert(due);
    }

    /// A request that was due at `due` ended now, at `now`.
    pub fn ended(&self, due: Instant, now: Instant, result: Result<(), Failure>) {
        self.waiting.lock().remove(&due);
        match result {
            Ok(()) if self.open.load(Relaxed) => self.answered(now.saturating_duration_since(due)),
            Ok(()) => {}
            Err(failure) => self.failed(&failure),
        }
    }

    /// A request failed. Counted in the warm-up too: an error is never unimportant.
    pub fn failed(&self, failure: &Failure) {
        self.errors.fetch_add(1, Relaxed);
        self.first_error.lock().get_or_insert_with(|| failure.to_string());
    }

    fn answered(&self, latency: Duration) {
        self.requests.fetch_add(1, Relaxed);
        self.record(latency);
    }

    fn record(&self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_MAX);
        self.latency.lock().saturating_record(nanoseconds);
    }

    /// The result of a window that ends now, over which `usage` was consumed. What has no answer took at least as long as until now.
    pub fn report(&self, usage: Usage) -> Report {
        let now = clock::now();
        self.waiting.lock().iter().for_each(|due| self.record(now.saturating_duration_since(*due)));
        Report {
            requests: self.requests.load(Relaxed),
            errors: self.errors.load(Relaxed),
            first_error: self.first_error.lock().clone(),
            bytes: self.bytes.load(Relaxed),
            latency: Latency::of(&self.latency.lock()),
            usage,
        }
    }
}

/// What one measurement found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Requests answered rightly: status 200 and the whole length. For idle connections: their number.
    pub requests: u64,
    /// Requests that were not, from the warm-up on.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// Body bytes moved.
    pub bytes: u64,
    /// From the time a request was due to the last byte of its answer; of one without an answer, to the end.
    pub latency: Latency,
    /// What the machine spent meanwhile.
    pub usage: Usage,
}

impl Report {
    /// A measurement that did not come about.
    pub fn failed(error: String) -> Self {
        Self { errors: 1, first_error: Some(error), ..Self::default() }
    }
}

/// Quantiles of a latency, microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Half are faster.
    pub p50_us: f64,
    /// One in ten is slower.
    pub p90_us: f64,
    /// One in a hundred is slower.
    pub p99_us: f64,
    /// One in a thousand is slower.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Self { p50_us: at(0.5), p90_us: at(0.9), p99_us: at(0.99), p999_us: at(0.999), max_us: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_inside_the_window_counts_but_every_error_does() {
        let tally = Tally::new().expect("a tally");
        let now = clock::now();
        let request = |result| {
            tally.ended(now, now + Duration::from_millis(2), result);
            tally.moved(100);
        };
        request(Ok(()));
        tally.set_open(true);
        request(Ok(()));
        tally.set_open(false);
        request(Ok(()));
        request(Err(Failure::Length { got: 99, wanted: 100 }));
        let report = tally.report(Usage::default());
        assert_eq!((report.requests, report.bytes, report.errors), (1, 100, 1));
        assert_eq!(report.first_error.as_deref(), Some("99 bytes of body instead of 100"));
        assert!((report.latency.p50_us - 2_000.0).abs() < 2.0, "{:?}", report.latency);
    }

    #[test]
    fn a_request_without_an_answer_is_as_slow_as_the_measurement_is_long() {
        let tally = Tally::new().expect("a tally");
        tally.set_open(true);
        let due = clock::now() - Duration::from_millis(2);
        for nth in 0..100 {
            let due = due + Duration::from_nanos(nth);
            tally.begun(due);
            if nth < 98 {
                tally.ended(due, due + Duration::from_micros(100), Ok(()));
            }
        }
        let report = tally.report(Usage::default());
        assert_eq!((report.requests, report.errors), (98, 0));
        assert!(report.latency.p90_us < 101.0 && report.latency.p99_us >= 1_990.0, "{:?}", report.latency);
    }
}
