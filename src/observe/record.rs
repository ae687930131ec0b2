//! One [`Record`] per request: what the spine notes on the way, told exactly once, at the request's end, to the
//! metrics and the access log.
//!
//! The spine makes a record when a request arrives and keeps it with the response body. Filling it costs a few clones
//! of refcounted values; nothing is formatted until the end, and then only when there is an access log. A record that
//! is dropped unfinished is a request that its client (or a forced end of the process) cut off.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, StatusCode};
use prometheus_client::metrics::counter::Counter;

use super::access::AccessLog;
use super::metrics::{RequestMetrics, ServiceMetrics};
use crate::clock;
use crate::fault::{Fault, Kind, Side, Stage};
use crate::task::Shutdown;

/// What a request came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// HTTP/1.1 from a client.
    Http1,
    /// HTTP/2 from a client.
    Http2,
    /// HTTP/3 from a client.
    Http3,
    /// An exchange of a tunnel, at the origin.
    Tunnel,
}

impl Wire {
    pub(super) const ALL: [Self; 4] = [Self::Http1, Self::Http2, Self::Http3, Self::Tunnel];

    /// Log field and metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2 => "h2",
            Self::Http3 => "h3",
            Self::Tunnel => "tunnel",
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::Http1 => 0,
            Self::Http2 => 1,
            Self::Http3 => 2,
            Self::Tunnel => 3,
        }
    }
}

/// Who hears of every request's end. Cheap to clone; one per process.
#[derive(Clone)]
pub struct Observer(Arc<Inner>);

struct Inner {
    access: Option<AccessLog>,
    metrics: Arc<RequestMetrics>,
    shutdown: Shutdown,
}

impl Observer {
    /// `access` is none when no line per request is wanted.
    pub fn new(access: Option<AccessLog>, metrics: Arc<RequestMetrics>, shutdown: Shutdown) -> Self {
        Self(Arc::new(Inner { access, metrics, shutdown }))
    }

    /// The counters, for [`RequestMetrics::service`].
    pub fn metrics(&self) -> &RequestMetrics {
        &self.0.metrics
    }

    /// Begins the record of a request whose first byte was seen at `started`.
    pub fn record(&self, opening: Opening, started: Instant) -> Record {
        self.0.metrics.in_flight.inc();
        Record {
            observer: self.clone(),
            opening,
            started,
            routed: None,
            dispatched: None,
            headed: None,
            upstream: None,
            service: None,
            peer: None,
            attempts: 0,
            status: None,
            sent: 0,
            received: None,
            fault: None,
            finished: false,
        }
    }
}

/// What is known when a request arrives.
#[derive(Clone, Debug)]
pub struct Opening {
    /// What it came on.
    pub wire: Wire,
    /// The client's address.
    pub client: SocketAddr,
    /// The value of `X-Request-Id`.
    pub request_id: Option<HeaderValue>,
    /// Its method.
    pub method: Method,
    /// Its authority.
    pub authority: Authority,
    /// Its path and query.
    pub path: PathAndQuery,
}

/// How far a request came: the phase in which it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before a service was found.
    Request,
    /// Before a tunnel (at the origin: an upstream connection) was chosen.
    Dispatch,
    /// Before the response head.
    Head,
    /// After the response head.
    Body,
}

impl Phase {
    /// The word in `termination`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Dispatch => "dispatch",
            Self::Head => "head",
            Self::Body => "body",
        }
    }
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The response was sent to its end.
    Complete,
    /// The client cancelled or vanished.
    ClientGone,
    /// The process ended by force.
    Forced,
    /// Anything else.
    Fault(Fault),
}

/// A request's record. Emitted once, by [`Record::finish`] or by being dropped.
pub struct Record {
    observer: Observer,
    pub(super) opening: Opening,
    started: Instant,
    routed: Option<Instant>,
    dispatched: Option<Instant>,
    headed: Option<Instant>,
    pub(super) upstream: Option<Duration>,
    service: Option<Arc<ServiceMetrics>>,
    /// The gateway at an edge, the PoP at an origin.
    pub(super) peer: Option<Arc<str>>,
    pub(super) attempts: u32,
    pub(super) status: Option<StatusCode>,
    pub(super) sent: u64,
    received: Option<Arc<AtomicU64>>,
    fault: Option<Fault>,
    finished: bool,
}

/// Counts the bytes of a request body, wherever it is read.
#[derive(Clone, Debug)]
pub struct Received {
    request: Arc<AtomicU64>,
    service: Counter,
}

impl Received {
    /// Counts a piece of the body.
    pub fn add(&self, bytes: u64) {
        self.request.fetch_add(bytes, Ordering::Relaxed);
        self.service.inc_by(bytes);
    }
}

impl Record {
    /// A service was found: the one at `index` in [`RequestMetrics`].
    pub fn routed(&mut self, index: usize) {
        self.service = Some(self.observer.metrics().service(index).clone());
        self.routed = Some(clock::now());
    }

    /// A tunnel to the gateway `peer` was chosen (at an origin: the exchange came from the PoP `peer`). Counts attempts:
    /// called again for each replay.
    pub fn dispatched(&mut self, peer: &Arc<str>) {
        self.attempts = self.attempts.saturating_add(1);
        self.peer = Some(peer.clone());
        self.dispatched.get_or_insert_with(clock::now);
    }

    /// The final response head goes to the client.
    pub fn head(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.headed.get_or_insert_with(clock::now);
    }

    /// How long the upstream took to its response head, as the gateway tells.
    pub fn upstream_took(&mut self, time: Duration) {
        self.upstream = Some(time);
    }

    /// A piece of the response body went to the client.
    pub fn sent(&mut self, bytes: u64) {
        self.sent = self.sent.saturating_add(bytes);
        self.service_metrics().sent.inc_by(bytes);
    }

    /// The counter for the request body. Ask for it after [`Record::routed`], and only if there is a body.
    pub fn received(&mut self) -> Received {
        let request = self.received.get_or_insert_default().clone();
        Received { request, service: self.service_metrics().received.clone() }
    }

    /// Something went wrong. The first fault is the one that counts; the answer made of it may still be sent whole.
    pub fn fault(&mut self, fault: &Fault) {
        self.fault.get_or_insert(*fault);
    }

    /// The response was sent to its end, or everything is noted about why it cannot be.
    pub fn finish(mut self) {
        self.set_finished();
    }

    /// The same for a record that stays where it is; it must be dropped next.
    pub fn set_finished(&mut self) {
        self.finished = true;
    }

    /// Time since the request's first byte.
    pub fn age(&self) -> std::time::Duration {
        clock::now().saturating_duration_since(self.started)
    }

    /// How far the request came.
    pub fn phase(&self) -> Phase {
        match (self.headed, self.dispatched, self.routed) {
            (Some(_), _, _) => Phase::Body,
            (None, Some(_), _) => Phase::Head,
            (None, None, Some(_)) => Phase::Dispatch,
            (None, None, None) => Phase::Request,
        }
    }

    pub(super) fn cause(&self) -> Cause {
        match self.fault {
            Some(fault) if fault.kind == Kind::ClientGone => Cause::ClientGone,
            Some(fault) => Cause::Fault(fault),
            None if self.finished => Cause::Complete,
            None if self.observer.0.shutdown.is_forced() => Cause::Forced,
            None => Cause::ClientGone,
        }
    }

    pub(super) fn service_name(&self) -> Option<&str> {
        self.service.as_ref()?.name().map(AsRef::as_ref)
    }

    pub(super) fn received_bytes(&self) -> u64 {
        self.received.as_ref().map_or(0, |received| received.load(Ordering::Relaxed))
    }

    pub(super) fn times(&self, now: Instant) -> Times {
        let between = |from: Option<Instant>, to: Option<Instant>| Some(to?.saturating_duration_since(from?));
        Times {
            total: now.saturating_duration_since(self.started),
            request: between(Some(self.started), self.routed),
            dispatch: between(self.routed, self.dispatched),
            head: between(self.dispatched, self.headed),
        }
    }

    fn service_metrics(&self) -> &ServiceMetrics {
        self.service.as_ref().unwrap_or_else(|| self.observer.metrics().unrouted())
    }
}

impl Cause {
    /// Which side ended it, where `own` is this process; none if it ended well.
    pub(super) fn side(&self, own: Side) -> Option<Side> {
        match self {
            Self::Complete => None,
            Self::ClientGone => Some(Side::Client),
            Self::Forced => Some(own),
            Self::Fault(fault) => Some(fault.side),
        }
    }
}

/// Where the time went. The parts follow each other; what is left of `total` is the response body.
pub(super) struct Times {
    /// First byte to the end.
    pub total: Duration,
    /// First byte to the service.
    pub request: Option<Duration>,
    /// Service to the first tunnel.
    pub dispatch: Option<Duration>,
    /// First tunnel to the response head, replays included.
    pub head: Option<Duration>,
}

impl Drop for Record {
    fn drop(&mut self) {
        let observer = self.observer.clone();
        let metrics = observer.metrics();
        metrics.in_flight.dec();
        let times = self.times(clock::now());
        let status = self.status.map(|status| status.as_u16());
        self.service_metrics().ended(self.opening.wire, status, times.total, times.head);
        let cause = self.cause();
        match cause {
            Cause::Fault(fault) => metrics.fault(&fault),
            Cause::ClientGone => metrics.fault(&self.fault.unwrap_or(Fault::client_gone(Stage::Listener))),
            Cause::Complete | Cause::Forced => {}
        }
        if let Some(access) = &observer.0.access {
            access.write(self, &times, cause);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
