//! Datagrams to the same peer that leave in one system call. Owned by [`super::datagrams`]; sends nothing itself.
//!
//! quinn makes batches of ten at most. A full one says that more follows, and the kernel takes a batch of forty for less than
//! twice what it takes for ten; so full ones are joined as long as they keep coming. Anything else goes at once, behind what
//! waits.
//!
//! Each connection keeps memory for a whole batch of quinn's from the first one of two datagrams on. So quinn makes none until
//! some connection has much to send ([`Pace`]), and what it sends one by one is joined here: idle connections have done no
//! more than a handshake.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use quinn::udp::{EcnCodepoint, Transmit};

/// Datagrams in a full batch of quinn's (`MAX_TRANSMIT_SEGMENTS` of its connection.rs).
const QUINN_BATCH: usize = 10;
/// Datagrams in one of ours, at most; the kernel takes 64.
const SEGMENTS_MAX: usize = 4 * QUINN_BATCH;
/// Bytes in one of ours, at most: a UDP payload.
const BYTES_MAX: usize = 65_507;

/// A datagram that is no shorter is likely to be followed by another, bytes: what every path takes (RFC 9000 section 14.1).
const LONG: usize = 1_200;
/// Long datagrams in a row that are more than a handshake: of that, three times two may leave before the client's address is
/// validated.
const MANY: u32 = 8;
/// Datagrams in a batch, at most, that are not much.
const FEW: usize = 3;
/// Batches of fewer, in a row, after which nobody does.
const CALM: u32 = 64;

/// How much is being sent: whether quinn makes batches, and what is worth waiting for.
#[derive(Default)]
pub(super) struct Pace {
    /// Sends until nobody sends much.
    brisk: AtomicU32,
    /// While nobody does: port of the peer that got the last long datagram, and how many it got in a row.
    row: AtomicU32,
}

impl Pace {
    /// These leave: whether more are likely to follow. `joins`: whether single datagrams can leave together.
    pub(super) fn handle_transmit(&self, transmit: &Transmit<'_>, joins: bool) -> bool {
        let full = transmit.segment_size.is_some_and(|segment| transmit.contents.len() == segment * QUINN_BATCH);
        let brisk = self.brisk.load(Ordering::Relaxed);
        if brisk > 0 {
            let few = transmit.segment_size.is_none_or(|segment| transmit.contents.len() <= FEW * segment);
            self.brisk.store(if few { brisk - 1 } else { CALM }, Ordering::Relaxed);
            return full;
        }
        let long = joins && transmit.segment_size.is_none() && transmit.contents.len() >= LONG;
        self.count(transmit.destination.port(), long);
        full || long
    }

    fn count(&self, port: u16, long: bool) {
        let (row, peer) = (self.row.load(Ordering::Relaxed), u32::from(port) << 16);
        let before = if row & !0xffff == peer { row & 0xffff } else { 0 };
        match long {
            true if before + 1 >= MANY => {
                self.row.store(0, Ordering::Relaxed);
                self.brisk.store(CALM, Ordering::Relaxed);
            }
            true => self.row.store(peer | (before + 1), Ordering::Relaxed),
            false if before > 0 => self.row.store(0, Ordering::Relaxed),
            false => {}
        }
    }

    /// Datagrams in a batch of quinn's, `max` being what the system takes.
    pub(super) fn segments(&self, max: usize) -> usize {
        if self.brisk.load(Ordering::Relaxed) > 0 { max } else { 1 }
    }
}

/// Peers whose datagrams may wait at the same time: connections take turns.
const PEERS: usize = 8;

/// A batch for each of a few peers.
#[derive(Default)]
pub(super) struct Batches {
    each: [Batch; PEERS],
    /// The next to make way.
    next: usize,
}

impl Batches {
    /// The one that these datagrams go into or behind; none if nothing waits for the same peer and nothing is likely to follow
    /// (`more`). It may have to be sent to make way for them.
    pub(super) fn find(&mut self, transmit: &Transmit<'_>, more: bool) -> Option<&mut Batch> {
        let same = |batch: &Batch| batch.to.is_some_and(|to| to.destination == transmit.destination);
        let known = self.each.iter().position(same);
        let index = match known {
            None if !more => return None,
            None => self.each.iter().position(Batch::is_empty).unwrap_or_else(|| {
                self.next = (self.next + 1) % PEERS;
                self.next
            }),
            Some(known) => known,
        };
        self.each.get_mut(index)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Batch> {
        self.each.iter_mut()
    }
}

/// One batch.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    to: Option<Target>,
    /// Bytes at the last look.
    seen: usize,
    /// Nothing may follow: the last datagram may be shorter.
    complete: bool,
}

/// What all datagrams of a batch have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Target {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    segment: usize,
    source: Option<IpAddr>,
}

/// What becomes of datagrams that are to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// They are in the batch, and more may come.
    Waits,
    /// They are in the batch, which is complete.
    Complete,
    /// They go by themselves, behind the batch.
    Apart,
}

impl Batch {
    /// Takes them if they fit. `more`: others are likely to follow.
    pub(super) fn offer(&mut self, transmit: &Transmit<'_>, more: bool) -> Offer {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        let target = Target {
            destination: transmit.destination,
            ecn: transmit.ecn,
            segment: self.to.map_or(segment, |to| to.segment),
            source: transmit.src_ip,
        };
        // The last datagram of a batch may be shorter, and only that one.
        let fits = match self.to {
            Some(to) => {
                to == target
                    && !self.complete
                    && self.bytes.len() + transmit.contents.len() <= capacity(to.segment)
                    && (segment == to.segment || (transmit.segment_size.is_none() && segment < to.segment))
            }
            None => more && transmit.contents.len() <= BYTES_MAX,
        };
        if !fits {
            return Offer::Apart;
        }
        self.to = Some(target);
        self.bytes.extend_from_slice(transmit.contents);
        let last = !more || self.to.is_some_and(|to| segment < to.segment);
        self.complete = last || self.bytes.len() + transmit.contents.len() > capacity(segment);
        if self.complete { Offer::Complete } else { Offer::Waits }
    }

    /// All of it, as one send.
    pub(super) fn transmit(&self) -> Option<Transmit<'_>> {
        self.to.map(|to| Transmit {
            destination: to.destination,
            ecn: to.ecn,
            contents: &self.bytes,
            segment_size: Some(to.segment),
            src_ip: to.source,
        })
    }

    /// It was sent.
    pub(super) fn clear(&mut self) {
        (self.to, self.seen, self.complete) = (None, 0, false);
        self.bytes.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.to.is_none()
    }

    /// Whether it grew since this was last asked.
    pub(super) fn has_grown(&mut self) -> bool {
        std::mem::replace(&mut self.seen, self.bytes.len()) != self.bytes.len()
    }
}

fn capacity(segment: usize) -> usize {
    (segment * SEGMENTS_MAX).min(BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn transmit(contents: &[u8], segment: Option<usize>, port: u16) -> Transmit<'_> {
        let destination = ([127, 0, 0, 1], port).into();
        Transmit { destination, ecn: None, contents, segment_size: segment, src_ip: None }
    }

    #[test]
    fn quinn_makes_no_batches_until_one_peer_gets_much_and_none_again_when_nobody_did_for_long() {
        let (pace, bytes) = (Pace::default(), [0; 10 * LONG]);
        let [long, short] = [LONG, 100].map(|length| transmit(&bytes[..length], None, 1));
        assert_eq!(pace.segments(64), 1);
        // Handshakes: of one client after another, and of two side by side.
        for _ in 0..2 {
            (1..MANY).for_each(|_| assert!(pace.handle_transmit(&long, true), "another is likely to follow"));
            assert!(!pace.handle_transmit(&short, true));
        }
        for port in (1..=2).cycle().take(50) {
            pace.handle_transmit(&transmit(&bytes[..LONG], None, port), true);
        }
        assert_eq!(pace.segments(64), 1);
        for _ in 0..MANY {
            pace.handle_transmit(&long, true);
        }
        assert!(pace.handle_transmit(&transmit(&bytes, Some(LONG), 1), true));
        for _ in 0..CALM {
            assert_eq!(pace.segments(64), 64);
            assert!(!pace.handle_transmit(&long, true), "a batch that is not full was all there was");
        }
        assert_eq!(pace.segments(64), 1);
    }

    #[test]
    fn where_datagrams_cannot_leave_together_none_waits_for_another() {
        let (pace, bytes) = (Pace::default(), [0; LONG]);
        assert!((0..50).all(|_| !pace.handle_transmit(&transmit(&bytes, None, 1), false)));
    }

    /// The datagrams of a transmit, each with its destination.
    fn datagrams(transmit: &Transmit<'_>, out: &mut Vec<(u16, Vec<u8>)>) {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        out.extend(transmit.contents.chunks(segment).map(|one| (transmit.destination.port(), one.to_vec())));
    }

    /// As the socket does it.
    fn send(batches: &mut Batches, transmit: &Transmit<'_>, more: bool, out: &mut Vec<(u16, Vec<u8>)>) {
        let Some(batch) = batches.find(transmit, more) else { return datagrams(transmit, out) };
        let mut flush = |batch: &mut Batch| {
            if let Some(waiting) = batch.transmit() {
                datagrams(&waiting, out);
            }
            batch.clear();
        };
        match batch.offer(transmit, more) {
            Offer::Waits => {}
            Offer::Complete => flush(batch),
            Offer::Apart if batch.is_empty() => datagrams(transmit, out),
            Offer::Apart => {
                flush(batch);
                send(batches, transmit, more, out);
            }
        }
    }

    #[test]
    fn full_batches_are_joined_and_a_shorter_one_completes_them() {
        let (mut batch, full) = (Batch::default(), [1; 12_000]);
        assert_eq!(
            batch.offer(&transmit(&full[..6_000], Some(1_200), 1), false),
            Offer::Apart,
            "alone, it goes at once"
        );
        for joined in 1..4 {
            assert_eq!(batch.offer(&transmit(&full, Some(1_200), 1), true), Offer::Waits);
            assert_eq!(batch.transmit().unwrap().contents.len(), joined * full.len());
        }
        assert_eq!(batch.offer(&transmit(&full[..3_700], Some(1_200), 1), false), Offer::Complete);
        assert_eq!(batch.transmit().unwrap().segment_size, Some(1_200));
        assert_eq!(batch.offer(&transmit(&full[..1_200], None, 1), true), Offer::Apart, "not behind a shorter one");
    }

    #[test]
    fn long_datagrams_are_joined_one_by_one() {
        let (mut batch, flight) = (Batch::default(), [1; 1_200]);
        for joined in 1..3 {
            assert_eq!(batch.offer(&transmit(&flight, None, 1), true), Offer::Waits);
            assert_eq!(batch.transmit().unwrap().contents.len(), joined * flight.len());
        }
        assert_eq!(batch.offer(&transmit(&[1; 1_452], None, 1), true), Offer::Apart, "of another length");
        assert_eq!(
            batch.offer(&transmit(&flight[..1_199], None, 1), true),
            Offer::Complete,
            "a shorter one is the last"
        );
        assert_eq!(batch.transmit().unwrap().segment_size, Some(1_200));
    }

    #[test]
    fn no_batch_is_larger_than_what_the_kernel_takes() {
        for segment in [1_200, 1_452, 6_000, 9_000] {
            let (mut batch, bytes) = (Batch::default(), vec![0; segment * QUINN_BATCH]);
            for _ in 0..9 {
                let offered = batch.offer(&transmit(&bytes, Some(segment), 1), true);
                let length = batch.transmit().map_or(0, |batch| batch.contents.len());
                assert!(length <= BYTES_MAX && length <= segment * 64, "{offered:?} {length}");
            }
        }
    }

    #[test]
    fn growth_is_seen_once() {
        let mut batch = Batch::default();
        assert!(!batch.has_grown());
        batch.offer(&transmit(&[0; 1_000], Some(100), 1), true);
        assert!(batch.has_grown() && !batch.has_grown());
        batch.clear();
        assert!(!batch.has_grown() && batch.is_empty() && batch.transmit().is_none());
    }

    proptest! {
        #[test]
        fn every_datagram_leaves_once_unchanged_and_in_order_for_its_peer(
            sends in proptest::collection::vec(
                (1..14_u16, prop_oneof![Just(100_usize), Just(120)], prop_oneof![Just(10_usize), Just(1), 1..=10_usize], 0..30_usize, any::<bool>()),
                1..80,
            ),
        ) {
            let (mut batches, mut sent, mut expected) = (Batches::default(), Vec::new(), Vec::new());
            for (number, (port, segment, count, missing, more)) in (0_u8..).zip(sends) {
                let bytes = vec![number; segment * count - missing / 20 * 50];
                // quinn says no segment size of a single datagram.
                let transmit = transmit(&bytes, (bytes.len() > segment).then_some(segment), port);
                datagrams(&transmit, &mut expected);
                // Nothing follows a datagram that is shorter than those before it in its batch.
                let more = more && transmit.segment_size.is_none_or(|segment| bytes.len() % segment == 0);
                send(&mut batches, &transmit, more, &mut sent);
            }
            for batch in batches.iter_mut() {
                batch.transmit().iter().for_each(|rest| datagrams(rest, &mut sent));
            }
            // Among peers the order is free.
            sent.sort_by_key(|(port, _)| *port);
            expected.sort_by_key(|(port, _)| *port);
            prop_assert_eq!(sent, expected);
        }
    }
}
