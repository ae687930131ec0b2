//! What one receive brought, and the packets made of it (sans-IO). Owned by the endpoint.
//!
//! The kernel hands over up to 64 packets of a peer in one buffer (GRO). Packets share memory by fours: a stalled stream that keeps
//! one of them would otherwise pin all of its neighbours. Memory of its own for each costs bulk 10 %, for each four next to nothing.

use std::io::IoSliceMut;

use bytes::BytesMut;
use quinn::udp::RecvMeta;

/// What one receive may bring, bytes: no UDP payload and no batch of them is longer.
const SLOT_LEN: usize = 64 << 10;
/// Packets that share memory, at most.
const RUN: usize = 4;
/// Messages that one receive may bring: up to 512 packets, which is half a millisecond of work.
const SLOTS_MAX: usize = 8;
/// Messages asked for when the last receive brought one: each place for one is filled in before the call, and a process that
/// wakes up for one packet has none of that memory in its cache.
const SLOTS_FEW: usize = 2;

/// See the module.
pub(super) struct Inbox {
    /// Slots of [`SLOT_LEN`]. Touched, and so taken from the system, only as far as packets ever filled it.
    buffer: Box<[u8]>,
    metas: [RecvMeta; SLOTS_MAX],
    /// Messages to ask for.
    slots: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        let buffer = vec![0; SLOT_LEN * SLOTS_MAX].into_boxed_slice();
        Self { buffer, metas: [RecvMeta::default(); SLOTS_MAX], slots: SLOTS_FEW }
    }

    /// Fills it: `receive` answers how many messages it brought, if it could be asked.
    pub(super) fn fill<R>(
        &mut self,
        receive: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> R,
        count: impl FnOnce(&R) -> Option<usize>,
    ) -> R {
        let mut slots = self.buffer.chunks_exact_mut(SLOT_LEN);
        let mut slots: [IoSliceMut<'_>; SLOTS_MAX] =
            std::array::from_fn(|_| IoSliceMut::new(slots.next().unwrap_or_default()));
        let received = receive(slots.get_mut(..self.slots).unwrap_or_default(), &mut self.metas);
        if let Some(count) = count(&received) {
            self.slots = if count < self.slots { SLOTS_FEW } else { SLOTS_MAX };
        }
        received
    }

    /// The packets of the first `count` messages, each with where it came from.
    pub(super) fn packets(&self, count: usize) -> impl Iterator<Item = (RecvMeta, BytesMut)> {
        self.buffer.chunks_exact(SLOT_LEN).zip(&self.metas).take(count).flat_map(|(slot, meta)| {
            let stride = meta.stride.max(1);
            let message = slot.get(..meta.len).unwrap_or_default();
            message.chunks(stride.saturating_mul(RUN)).flat_map(move |run| {
                let mut run = copy(run, stride);
                std::iter::from_fn(move || (!run.is_empty()).then(|| (*meta, run.split_to(stride.min(run.len())))))
            })
        })
    }
}

/// Packet by packet: glibc (2.36) copies 2,112 bytes and more with `rep movsb` where the CPU claims to be good at it, and on Zen 3 that can
/// take 30 times as long, depending on where both begin (glibc bug 30994).
fn copy(run: &[u8], stride: usize) -> BytesMut {
    let mut copy = BytesMut::with_capacity(run.len());
    run.chunks(stride).for_each(|packet| copy.extend_from_slice(packet));
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The packets of a receive of messages with these lengths and strides, each byte its position in the message.
    fn packets(messages: &[(usize, usize)]) -> Vec<BytesMut> {
        let mut inbox = Inbox { slots: SLOTS_MAX, ..Inbox::new() };
        let fill = |slots: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]| {
            for (i, &(len, stride)) in messages.iter().enumerate() {
                (metas[i].len, metas[i].stride) = (len, stride);
                (0..len).for_each(|at| slots[i][at] = u8::try_from(at % 251).unwrap());
            }
            messages.len()
        };
        let count = inbox.fill(fill, |count| Some(*count));
        inbox.packets(count).map(|(_, packet)| packet).collect()
    }

    fn message(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn a_batch_is_handed_on_packet_by_packet_and_what_is_empty_is_not() {
        let packets = packets(&[(7800, 1200), (0, 0), (50, 50), (2400, 1200), (65_536, 65_536)]);
        let lengths: Vec<usize> = packets.iter().map(BytesMut::len).collect();
        assert_eq!(lengths, [1200, 1200, 1200, 1200, 1200, 1200, 600, 50, 1200, 1200, 65_536]);
        assert_eq!(packets[..7].concat(), message(7800));
        assert_eq!(packets[8..10].concat(), message(2400));
    }

    #[test]
    fn no_more_than_four_packets_share_memory() {
        let mut packets = packets(&[(12_000, 1200)]);
        assert_eq!(packets.len(), 10);
        // Of one memory, neighbours can be joined again in place.
        let rejoined = |packets: &mut Vec<BytesMut>, at: usize| {
            let (end, next) = (packets[at].as_ptr_range().end, packets[at + 1].as_ptr());
            end == next
        };
        assert!(rejoined(&mut packets, 0) && rejoined(&mut packets, 2));
        assert!(!rejoined(&mut packets, 3) && !rejoined(&mut packets, 7));
    }

    #[test]
    fn few_messages_are_asked_for_until_that_is_not_enough() {
        let mut inbox = Inbox::new();
        let mut ask = |brought: Option<usize>| inbox.fill(|slots, _| slots.len(), |_| brought);
        assert_eq!(ask(Some(2)), SLOTS_FEW);
        assert_eq!(ask(Some(SLOTS_MAX)), SLOTS_MAX);
        assert_eq!(ask(None), SLOTS_MAX);
        assert_eq!(ask(Some(3)), SLOTS_MAX);
        assert_eq!(ask(Some(1)), SLOTS_FEW);
    }
}
