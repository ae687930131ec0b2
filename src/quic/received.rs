//! What one receive brought, handed on in pieces (sans-IO). Owned by [`super::datagrams`].
//!
//! The kernel hands over up to 64 packets of a peer in one buffer (GRO); they go on by fours, each four in memory of their own.

use std::io::{self, IoSliceMut};

use quinn::udp::{BATCH_SIZE, RecvMeta};

/// Receive errors in a row after which the socket counts as broken.
const RECEIVE_ERRORS_MAX: u32 = 64;
/// What one receive may bring, bytes: no UDP payload and no batch of them is longer.
const SLOT_LEN: usize = 64 << 10;
/// Packets that share memory, at most.
pub(super) const RUN: usize = 4;
/// Messages asked for when the last receive brought one: each place for one is filled in before the call, and a process that
/// wakes up for one packet has none of that memory in its cache.
const SLOTS_FEW: usize = 2;

/// How much a receive brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// There may be more by now.
    Many,
    /// The socket is empty.
    One,
}

/// What one receive brought, in slots of [`SLOT_LEN`], and how far it was handed on.
pub(super) struct Received {
    /// Touched, and so taken from the system, only as far as packets ever filled it.
    buffer: Box<[u8]>,
    metas: [RecvMeta; BATCH_SIZE],
    count: usize,
    /// The next packets: their slot, and where in it they begin.
    slot: usize,
    offset: usize,
    /// Receive errors in a row.
    errors: u32,
    /// Messages to ask for.
    slots: usize,
}

impl Received {
    pub(super) fn new() -> Self {
        let buffer = vec![0; SLOT_LEN * BATCH_SIZE].into_boxed_slice();
        let metas = [RecvMeta::default(); BATCH_SIZE];
        Self { buffer, metas, count: 0, slot: 0, offset: 0, errors: 0, slots: SLOTS_FEW }
    }

    pub(super) fn fill(
        &mut self,
        receive: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> io::Result<usize>,
    ) -> io::Result<Fill> {
        let mut slots = self.buffer.chunks_exact_mut(SLOT_LEN);
        let mut slots: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(slots.next().unwrap_or_default()));
        let asked = self.slots;
        match receive(slots.get_mut(..asked).unwrap_or_default(), &mut self.metas) {
            Ok(count) => {
                (self.count, self.slot, self.offset, self.errors) = (count, 0, 0, 0);
                self.slots = if count < asked { SLOTS_FEW } else { BATCH_SIZE };
                let alone = count <= 1 && self.metas.first().is_none_or(|meta| meta.len <= meta.stride);
                Ok(if alone { Fill::One } else { Fill::Many })
            }
            Err(error) => {
                self.errors += u32::from(error.kind() != io::ErrorKind::WouldBlock);
                Err(error)
            }
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.errors > RECEIVE_ERRORS_MAX
    }

    /// Copies packets to `bufs`, a run each, and tells how many runs. One that is longer than its place is dropped: no peer
    /// sends more than the max_udp_payload_size (RFC 9000 section 18.2) that quinn's buffers are made for.
    pub(super) fn hand_on(&mut self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let mut handed = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let Some((run, from)) = self.next(buf.len()) else { break };
            if let Some(place) = buf.get_mut(..run.len()) {
                place.copy_from_slice(run);
                *meta = RecvMeta { len: run.len(), ..from };
                handed += 1;
            }
        }
        handed
    }

    /// The next packets, of at most `len_max` bytes together.
    fn next(&mut self, len_max: usize) -> Option<(&[u8], RecvMeta)> {
        while self.slot < self.count {
            let meta = *self.metas.get(self.slot)?;
            let start = self.slot * SLOT_LEN + self.offset;
            let len = meta.stride.saturating_mul(RUN).min(meta.len.saturating_sub(self.offset));
            self.offset += len;
            if len == 0 || self.offset >= meta.len {
                (self.slot, self.offset) = (self.slot + 1, 0);
            }
            if (1..=len_max).contains(&len) {
                return Some((self.buffer.get(start..start + len)?, meta));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(len: usize, stride: usize) -> RecvMeta {
        let mut meta = RecvMeta::default();
        (meta.len, meta.stride) = (len, stride);
        meta
    }

    /// A receive of messages with these lengths and strides, each byte its position in the message.
    fn filled(messages: &[(usize, usize)]) -> Received {
        let mut received = Received { slots: BATCH_SIZE, ..Received::new() };
        let fill = received.fill(|slots, metas| {
            for (i, &(len, stride)) in messages.iter().enumerate() {
                metas[i] = meta(len, stride);
                (0..len).for_each(|at| slots[i][at] = u8::try_from(at % 251).unwrap());
            }
            Ok(messages.len())
        });
        assert_eq!(fill.unwrap() == Fill::One, messages.len() == 1);
        received
    }

    /// What is handed on in rounds of `places` places of `room` bytes.
    fn handed_on(mut received: Received, places: usize, room: usize) -> Vec<Vec<u8>> {
        let (mut packets, mut memory) = (Vec::new(), vec![0; places * room]);
        loop {
            let mut bufs: Vec<_> = memory.chunks_mut(room).map(IoSliceMut::new).collect();
            let mut metas = vec![RecvMeta::default(); places];
            let count = received.hand_on(&mut bufs, &mut metas);
            if count == 0 {
                return packets;
            }
            for (buf, meta) in bufs.iter().zip(&metas).take(count) {
                assert!(meta.len <= RUN * meta.stride, "no long runs");
                packets.extend(buf[..meta.len].chunks(meta.stride).map(<[u8]>::to_vec));
            }
        }
    }

    fn message(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn a_batch_is_handed_on_packet_by_packet_in_any_number_of_rounds() {
        for places in [1, 2, 3, 32] {
            let packets = handed_on(filled(&[(7800, 1200), (50, 50), (2400, 1200)]), places, RUN * 1472);
            let lengths: Vec<usize> = packets.iter().map(Vec::len).collect();
            assert_eq!(lengths, [1200, 1200, 1200, 1200, 1200, 1200, 600, 50, 1200, 1200]);
            assert_eq!(packets[..7].concat(), message(7800));
            assert_eq!(packets[8..].concat(), message(2400));
        }
    }

    #[test]
    fn packets_that_are_empty_or_too_long_are_dropped_and_the_others_are_not() {
        let packets = handed_on(filled(&[(0, 0), (2000, 2000), (10, 10), (1472, 1472)]), 2, 1472);
        assert_eq!(packets, [message(10), message(1472)]);
    }

    #[test]
    fn a_passing_receive_error_is_survived_and_a_lasting_one_is_not() {
        let mut received = Received::new();
        let refused = |received: &mut Received| {
            received.fill(|_, _| Err(io::ErrorKind::ConnectionRefused.into())).unwrap_err();
            received.is_broken()
        };
        assert!((0..RECEIVE_ERRORS_MAX).all(|_| !refused(&mut received)));
        received.fill(|_, _| Err(io::ErrorKind::WouldBlock.into())).unwrap_err();
        received.fill(|_, _| Ok(0)).unwrap();
        assert!((0..RECEIVE_ERRORS_MAX).all(|_| !refused(&mut received)));
        assert!(refused(&mut received));
    }
}
