//! A preferred address (RFC 9000 section 9.6): clients reach an edge at an address that many PoPs share, and go on at one that
//! this PoP has alone, so that a change of routes no longer takes their connections elsewhere.
//!
//! Made by the edge for listeners on all addresses of the machine. quinn announces the address but keeps sending from the one
//! at which the connection began, which a client that moved does not know any more. So the socket sends to each peer from the
//! address at which that peer was last heard. Knows nothing of connections.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ServerConfig, UdpPoller};

use super::datagrams::Datagrams;

/// Peers in one of the two generations of the table: more than clients of one process by default, 48 bytes each.
const GENERATION: usize = 32 << 10;

/// Addresses that clients are asked to go on at; the port is the listener's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preferred {
    /// For clients on IPv4.
    pub v4: Option<Ipv4Addr>,
    /// For clients on IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Preferred {
    /// What of it a listener on `address` is reached at: only one on all addresses of its family is.
    pub fn at(self, address: SocketAddr) -> Self {
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Self { v6: None, ..self },
            // Takes IPv4 too.
            IpAddr::V6(ip) if ip.is_unspecified() => self,
            _ => Self::default(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn has(self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4 == Some(address),
            IpAddr::V6(address) => self.v6 == Some(address),
        }
    }

    /// Announces it with `port`.
    pub(super) fn announce(self, server: &mut ServerConfig, port: u16) {
        server.preferred_address_v4(self.v4.map(|address| SocketAddrV4::new(address, port)));
        server.preferred_address_v6(self.v6.map(|address| SocketAddrV6::new(address, port, 0, 0)));
    }
}

/// A socket that answers from where it was asked.
pub(super) struct Answering {
    inner: Arc<Datagrams>,
    preferred: Preferred,
    moved: Mutex<Moved>,
}

impl Answering {
    /// # Errors
    /// When the socket cannot be registered with the current runtime.
    pub(super) fn new(socket: UdpSocket, preferred: Preferred) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { inner: Datagrams::new(socket, None)?, preferred, moved: Mutex::default() }))
    }
}

/// Peers last heard at a preferred address, and at which. Two generations bound it: when the younger is full, the older is
/// forgotten. A peer that was forgotten is remembered at its next packet.
#[derive(Default)]
struct Moved {
    young: HashMap<SocketAddr, IpAddr>,
    old: HashMap<SocketAddr, IpAddr>,
}

impl Moved {
    fn handle_packet(&mut self, peer: SocketAddr, at: IpAddr, preferred: Preferred) {
        if preferred.has(at) {
            self.young.insert(peer, at);
            if self.young.len() >= GENERATION {
                self.old = std::mem::take(&mut self.young);
            }
        } else if !self.young.is_empty() || !self.old.is_empty() {
            self.young.remove(&peer);
            self.old.remove(&peer);
        }
    }

    fn address_for(&self, peer: &SocketAddr) -> Option<IpAddr> {
        self.young.get(peer).or_else(|| self.old.get(peer)).copied()
    }
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl AsyncUdpSocket for Answering {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let from = self.moved.lock().address_for(&transmit.destination);
        let Transmit { destination, ecn, contents, segment_size, src_ip } = *transmit;
        self.inner.try_send(&Transmit { destination, ecn, contents, segment_size, src_ip: from.or(src_ip) })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.inner.poll_recv(cx, bufs, metas))?;
        let mut moved = self.moved.lock();
        for meta in metas.iter().take(count) {
            if let Some(at) = meta.dst_ip {
                moved.handle_packet(meta.addr, at, self.preferred);
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFERRED: Preferred = Preferred { v4: Some(Ipv4Addr::new(192, 0, 2, 7)), v6: Some(Ipv6Addr::LOCALHOST) };

    fn peer(number: usize) -> SocketAddr {
        let [_, a, b, c] = u32::try_from(number).unwrap().to_be_bytes();
        SocketAddr::from(([10, a, b, c], 1))
    }

    #[test]
    fn a_peer_is_answered_from_the_preferred_address_only_while_it_is_heard_there() {
        let mut moved = Moved::default();
        let (preferred, other) = ("192.0.2.7".parse().unwrap(), "198.51.100.1".parse().unwrap());
        moved.handle_packet(peer(1), other, PREFERRED);
        assert_eq!(moved.address_for(&peer(1)), None);
        moved.handle_packet(peer(1), preferred, PREFERRED);
        assert_eq!(moved.address_for(&peer(1)), Some(preferred));
        assert_eq!(moved.address_for(&peer(2)), None);
        moved.handle_packet(peer(1), other, PREFERRED);
        assert_eq!(moved.address_for(&peer(1)), None);
        // A socket of both families has IPv4 addresses in this form and wants them back so.
        let mapped = "::ffff:192.0.2.7".parse().unwrap();
        moved.handle_packet(peer(1), mapped, PREFERRED);
        assert_eq!(moved.address_for(&peer(1)), Some(mapped));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_those_that_were_heard_last() {
        let mut moved = Moved::default();
        let preferred = "192.0.2.7".parse().unwrap();
        for number in 0..GENERATION * 3 + GENERATION / 2 {
            moved.handle_packet(peer(number), preferred, PREFERRED);
            moved.handle_packet(peer(0), preferred, PREFERRED);
            assert!(moved.young.len() + moved.old.len() <= 2 * GENERATION);
        }
        assert_eq!(moved.address_for(&peer(0)), Some(preferred));
        assert_eq!(moved.address_for(&peer(GENERATION * 3)), Some(preferred));
        assert_eq!(moved.address_for(&peer(1)), None);
    }

    #[test]
    fn only_a_listener_on_all_addresses_has_a_preferred_one() {
        let at = |address: &str| PREFERRED.at(address.parse().unwrap());
        assert_eq!(at("[::]:443"), PREFERRED);
        assert_eq!(at("0.0.0.0:443"), Preferred { v6: None, ..PREFERRED });
        assert!(at("192.0.2.1:443").is_empty() && at("[::1]:443").is_empty());
    }
}
