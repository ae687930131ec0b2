//! What one client address may use: requests at once, and new connections per second. Off unless configured; then one
//! short lock per request or connection. `now` is passed in.
//!
//! An address is an IPv4 address or an IPv6 /64, which is what one customer has. The table is bounded: with more
//! addresses than it holds, newcomers pass untracked and are counted, because refusing them would turn the limit into
//! the outage it is meant to prevent.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use super::Reason;
use crate::clock;

/// Addresses known at once: some 4 MiB.
const ADDRESSES_MAX: usize = 1 << 16;

/// Connections may come as a burst of what this time allows.
const BURST: Duration = Duration::from_secs(1);

/// Between two searches of a full table for addresses that need no place any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The limits and who uses what of them.
pub struct Addresses {
    requests_max: Option<u32>,
    /// Time that one connection uses up.
    connection_interval: Option<Duration>,
    max: usize,
    table: Mutex<Table>,
    untracked: Counter,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Key, Entry>,
    swept: Option<Instant>,
}

/// The network part of an address; IPv4 in its mapped form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key(u128);

struct Entry {
    requests: u32,
    /// Until when connections have used up the time there is (the generic cell rate algorithm).
    busy_until: Instant,
}

impl Entry {
    fn is_idle(&self, now: Instant) -> bool {
        self.requests == 0 && self.busy_until <= now
    }
}

impl Key {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().to_bits()),
            IpAddr::V6(address) => Self(address.to_bits() >> 64 << 64),
        }
    }
}

/// The place of one request; given back when dropped.
pub struct Permit {
    addresses: Arc<Addresses>,
    key: Key,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.addresses.release(self.key, clock::now());
    }
}

impl Addresses {
    /// No limit where none is given; `connections_rate` is per second. Zero means one.
    pub fn new(requests_max: Option<u32>, connections_rate: Option<u32>, untracked: Counter) -> Self {
        let connection_interval = connections_rate.map(|rate| BURST / rate.max(1));
        Self { requests_max, connection_interval, max: ADDRESSES_MAX, table: Mutex::default(), untracked }
    }

    /// Takes a place for a request.
    pub fn request(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<Option<Permit>, Reason> {
        let Some(max) = self.requests_max else { return Ok(None) };
        let key = Key::of(address);
        let mut table = self.table.lock();
        let Some(entry) = table.entry(key, now, self.max) else {
            self.untracked.inc();
            return Ok(None);
        };
        if entry.requests >= max.max(1) {
            return Err(Reason::AddressRequests);
        }
        entry.requests += 1;
        Ok(Some(Permit { addresses: self.clone(), key }))
    }

    /// Whether there is a limit on new connections.
    pub fn limits_connections(&self) -> bool {
        self.connection_interval.is_some()
    }

    /// Counts a new connection.
    pub fn connection(&self, address: IpAddr, now: Instant) -> Result<(), Reason> {
        let Some(interval) = self.connection_interval else { return Ok(()) };
        let mut table = self.table.lock();
        let Some(entry) = table.entry(Key::of(address), now, self.max) else {
            self.untracked.inc();
            return Ok(());
        };
        let busy_until = entry.busy_until.max(now) + interval;
        if busy_until.saturating_duration_since(now) > BURST {
            return Err(Reason::AddressConnections);
        }
        entry.busy_until = busy_until;
        Ok(())
    }

    fn release(&self, key: Key, now: Instant) {
        let mut table = self.table.lock();
        let Some(entry) = table.entries.get_mut(&key) else { return };
        entry.requests = entry.requests.saturating_sub(1);
        if entry.is_idle(now) {
            table.entries.remove(&key);
        }
    }
}

impl Table {
    /// The address's entry, made if there is room; none if there is not.
    fn entry(&mut self, key: Key, now: Instant, max: usize) -> Option<&mut Entry> {
        if self.entries.len() >= max && !self.entries.contains_key(&key) {
            self.sweep(now);
            if self.entries.len() >= max {
                return None;
            }
        }
        Some(self.entries.entry(key).or_insert(Entry { requests: 0, busy_until: now }))
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_INTERVAL) {
            self.swept = Some(now);
            self.entries.retain(|_, entry| !entry.is_idle(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn addresses(requests: Option<u32>, rate: Option<u32>, max: usize) -> Arc<Addresses> {
        Arc::new(Addresses { max, ..Addresses::new(requests, rate, Counter::default()) })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn without_limits_nothing_is_kept() {
        let addresses = addresses(None, None, 10);
        assert!(addresses.request(ip("192.0.2.1"), clock::now()).unwrap().is_none());
        assert_eq!(addresses.connection(ip("192.0.2.1"), clock::now()), Ok(()));
        assert!(addresses.table.lock().entries.is_empty());
    }

    #[test]
    fn one_address_is_limited_and_its_neighbour_is_not() {
        let addresses = addresses(Some(2), None, 10);
        let now = clock::now();
        let held: Vec<_> = (0..2).map(|_| addresses.request(ip("192.0.2.1"), now).unwrap()).collect();
        assert_eq!(addresses.request(ip("192.0.2.1"), now).err(), Some(Reason::AddressRequests));
        assert_eq!(addresses.request(ip("::ffff:192.0.2.1"), now).err(), Some(Reason::AddressRequests));
        assert!(addresses.request(ip("192.0.2.2"), now).is_ok());
        drop(held);
        assert!(addresses.request(ip("192.0.2.1"), now).is_ok());
        assert!(addresses.table.lock().entries.is_empty(), "idle addresses are forgotten");
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let addresses = addresses(Some(1), None, 10);
        let now = clock::now();
        let _held = addresses.request(ip("2001:db8:0:1::1"), now).unwrap();
        assert!(addresses.request(ip("2001:db8:0:1:ffff::2"), now).is_err());
        assert!(addresses.request(ip("2001:db8:0:2::1"), now).is_ok());
    }

    #[test]
    fn connections_come_in_a_burst_and_then_at_the_rate() {
        let addresses = addresses(None, Some(4), 10);
        let start = clock::now();
        let admitted = |at: Duration| addresses.connection(ip("192.0.2.1"), start + at).is_ok();
        assert_eq!([(); 5].map(|()| admitted(Duration::ZERO)), [true, true, true, true, false]);
        assert!(!admitted(SECOND / 8));
        assert!(admitted(SECOND / 4));
        assert!(!admitted(SECOND / 4));
        assert_eq!([(); 5].map(|()| admitted(SECOND * 10)), [true, true, true, true, false]);
    }

    #[test]
    fn a_refused_connection_uses_nothing_up() {
        let addresses = addresses(None, Some(1), 10);
        let start = clock::now();
        assert!(addresses.connection(ip("192.0.2.1"), start).is_ok());
        for _ in 0..1000 {
            assert!(addresses.connection(ip("192.0.2.1"), start + SECOND / 2).is_err());
        }
        assert!(addresses.connection(ip("192.0.2.1"), start + SECOND).is_ok());
    }

    #[test]
    fn a_full_table_lets_newcomers_pass_and_makes_room_when_it_may() {
        let addresses = addresses(Some(1), Some(1), 2);
        let start = clock::now();
        let _held = addresses.request(ip("192.0.2.1"), start).unwrap();
        addresses.connection(ip("192.0.2.2"), start).unwrap();
        assert!(addresses.request(ip("192.0.2.3"), start).unwrap().is_none());
        assert_eq!(addresses.untracked.get(), 1);
        let later = start + SECOND * 2;
        assert!(addresses.request(ip("192.0.2.3"), later).unwrap().is_some(), "the idle address made room");
        assert!(addresses.request(ip("192.0.2.1"), later).is_err(), "the busy one is still known");
    }
}
