//! Views of IP packets: where they go, what they carry, and how they are changed with their checksums kept right.
//!
//! Called by the hub of links and by the judge. Pure functions on bytes: no sockets, no clock. What is no IPv4 or IPv6
//! packet with a UDP or TCP header is left alone: extension headers and fragments are never sent by the programs under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// What the header of a UDP or TCP packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// [`UDP`] or [`TCP`].
    pub protocol: u8,
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub target: SocketAddr,
    /// RFC 3168 section 5: 0 none, 1 ECT(1), 2 ECT(0), 3 CE.
    pub ecn: u8,
    /// Offset of the UDP or TCP header in the packet.
    transport: usize,
}

/// Which end of a packet is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Its sender.
    Source,
    /// Its receiver.
    Target,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The address a packet goes to.
pub fn target(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?)),
        6 => Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?)),
        _ => None,
    }
}

impl Flow {
    /// Reads the headers; nothing if it is not a whole UDP or TCP header behind an IP header.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        let (protocol, source, target, ecn, transport) = match first >> 4 {
            4 => {
                let address =
                    |at: usize| Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?)));
                (*packet.get(9)?, address(12)?, address(16)?, packet.get(1)? & 3, usize::from(first & 15) * 4)
            }
            6 => {
                let address =
                    |at: usize| Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?)));
                (*packet.get(6)?, address(8)?, address(24)?, packet.get(1)? >> 4 & 3, 40)
            }
            _ => return None,
        };
        if protocol != UDP && protocol != TCP {
            return None;
        }
        let source = SocketAddr::new(source, u16_at(packet, transport)?);
        let target = SocketAddr::new(target, u16_at(packet, transport + 2)?);
        let flow = Self { protocol, source, target, ecn, transport };
        (packet.len() >= flow.payload().start).then_some(flow)
    }

    /// Where the UDP payload lies; for TCP everything behind the fixed header.
    pub fn payload(&self) -> Range<usize> {
        self.transport + if self.protocol == UDP { 8 } else { 20 }..usize::MAX
    }

    /// The UDP payload in `packet`, by the length in its header.
    pub fn udp_payload<'a>(&self, packet: &'a [u8]) -> Option<&'a [u8]> {
        let length = usize::from(u16_at(packet, self.transport + 4)?);
        (self.protocol == UDP).then(|| packet.get(self.transport + 8..self.transport + length)).flatten()
    }

    fn checksum_at(&self) -> usize {
        self.transport + if self.protocol == UDP { 6 } else { 16 }
    }

    /// Writes another address and port on one side; both checksums stay right (RFC 1624).
    pub fn rewrite(&self, packet: &mut [u8], side: Side, to: SocketAddr) {
        let checksum = self.checksum_at();
        let port_at = self.transport + if side == Side::Source { 0 } else { 2 };
        match to.ip() {
            IpAddr::V4(address) => {
                let at = if side == Side::Source { 12 } else { 16 };
                replace(packet, at, &address.octets(), &[10, checksum]);
            }
            IpAddr::V6(address) => {
                let at = if side == Side::Source { 8 } else { 24 };
                replace(packet, at, &address.octets(), &[checksum]);
            }
        }
        replace(packet, port_at, &to.port().to_be_bytes(), &[checksum]);
        self.no_zero_checksum(packet);
    }

    /// Overwrites one byte of the payload with another value, so that nobody but the transport's own protection can
    /// tell: the checksum is made right. `at` counts from the payload's first byte.
    pub fn corrupt(&self, packet: &mut [u8], at: usize, with: u8) {
        let index = self.payload().start + at;
        // The checksum covers pairs of bytes that start where the transport header does, an even offset.
        let pair = index & !1;
        let Some(old) = packet.get(pair..packet.len().min(pair + 2)).map(<[u8]>::to_vec) else { return };
        let mut new = old.clone();
        if let Some(byte) = new.get_mut(index - pair) {
            *byte = with;
        }
        replace(packet, pair, &new, &[self.checksum_at()]);
        self.no_zero_checksum(packet);
    }

    /// RFC 768: a sum of zero is sent as all ones; zero means that there is none.
    fn no_zero_checksum(&self, packet: &mut [u8]) {
        let at = self.checksum_at();
        if self.protocol == UDP && u16_at(packet, at) == Some(0) {
            write(packet, at, &[0xff, 0xff]);
        }
    }
}

fn write(packet: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = packet.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Writes `bytes` at the even offset `at` and mends each checksum for the difference (RFC 1624, equation 3).
fn replace(packet: &mut [u8], at: usize, bytes: &[u8], checksums: &[usize]) {
    for (index, new) in bytes.chunks(2).enumerate() {
        let place = at + 2 * index;
        let Some(old) = packet.get(place..place + new.len()).map(word) else { return };
        for checksum in checksums {
            if let Some(sum) = u16_at(packet, *checksum) {
                let mended = fold(u32::from(!sum) + u32::from(!old) + u32::from(word(new)));
                write(packet, *checksum, &(!mended).to_be_bytes());
            }
        }
        write(packet, place, new);
    }
}

/// Two bytes, or the last one alone, padded with zero.
fn word(bytes: &[u8]) -> u16 {
    let byte = |index| bytes.get(index).copied().unwrap_or(0);
    u16::from_be_bytes([byte(0), byte(1)])
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    u16::try_from((once & 0xffff) + (once >> 16)).unwrap_or(u16::MAX)
}

/// Packets for tests, with right checksums.
#[cfg(test)]
pub mod made {
    use super::*;

    /// RFC 1071 over `bytes`.
    fn sum(bytes: &[u8], start: u32) -> u16 {
        !fold(bytes.chunks(2).fold(start, |sum, pair| sum + u32::from(word(pair))))
    }

    /// A UDP packet.
    pub fn udp(source: &str, target: &str, payload: &[u8]) -> Vec<u8> {
        let (source, target): (SocketAddr, SocketAddr) = (source.parse().unwrap(), target.parse().unwrap());
        let length = u16::try_from(8 + payload.len()).unwrap();
        let mut udp = [source.port().to_be_bytes(), target.port().to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
        udp.extend_from_slice(payload);
        let (mut header, addresses) = match (source.ip(), target.ip()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let addresses = [source.octets(), target.octets()].concat();
                let total = (20 + length).to_be_bytes();
                let mut header = vec![0x45, 2, total[0], total[1], 0, 0, 0x40, 0, 64, UDP, 0, 0];
                header.extend_from_slice(&addresses);
                let checksum = sum(&header, 0);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                (header, addresses)
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let addresses = [source.octets(), target.octets()].concat();
                let length = length.to_be_bytes();
                let mut header = vec![0x60, 0x20, 0, 0, length[0], length[1], UDP, 64];
                header.extend_from_slice(&addresses);
                (header, addresses)
            }
            _ => panic!("two families"),
        };
        let pseudo =
            addresses.chunks(2).fold(u32::from(UDP) + u32::from(length), |sum, pair| sum + u32::from(word(pair)));
        let checksum = match sum(&udp, pseudo) {
            0 => 0xffff,
            sum => sum,
        };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        header.extend_from_slice(&udp);
        header
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAMILIES: [[&str; 3]; 2] = [
        ["10.0.1.2:4433", "10.0.2.2:443", "10.0.1.77:60001"],
        ["[fd77:1::2]:4433", "[fd77:2::2]:443", "[fd77:1::4d]:60001"],
    ];

    #[test]
    fn headers_are_read_in_both_families() {
        for [source, target, _] in FAMILIES {
            let packet = made::udp(source, target, b"payload");
            let flow = Flow::read(&packet).unwrap();
            assert_eq!((flow.source, flow.target), (source.parse().unwrap(), target.parse().unwrap()));
            assert_eq!((flow.ecn, flow.protocol), (2, UDP));
            assert_eq!(flow.udp_payload(&packet), Some(&b"payload"[..]));
            assert_eq!(super::target(&packet), Some(flow.target.ip()));
        }
    }

    proptest! {
        #[test]
        fn a_rewritten_packet_equals_one_that_was_sent_from_there(payload in prop::collection::vec(any::<u8>(), 0..64)) {
            for [source, target, other] in FAMILIES {
                let mut packet = made::udp(source, target, &payload);
                Flow::read(&packet).unwrap().rewrite(&mut packet, Side::Source, other.parse().unwrap());
                prop_assert_eq!(&packet, &made::udp(other, target, &payload));
                Flow::read(&packet).unwrap().rewrite(&mut packet, Side::Target, source.parse().unwrap());
                prop_assert_eq!(&packet, &made::udp(other, source, &payload));
            }
        }

        #[test]
        fn a_corrupted_packet_has_a_right_checksum(payload in prop::collection::vec(any::<u8>(), 1..64), at in 0usize..64, with: u8) {
            for [source, target, _] in FAMILIES {
                let mut packet = made::udp(source, target, &payload);
                let mut changed = payload.clone();
                let at = at % payload.len();
                changed[at] = with;
                Flow::read(&packet).unwrap().corrupt(&mut packet, at, with);
                prop_assert_eq!(packet, made::udp(source, target, &changed));
            }
        }

        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = bytes;
            let _ = super::target(&bytes);
            if let Some(flow) = Flow::read(&bytes) {
                let _ = flow.udp_payload(&bytes);
                flow.corrupt(&mut bytes, 3, 7);
                flow.rewrite(&mut bytes, Side::Target, flow.source);
            }
        }
    }
}
