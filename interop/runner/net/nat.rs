//! A network address translator on a link: what the inside sends gets an address and port of the outside, and a rebind
//! forgets them, as a router does that was restarted or ran out of memory.
//!
//! Called by the hub. Pure state: the seed is injected, no clock. Until the first rebind it changes nothing, so that the
//! first path is the one that the programs know. What comes to a forgotten port is dropped.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::packet::{Flow, Side};

/// What a rebind changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebind {
    /// The port.
    Port,
    /// Address and port.
    Address,
}

/// The translator of one end's packets.
#[derive(Debug)]
pub struct Nat {
    random: fastrand::Rng,
    /// Last byte of the outside address; nothing while it is the inside one.
    host: Option<u8>,
    rebound: bool,
    outward: HashMap<(u8, SocketAddr), SocketAddr>,
    inward: HashMap<(u8, SocketAddr), SocketAddr>,
}

impl Nat {
    /// A translator whose choices follow from `seed`.
    pub fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { random, host: None, rebound: false, outward: HashMap::new(), inward: HashMap::new() }
    }

    /// Forgets every binding: what the inside sends next comes from elsewhere.
    pub fn rebind(&mut self, what: Rebind) {
        self.rebound = true;
        self.outward.clear();
        self.inward.clear();
        if what == Rebind::Address {
            let old = self.host;
            while self.host == old {
                // 1 and 2 are the router's and the end's own.
                self.host = Some(self.random.u8(3..255));
            }
        }
    }

    /// Translates a packet of the inside.
    pub fn leave(&mut self, packet: &mut [u8]) {
        let Some(flow) = Flow::read(packet) else { return };
        let outside = self.outside(flow);
        if outside != flow.source {
            flow.rewrite(packet, Side::Source, outside);
        }
    }

    fn outside(&mut self, flow: Flow) -> SocketAddr {
        let key = (flow.protocol, flow.source);
        if let Some(outside) = self.outward.get(&key) {
            return *outside;
        }
        let mut outside = SocketAddr::new(self.address(flow.source.ip()), flow.source.port());
        while self.rebound
            && (outside.port() == flow.source.port() || self.inward.contains_key(&(flow.protocol, outside)))
        {
            outside.set_port(self.random.u16(1_024..));
        }
        self.outward.insert(key, outside);
        self.inward.insert((flow.protocol, outside), flow.source);
        outside
    }

    fn address(&self, inside: IpAddr) -> IpAddr {
        match (inside, self.host) {
            (inside, None) => inside,
            (IpAddr::V4(address), Some(host)) => {
                let [a, b, c, _] = address.octets();
                IpAddr::from([a, b, c, host])
            }
            (IpAddr::V6(address), Some(host)) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !0xff | u128::from(host)))
            }
        }
    }

    /// Translates a packet to the inside; false: nobody there asked for it, or the binding is gone.
    pub fn enter(&self, packet: &mut [u8]) -> bool {
        let Some(flow) = Flow::read(packet) else { return true };
        match self.inward.get(&(flow.protocol, flow.target)) {
            Some(inside) if *inside == flow.target => true,
            Some(inside) => {
                flow.rewrite(packet, Side::Target, *inside);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::made;
    use super::*;

    const INSIDE: &str = "10.0.1.2:4433";
    const SERVER: &str = "10.0.2.2:443";

    fn sent(nat: &mut Nat, from: &str) -> SocketAddr {
        let mut packet = made::udp(from, SERVER, b"x");
        nat.leave(&mut packet);
        Flow::read(&packet).unwrap().source
    }

    fn answered(nat: &Nat, to: SocketAddr) -> Option<SocketAddr> {
        let mut packet = made::udp(SERVER, &to.to_string(), b"x");
        nat.enter(&mut packet).then(|| Flow::read(&packet).unwrap().target)
    }

    #[test]
    fn nothing_changes_before_the_first_rebind() {
        let mut nat = Nat::new(1);
        let outside = sent(&mut nat, INSIDE);
        assert_eq!(outside, INSIDE.parse().unwrap());
        assert_eq!(answered(&nat, outside), Some(outside));
    }

    #[test]
    fn a_rebound_port_is_another_one_and_the_old_one_is_dead() {
        let mut nat = Nat::new(1);
        let first = sent(&mut nat, INSIDE);
        nat.rebind(Rebind::Port);
        assert_eq!(answered(&nat, first), None, "the binding is forgotten");
        let second = sent(&mut nat, INSIDE);
        assert_eq!((first.ip(), first.port() == second.port()), (second.ip(), false));
        assert_eq!(answered(&nat, second), Some(first));
        assert_eq!(answered(&nat, first), None);
        assert_eq!(sent(&mut nat, INSIDE), second, "a binding holds until the next rebind");
    }

    #[test]
    fn a_rebound_address_differs_in_both_families() {
        for inside in [INSIDE, "[fd77:1::2]:4433"] {
            let mut nat = Nat::new(7);
            let inside: SocketAddr = inside.parse().unwrap();
            nat.rebind(Rebind::Address);
            let first = nat.address(inside.ip());
            nat.rebind(Rebind::Address);
            assert_ne!(first, inside.ip());
            assert_ne!(first, nat.address(inside.ip()));
        }
    }

    #[test]
    fn two_inside_ports_never_share_an_outside_one() {
        let mut nat = Nat::new(3);
        nat.rebind(Rebind::Port);
        let ports: std::collections::HashSet<_> =
            (1..2_000).map(|port| sent(&mut nat, &format!("10.0.1.2:{port}"))).collect();
        assert_eq!(ports.len(), 1_999);
    }
}
