//! The network between the ends of a case: every pair of ends has a link of its own, with a lane and faults for each
//! direction; an end may sit behind a NAT, at the far end of its links, so that what is under way when it forgets already
//! comes from the new port (as in the simulator of quic-interop-runner).
//!
//! Called by the wire, which moves packets between TUN devices and this. Pure: `now` is passed in, seeds are injected.
//! Invariants: a packet arrives at most once, only at the end whose subnet it is for, in the order of arrival times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use super::faults::{Fate, Faults, Plan};
use super::nat::{Nat, Rebind};
use super::packet;
use super::shaping::{Lane, Shape};

/// Packets under way at once; more are dropped. A lane with a rate has its own, smaller bound.
const FLIGHTS_MAX: usize = 50_000;

/// An end of the network, counted from 0.
pub type End = usize;

/// The IPv4 address of an end.
pub fn ipv4(end: End) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, u8::try_from(end + 1).unwrap_or(u8::MAX), 2)
}

/// The IPv6 address of an end.
pub fn ipv6(end: End) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, u16::try_from(end + 1).unwrap_or(u16::MAX), 0, 0, 0, 2)
}

/// The end in whose subnet an address lies.
pub fn end_of(address: IpAddr) -> Option<End> {
    let number = match address {
        IpAddr::V4(address) => match address.octets() {
            [10, 77, number, _] => u16::from(number),
            _ => return None,
        },
        IpAddr::V6(address) => match address.segments() {
            [0xfd77, 0, 0, number, 0, 0, 0, _] => number,
            _ => return None,
        },
    };
    usize::from(number).checked_sub(1)
}

/// One direction of a link, as a case describes it.
#[derive(Clone, Debug, Default)]
pub struct Direction {
    /// Rate, delay, queue.
    pub shape: Shape,
    /// Loss, corruption.
    pub plan: Plan,
}

/// What has happened to packets so far, all links together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Arrived.
    pub passed: u64,
    /// Taken by faults or darkness.
    pub lost: u64,
    /// Sent on with a byte changed.
    pub corrupted: u64,
    /// Found a full queue.
    pub overflowed: u64,
}

struct Path {
    lane: Lane,
    faults: Faults,
}

/// A packet under way, ordered by arrival, then by departure.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    arrives: Instant,
    number: u64,
    from: End,
    to: End,
    packet: Vec<u8>,
}

/// The network.
pub struct Hub {
    /// By sender and receiver.
    paths: Vec<Vec<Path>>,
    nats: Vec<Option<Nat>>,
    flights: BinaryHeap<Reverse<Flight>>,
    sent: u64,
    counts: Counts,
}

impl Hub {
    /// A network of `ends`, whose directions are as `direction` says for each (from, to). Each direction gets a seed of
    /// its own from `seed`.
    pub fn new(ends: usize, seed: u64, direction: impl Fn(End, End) -> Direction) -> Self {
        let mut seeds = fastrand::Rng::with_seed(seed);
        let mut path = |from, to| {
            let Direction { shape, plan } = direction(from, to);
            Path { lane: Lane::new(shape), faults: Faults::new(plan, seeds.u64(..)) }
        };
        let paths = (0..ends).map(|from| (0..ends).map(|to| path(from, to)).collect()).collect();
        let nats = (0..ends).map(|_| None).collect();
        Self { paths, nats, flights: BinaryHeap::new(), sent: 0, counts: Counts::default() }
    }

    /// Puts a NAT before an end.
    pub fn translate(&mut self, end: End, seed: u64) {
        if let Some(nat) = self.nats.get_mut(end) {
            *nat = Some(Nat::new(seed));
        }
    }

    /// The NAT before an end forgets its bindings.
    pub fn rebind(&mut self, end: End, what: Rebind) {
        if let Some(Some(nat)) = self.nats.get_mut(end) {
            nat.rebind(what);
        }
    }

    /// Whether a packet that an end sent has not arrived yet.
    pub fn is_under_way(&self, from: End) -> bool {
        self.flights.iter().any(|Reverse(flight)| flight.from == from)
    }

    /// Both directions between two ends become dark or light.
    pub fn darken(&mut self, one: End, other: End, dark: bool) {
        self.darken_way(one, other, dark);
        self.darken_way(other, one, dark);
    }

    /// One direction becomes dark or light.
    pub fn darken_way(&mut self, from: End, to: End, dark: bool) {
        if let Some(path) = self.paths.get_mut(from).and_then(|paths| paths.get_mut(to)) {
            path.faults.darken(dark);
        }
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes a packet that an end sent.
    pub fn handle_packet(&mut self, now: Instant, from: End, mut packet: Vec<u8>) {
        // Multicast and what goes to nobody's subnet ends here, uncounted.
        let Some(to) = packet::target(&packet).and_then(end_of) else { return };
        let Some(path) = self.paths.get_mut(from).and_then(|paths| paths.get_mut(to)) else { return };
        let Some(arrives) = path.lane.admit(now, packet.len()).filter(|_| self.flights.len() < FLIGHTS_MAX) else {
            self.counts.overflowed += 1;
            return;
        };
        match path.faults.strike(&mut packet) {
            Fate::Lost => return self.counts.lost += 1,
            Fate::Corrupted => self.counts.corrupted += 1,
            Fate::Passed => {}
        }
        self.sent += 1;
        self.flights.push(Reverse(Flight { arrives, number: self.sent, from, to, packet }));
    }

    /// The next packet that has arrived by now.
    pub fn poll_arrival(&mut self, now: Instant) -> Option<(End, Vec<u8>)> {
        while self.poll_timeout().is_some_and(|arrives| arrives <= now) {
            let Reverse(mut flight) = self.flights.pop()?;
            if let Some(Some(nat)) = self.nats.get_mut(flight.from) {
                nat.leave(&mut flight.packet);
            }
            let enters =
                self.nats.get(flight.to).is_none_or(|nat| nat.as_ref().is_none_or(|nat| nat.enter(&mut flight.packet)));
            if enters {
                self.counts.passed += 1;
                return Some((flight.to, flight.packet));
            }
            self.counts.lost += 1;
        }
        None
    }

    /// When the next packet arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.flights.peek().map(|Reverse(flight)| flight.arrives)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::packet::{Flow, made};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn slow(from: End, to: End) -> Direction {
        let delay = if (from, to) == (0, 1) { 15 * MS } else { 5 * MS };
        Direction { shape: Shape { rate: None, delay, queue: 0 }, plan: Plan::default() }
    }

    fn packet(from: End, to: End) -> Vec<u8> {
        made::udp(&format!("{}:1000", ipv4(from)), &format!("{}:443", ipv4(to)), b"x")
    }

    #[test]
    fn addresses_and_ends_belong_together() {
        for end in 0..4 {
            assert_eq!(end_of(ipv4(end).into()), Some(end));
            assert_eq!(end_of(ipv6(end).into()), Some(end));
        }
        assert_eq!(end_of([192, 0, 2, 1].into()), None);
    }

    #[test]
    fn packets_arrive_by_their_links_delay() {
        let start = trunkline::clock::now();
        let mut hub = Hub::new(3, 1, slow);
        hub.handle_packet(start, 0, packet(0, 1));
        hub.handle_packet(start, 0, packet(0, 2));
        assert_eq!(hub.poll_arrival(start), None);
        assert_eq!(hub.poll_arrival(start + 15 * MS), Some((2, packet(0, 2))));
        assert_eq!(hub.poll_arrival(start + 15 * MS), Some((1, packet(0, 1))));
        assert_eq!(hub.poll_timeout(), None);
    }

    #[test]
    fn a_dark_link_takes_all_and_others_live_on() {
        let start = trunkline::clock::now();
        let mut hub = Hub::new(3, 1, slow);
        hub.darken(1, 0, true);
        hub.handle_packet(start, 0, packet(0, 1));
        hub.handle_packet(start, 0, packet(0, 2));
        assert_eq!(hub.poll_arrival(start + 100 * MS), Some((2, packet(0, 2))));
        assert_eq!((hub.poll_timeout(), hub.counts().lost), (None, 1));
    }

    #[test]
    fn an_answer_finds_its_way_back_through_the_nat() {
        let start = trunkline::clock::now();
        let mut hub = Hub::new(2, 1, slow);
        hub.translate(0, 9);
        hub.rebind(0, Rebind::Address);
        hub.handle_packet(start, 0, packet(0, 1));
        assert!(hub.is_under_way(0) && !hub.is_under_way(1));
        let (_, seen) = hub.poll_arrival(start + 15 * MS).unwrap();
        let outside = Flow::read(&seen).unwrap().source;
        assert_ne!(outside.ip(), IpAddr::from(ipv4(0)));
        hub.handle_packet(start, 1, made::udp(&format!("{}:443", ipv4(1)), &outside.to_string(), b"y"));
        let answer = made::udp(&format!("{}:443", ipv4(1)), &format!("{}:1000", ipv4(0)), b"y");
        assert_eq!(hub.poll_arrival(start + 15 * MS), Some((0, answer)));
    }
}
