//! Stage 1, how many connections and handshakes there may be. Shared by the TCP and QUIC accept loops of all workers.
//!
//! Owns the counters only; a permit gives its place back when it is dropped. What one address may open is the filter's.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::clock;
use crate::config::Limits;
use crate::edge::filter::FilterState;

/// A number of places and how many are taken.
#[derive(Debug)]
struct Places {
    taken: AtomicUsize,
    max: usize,
}

impl Places {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), max })
    }

    fn take(self: &Arc<Self>) -> Option<Permit> {
        let free = |taken: usize| (taken < self.max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        Some(Permit { places: self.clone() })
    }
}

/// One taken place; free again when dropped.
#[derive(Debug)]
pub struct Permit {
    places: Arc<Places>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `connections_max` of the process.
    Connections,
    /// `handshakes_max` of the worker.
    Handshakes,
    /// `connections_per_address_rate`.
    Address,
}

/// The limits of the process; hands each worker its view.
#[derive(Clone)]
pub struct Admission {
    connections: Arc<Places>,
    handshakes: Arc<Places>,
    retry_threshold: usize,
    filter: Arc<FilterState>,
}

impl Admission {
    /// The limits of a process and of its first worker.
    pub fn new(limits: &Limits, filter: Arc<FilterState>) -> Self {
        Self {
            connections: Places::new(limits.connections_max),
            handshakes: Places::new(limits.handshakes_max),
            retry_threshold: limits.retry_threshold,
            filter,
        }
    }

    /// The view of another worker: connections are counted together, handshakes apart.
    pub fn for_worker(&self) -> Self {
        Self { handshakes: Places::new(self.handshakes.max), ..self.clone() }
    }

    /// Connections of the process now.
    pub fn connections(&self) -> usize {
        self.connections.taken.load(Ordering::Relaxed)
    }

    /// Whether clients must prove their address first (RFC 9000 section 8.1.2): when many handshakes are under way, and
    /// always where addresses have a rate, which a forged address would use up for its owner.
    pub fn wants_retry(&self) -> bool {
        self.filter.limits_connections() || self.handshakes.taken.load(Ordering::Relaxed) >= self.retry_threshold
    }

    /// Lets one connection from `address` in: a permit for its life and one for its handshake.
    ///
    /// # Errors
    /// Which limit was met; nothing is taken then.
    pub fn admit(&self, address: IpAddr) -> Result<(Permit, Permit), Refusal> {
        let handshake = self.handshakes.take().ok_or(Refusal::Handshakes)?;
        let connection = self.connections.take().ok_or(Refusal::Connections)?;
        self.filter.connection(address, clock::now()).map_err(|_| Refusal::Address)?;
        Ok((connection, handshake))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::edge::filter::FilterMetrics;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn limits(connections_max: usize, handshakes_max: usize, retry_threshold: usize) -> Limits {
        Limits { connections_max, handshakes_max, retry_threshold, ..Limits::default() }
    }

    /// With a filter of its own.
    pub(in crate::edge::listener) fn admission(limits: &Limits) -> Admission {
        let metrics = FilterMetrics::register(&mut Registry::default());
        Admission::new(limits, Arc::new(FilterState::new("pop-a", limits, metrics)))
    }

    /// With so many connections.
    pub(in crate::edge::listener) fn crowded(connections: usize) -> (Admission, Vec<Permit>) {
        let admission = admission(&limits(connections, connections, 0));
        let permits = (0..connections).map(|_| admission.admit(CLIENT).unwrap().0).collect();
        (admission, permits)
    }

    #[test]
    fn connections_are_counted_over_all_workers_and_handshakes_per_worker() {
        let first = admission(&limits(3, 2, 9));
        let second = first.for_worker();
        let a = first.admit(CLIENT).unwrap();
        let _b = first.admit(CLIENT).unwrap();
        assert_eq!(first.admit(CLIENT).unwrap_err(), Refusal::Handshakes);
        let _c = second.admit(CLIENT).unwrap();
        assert_eq!(second.admit(CLIENT).unwrap_err(), Refusal::Connections);
        drop(a);
        assert!(second.admit(CLIENT).is_ok());
    }

    #[test]
    fn a_refusal_takes_no_place() {
        let admission = admission(&limits(0, 1, 9));
        for _ in 0..3 {
            assert_eq!(admission.admit(CLIENT).unwrap_err(), Refusal::Connections);
        }
    }

    #[test]
    fn retry_is_wanted_from_the_threshold_on_and_no_longer_below() {
        let few = admission(&limits(9, 9, 1));
        assert!(!few.wants_retry());
        let (_connection, handshake) = few.admit(CLIENT).unwrap();
        assert!(few.wants_retry());
        drop(handshake);
        assert!(!few.wants_retry());
        assert!(admission(&limits(9, 9, 0)).wants_retry(), "zero: always");
    }

    #[test]
    fn an_address_that_opens_too_many_connections_is_refused_alone_and_must_be_proven() {
        let limits = Limits { connections_per_address_rate: Some(2), ..Limits::default() };
        let first = admission(&limits);
        assert!(first.wants_retry());
        assert!(first.admit(CLIENT).is_ok() && first.for_worker().admit(CLIENT).is_ok());
        assert_eq!(first.admit(CLIENT).unwrap_err(), Refusal::Address);
        assert!(first.admit("192.0.2.7".parse().unwrap()).is_ok());
    }
}
