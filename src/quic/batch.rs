//! Datagrams to the same peer that leave in one system call. Owned by [`super::datagrams`]; sends nothing itself.
//!
//! quinn makes batches of ten at most. A full one says that more follows, and the kernel takes a batch of forty for less than
//! twice what it takes for ten; so full ones are joined as long as they keep coming. Anything else goes at once, behind what
//! waits.
//!
//! Each connection keeps memory for a whole batch of quinn's from the first one of two datagrams on. So batches are of
//! [`FEW`] until some connection fills one ([`Pace`]): idle connections have done no more than a handshake.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use quinn::udp::{EcnCodepoint, Transmit};

/// Datagrams in a full batch of quinn's (`MAX_TRANSMIT_SEGMENTS` of its connection.rs).
const QUINN_BATCH: usize = 10;
/// Datagrams in one of ours, at most; the kernel takes 64.
const SEGMENTS_MAX: usize = 4 * QUINN_BATCH;
/// Bytes in one of ours, at most: a UDP payload.
const BYTES_MAX: usize = 65_507;

/// Datagrams that a handshake sends at once, at most; and so of a batch on a socket where nobody sends more.
const FEW: usize = 4;
/// Batches of fewer, in a row, after which nobody does.
const CALM: u32 = 64;

/// How large batches may be.
#[derive(Default)]
pub(super) struct Pace {
    /// Sends until nobody sends much.
    brisk: AtomicU32,
}

impl Pace {
    /// These leave.
    pub(super) fn handle_transmit(&self, transmit: &Transmit<'_>) {
        let brisk = self.brisk.load(Ordering::Relaxed);
        let few = transmit.segment_size.is_none_or(|segment| transmit.contents.len() <= (FEW - 1) * segment);
        match (few, brisk) {
            (true, 0) | (false, CALM) => {}
            (true, _) => self.brisk.store(brisk - 1, Ordering::Relaxed),
            (false, _) => self.brisk.store(CALM, Ordering::Relaxed),
        }
    }

    /// Datagrams in a batch, `max` being what the system takes.
    pub(super) fn segments(&self, max: usize) -> usize {
        if self.brisk.load(Ordering::Relaxed) > 0 { max } else { max.min(FEW) }
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
    /// The one that these datagrams go into or behind; none if nothing waits for the same peer and nothing is likely to follow.
    /// It may have to be sent to make way for them.
    pub(super) fn find(&mut self, transmit: &Transmit<'_>) -> Option<&mut Batch> {
        let same = |batch: &Batch| batch.to.is_some_and(|to| to.destination == transmit.destination);
        let known = self.each.iter().position(same);
        let index = match known {
            None if !is_full(transmit) => return None,
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
    /// Takes them if they fit.
    pub(super) fn offer(&mut self, transmit: &Transmit<'_>) -> Offer {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        let target = Target {
            destination: transmit.destination,
            ecn: transmit.ecn,
            segment: self.to.map_or(segment, |to| to.segment),
            source: transmit.src_ip,
        };
        let full = is_full(transmit);
        // The last datagram of a batch may be shorter, and only that one.
        let fits = match self.to {
            Some(to) => {
                to == target
                    && !self.complete
                    && self.bytes.len() + transmit.contents.len() <= capacity(to.segment)
                    && (segment == to.segment || (transmit.segment_size.is_none() && segment < to.segment))
            }
            None => full && transmit.contents.len() <= BYTES_MAX,
        };
        if !fits {
            return Offer::Apart;
        }
        self.to = Some(target);
        self.bytes.extend_from_slice(transmit.contents);
        self.complete = !full || self.bytes.len() + transmit.contents.len() > capacity(segment);
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

/// Whether more is likely to follow.
fn is_full(transmit: &Transmit<'_>) -> bool {
    transmit.segment_size.is_some_and(|segment| transmit.contents.len() == segment * QUINN_BATCH)
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
    fn batches_are_small_until_one_is_full_and_again_when_none_was_for_long() {
        let (pace, bytes) = (Pace::default(), [0; 10 * 100]);
        assert_eq!((pace.segments(64), pace.segments(1)), (FEW, 1));
        pace.handle_transmit(&transmit(&bytes[..300], Some(100), 1));
        assert_eq!(pace.segments(64), FEW, "a handshake");
        pace.handle_transmit(&transmit(&bytes[..400], Some(100), 1));
        for _ in 0..CALM {
            assert_eq!(pace.segments(64), 64);
            pace.handle_transmit(&transmit(&bytes[..100], None, 2));
        }
        assert_eq!(pace.segments(64), FEW);
    }

    /// The datagrams of a transmit, each with its destination.
    fn datagrams(transmit: &Transmit<'_>, out: &mut Vec<(u16, Vec<u8>)>) {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        out.extend(transmit.contents.chunks(segment).map(|one| (transmit.destination.port(), one.to_vec())));
    }

    /// As the socket does it.
    fn send(batches: &mut Batches, transmit: &Transmit<'_>, out: &mut Vec<(u16, Vec<u8>)>) {
        let Some(batch) = batches.find(transmit) else { return datagrams(transmit, out) };
        let mut flush = |batch: &mut Batch| {
            if let Some(waiting) = batch.transmit() {
                datagrams(&waiting, out);
            }
            batch.clear();
        };
        match batch.offer(transmit) {
            Offer::Waits => {}
            Offer::Complete => flush(batch),
            Offer::Apart if batch.is_empty() => datagrams(transmit, out),
            Offer::Apart => {
                flush(batch);
                send(batches, transmit, out);
            }
        }
    }

    #[test]
    fn full_batches_are_joined_and_a_shorter_one_completes_them() {
        let (mut batch, full) = (Batch::default(), [1; 12_000]);
        assert_eq!(batch.offer(&transmit(&full[..6_000], Some(1_200), 1)), Offer::Apart, "alone, it goes at once");
        for joined in 1..4 {
            assert_eq!(batch.offer(&transmit(&full, Some(1_200), 1)), Offer::Waits);
            assert_eq!(batch.transmit().unwrap().contents.len(), joined * full.len());
        }
        assert_eq!(batch.offer(&transmit(&full[..3_700], Some(1_200), 1)), Offer::Complete);
        assert_eq!(batch.transmit().unwrap().segment_size, Some(1_200));
        assert_eq!(batch.offer(&transmit(&full[..1_200], None, 1)), Offer::Apart, "not behind a shorter one");
    }

    #[test]
    fn no_batch_is_larger_than_what_the_kernel_takes() {
        for segment in [1_200, 1_452, 6_000, 9_000] {
            let (mut batch, bytes) = (Batch::default(), vec![0; segment * QUINN_BATCH]);
            for _ in 0..9 {
                let offered = batch.offer(&transmit(&bytes, Some(segment), 1));
                let length = batch.transmit().map_or(0, |batch| batch.contents.len());
                assert!(length <= BYTES_MAX && length <= segment * 64, "{offered:?} {length}");
            }
        }
    }

    #[test]
    fn growth_is_seen_once() {
        let mut batch = Batch::default();
        assert!(!batch.has_grown());
        batch.offer(&transmit(&[0; 1_000], Some(100), 1));
        assert!(batch.has_grown() && !batch.has_grown());
        batch.clear();
        assert!(!batch.has_grown() && batch.is_empty() && batch.transmit().is_none());
    }

    proptest! {
        #[test]
        fn every_datagram_leaves_once_unchanged_and_in_order_for_its_peer(
            sends in proptest::collection::vec(
                (1..14_u16, prop_oneof![Just(100_usize), Just(120)], prop_oneof![Just(10_usize), 1..=10_usize], 0..30_usize),
                1..80,
            ),
        ) {
            let (mut batches, mut sent, mut expected) = (Batches::default(), Vec::new(), Vec::new());
            for (number, (port, segment, count, missing)) in (0_u8..).zip(sends) {
                let bytes = vec![number; segment * count - missing / 20 * 50];
                // quinn says no segment size of a single datagram.
                let transmit = transmit(&bytes, (bytes.len() > segment).then_some(segment), port);
                datagrams(&transmit, &mut expected);
                send(&mut batches, &transmit, &mut sent);
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
