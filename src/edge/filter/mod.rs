//! Stage 2: refuses early what must not go further. Called by the spine for each request and by listeners for each new
//! connection; owns the table of client addresses. Never looks at bodies, never waits.
//!
//! The rules of a well-formed request are the listeners'; here are those of what this edge is willing to do.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use self::addresses::Addresses;
pub use self::addresses::Permit;
use self::hops::Hops;
use super::listener::Request;
use crate::config::Limits;
use crate::fault::{Fault, Kind, Side, Stage};

mod addresses;
mod hops;
mod target;

/// The `Allow` field of a 405 (RFC 9110 section 15.5.6 demands one): what can reach an upstream.
pub const ALLOW: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

/// Why a request or connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// A method that no upstream gets: CONNECT for tunnels of any kind but upgrades, TRACE.
    Method,
    /// A target that does not fit the method.
    Target,
    /// An upgrade to something else than a WebSocket.
    Upgrade,
    /// The request has been here before, or passed too many proxies.
    Loop,
    /// Too many requests at once from one address.
    AddressRequests,
    /// Too many new connections from one address.
    AddressConnections,
}

impl Reason {
    const ALL: [Self; 6] =
        [Self::Method, Self::Target, Self::Upgrade, Self::Loop, Self::AddressRequests, Self::AddressConnections];

    fn name(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Target => "target",
            Self::Upgrade => "upgrade",
            Self::Loop => "loop",
            Self::AddressRequests => "address_requests",
            Self::AddressConnections => "address_connections",
        }
    }

    fn fault(self) -> Fault {
        let kind = match self {
            Self::Method => Kind::RequestError(StatusCode::METHOD_NOT_ALLOWED),
            Self::Target => Kind::RequestError(StatusCode::BAD_REQUEST),
            // RFC 9220 section 3, RFC 8441 section 4: an unknown `:protocol` is answered with 501.
            Self::Upgrade => Kind::RequestError(StatusCode::NOT_IMPLEMENTED),
            Self::Loop => Kind::LoopDetected,
            Self::AddressRequests | Self::AddressConnections => Kind::RequestError(StatusCode::TOO_MANY_REQUESTS),
        };
        Fault::new(Stage::Filter, Side::Client, kind)
    }
}

/// Refusals by reason, and what the address table could not hold.
#[derive(Clone, Debug)]
pub struct FilterMetrics {
    refused: [Counter; Reason::ALL.len()],
    untracked: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl FilterMetrics {
    /// Registers `trunkline_filter_refusals_total` and `trunkline_filter_untracked_total`.
    pub fn register(registry: &mut Registry) -> Self {
        let family = Family::<ReasonLabel, Counter>::default();
        registry.register("trunkline_filter_refusals", "Requests and connections refused early", family.clone());
        let untracked = Counter::default();
        let help = "Requests and connections let through because the address table was full";
        registry.register("trunkline_filter_untracked", help, untracked.clone());
        let refused = Reason::ALL.map(|reason| family.get_or_create_owned(&ReasonLabel { reason: reason.name() }));
        Self { refused, untracked }
    }

    fn refuse(&self, reason: Reason) -> Fault {
        let at = Reason::ALL.iter().position(|other| *other == reason);
        if let Some(counter) = at.and_then(|at| self.refused.get(at)) {
            counter.inc();
        }
        reason.fault()
    }
}

/// What the filter knows between requests; one per process.
pub struct FilterState {
    hops: Hops,
    addresses: Arc<Addresses>,
    metrics: FilterMetrics,
}

impl FilterState {
    /// The filter of the PoP `name`.
    pub fn new(name: &str, limits: &Limits, metrics: FilterMetrics) -> Self {
        let addresses = Addresses::new(
            limits.requests_per_address_max,
            limits.connections_per_address_rate,
            metrics.untracked.clone(),
        );
        Self { hops: Hops::new(name), addresses: Arc::new(addresses), metrics }
    }

    /// Whether a new connection from `address` is wanted; asked by listeners before any handshake work.
    pub fn connection(&self, address: IpAddr, now: Instant) -> Result<(), Fault> {
        self.addresses.connection(address, now).map_err(|reason| self.metrics.refuse(reason))
    }

    /// Whether addresses have a rate of connections at all.
    pub fn limits_connections(&self) -> bool {
        self.addresses.limits_connections()
    }

    /// Leaves this PoP's mark (`CDN-Loop`, RFC 8586) on a request that goes on.
    pub fn mark(&self, headers: &mut HeaderMap) {
        self.hops.mark(headers);
    }
}

/// Lets a request pass, or says why not. Hold the permit until the request has ended: it is the place that the request
/// takes among those of its address; none where addresses are not limited.
pub fn filter(request: &Request, state: &FilterState) -> Result<Option<Permit>, Fault> {
    let checked = target::check(&request.head)
        .and_then(|()| state.hops.check(&request.head.headers))
        .and_then(|()| state.addresses.request(request.client.address.ip(), request.started));
    checked.map_err(|reason| state.metrics.refuse(reason))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Method;
    use http::uri::{Authority, PathAndQuery};
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::clock;
    use crate::edge::listener::{Client, Protocol, RequestBody};
    use crate::tunnel::message::RequestHead;

    fn request(method: Method, path: &'static str, protocol: Option<&'static str>) -> Request {
        Request {
            head: RequestHead {
                method,
                authority: Authority::from_static("www.example.com"),
                path: PathAndQuery::from_static(path),
                protocol: protocol.map(|protocol| Bytes::from_static(protocol.as_bytes())),
                headers: HeaderMap::new(),
            },
            body: RequestBody::Empty,
            client: Arc::new(Client {
                address: "192.0.2.1:1".parse().unwrap(),
                local: "192.0.2.9:443".parse().unwrap(),
                protocol: Protocol::Http3,
                sni: None,
                credit: Arc::default(),
            }),
            started: clock::now(),
        }
    }

    fn state(limits: &Limits) -> (FilterState, Registry) {
        let mut registry = Registry::default();
        let metrics = FilterMetrics::register(&mut registry);
        (FilterState::new("pop-a", limits, metrics), registry)
    }

    fn status(request: &Request, state: &FilterState) -> u16 {
        filter(request, state).map_or_else(|fault| fault.status().as_u16(), |_| 200)
    }

    #[test]
    fn each_refusal_has_its_status() {
        let (state, _) = state(&Limits::default());
        let patch = Method::from_bytes(b"PROPFIND").unwrap();
        for (method, path, protocol, expected) in [
            (Method::GET, "/", None, 200),
            (patch, "/", None, 200),
            (Method::OPTIONS, "*", None, 200),
            (Method::OPTIONS, "/a", None, 200),
            (Method::CONNECT, "/chat", Some("websocket"), 200),
            (Method::CONNECT, "/", None, 405),
            (Method::TRACE, "/", None, 405),
            (Method::GET, "*", None, 400),
            (Method::CONNECT, "*", Some("websocket"), 400),
            (Method::CONNECT, "/", Some("connect-udp"), 501),
            (Method::GET, "/", Some("websocket"), 400),
        ] {
            let request = request(method, path, protocol);
            assert_eq!(status(&request, &state), expected, "{:?} {path} {protocol:?}", request.head.method);
        }
    }

    #[test]
    fn a_request_that_goes_round_is_cut() {
        let (state, registry) = state(&Limits::default());
        let mut request = request(Method::GET, "/", None);
        let mut passes = 0;
        while filter(&request, &state).is_ok() {
            state.mark(&mut request.head.headers);
            passes += 1;
            assert!(passes < 10, "the loop never ends");
        }
        assert_eq!(filter(&request, &state).err().unwrap().error_type(), "proxy_loop_detected");
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("trunkline_filter_refusals_total{reason=\"loop\"} 2\n"), "{text}");
    }

    #[test]
    fn an_address_gets_its_place_back_when_a_request_ends() {
        let limits = Limits { requests_per_address_max: Some(1), ..Limits::default() };
        let (state, _) = state(&limits);
        let request = request(Method::GET, "/", None);
        let permit = filter(&request, &state).unwrap();
        assert!(permit.is_some());
        assert_eq!(status(&request, &state), 429);
        drop(permit);
        assert_eq!(status(&request, &state), 200);
    }

    #[test]
    fn a_refused_request_takes_no_place() {
        let limits = Limits { requests_per_address_max: Some(1), ..Limits::default() };
        let (state, _) = state(&limits);
        assert_eq!(status(&request(Method::TRACE, "/", None), &state), 405);
        assert_eq!(status(&request(Method::GET, "/", None), &state), 200);
    }
}
