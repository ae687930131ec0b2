//! Stage 1, how many connections and handshakes there may be. Shared by the TCP and QUIC accept loops of all workers.
//!
//! Owns the counters only; a permit gives its place back when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::Limits;

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
}

/// The limits of the process; hands each worker its view.
#[derive(Clone, Debug)]
pub struct Admission {
    connections: Arc<Places>,
    handshakes: Arc<Places>,
    retry_threshold: usize,
}

impl Admission {
    /// The limits of a process and of its first worker.
    pub fn new(limits: &Limits) -> Self {
        Self {
            connections: Places::new(limits.connections_max),
            handshakes: Places::new(limits.handshakes_max),
            retry_threshold: limits.retry_threshold,
        }
    }

    /// The view of another worker: connections are counted together, handshakes apart.
    pub fn for_worker(&self) -> Self {
        Self { handshakes: Places::new(self.handshakes.max), ..self.clone() }
    }

    /// Whether so many handshakes are under way that clients must prove their address first (RFC 9000 section 8.1.2).
    pub fn wants_retry(&self) -> bool {
        self.handshakes.taken.load(Ordering::Relaxed) >= self.retry_threshold
    }

    /// Lets one connection in: a permit for its life and one for its handshake.
    ///
    /// # Errors
    /// Which limit was met; nothing is taken then.
    pub fn admit(&self) -> Result<(Permit, Permit), Refusal> {
        let handshake = self.handshakes.take().ok_or(Refusal::Handshakes)?;
        let connection = self.connections.take().ok_or(Refusal::Connections)?;
        Ok((connection, handshake))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections_max: usize, handshakes_max: usize, retry_threshold: usize) -> Limits {
        Limits { connections_max, handshakes_max, retry_threshold, ..Limits::default() }
    }

    #[test]
    fn connections_are_counted_over_all_workers_and_handshakes_per_worker() {
        let first = Admission::new(&limits(3, 2, 9));
        let second = first.for_worker();
        let a = first.admit().unwrap();
        let _b = first.admit().unwrap();
        assert_eq!(first.admit().unwrap_err(), Refusal::Handshakes);
        let _c = second.admit().unwrap();
        assert_eq!(second.admit().unwrap_err(), Refusal::Connections);
        drop(a);
        assert!(second.admit().is_ok());
    }

    #[test]
    fn a_refusal_takes_no_place() {
        let admission = Admission::new(&limits(0, 1, 9));
        for _ in 0..3 {
            assert_eq!(admission.admit().unwrap_err(), Refusal::Connections);
        }
    }

    #[test]
    fn retry_is_wanted_from_the_threshold_on_and_no_longer_below() {
        let admission = Admission::new(&limits(9, 9, 1));
        assert!(!admission.wants_retry());
        let (_connection, handshake) = admission.admit().unwrap();
        assert!(admission.wants_retry());
        drop(handshake);
        assert!(!admission.wants_retry());
        assert!(Admission::new(&limits(9, 9, 0)).wants_retry(), "zero: always");
    }
}
