//! What one receive brought, and the packets made of it (sans-IO). Owned by the endpoint.
//!
//! The kernel hands over up to 64 packets of a peer in one buffer (GRO). The packets of a long batch stay where they are, and the
//! buffer comes back when the last of them is gone. At most [`LENT_MAX`] buffers are away: a stalled stream that keeps one packet
//! keeps its whole batch. While all are away, and of short batches always, packets are copied and share memory by fours: memory of
//! its own for each costs bulk 10 %, for each four next to nothing.

use std::collections::VecDeque;
use std::io::IoSliceMut;

use bytes::BytesMut;
use quinn::udp::RecvMeta;

/// What one receive may bring, bytes: no UDP payload and no batch of them is longer.
const SLOT_LEN: usize = 64 << 10;
/// Packets that share memory, at most, where they are copied.
const RUN: usize = 4;
/// Packets of a batch that are not copied, at least.
const LONG: usize = 8;
/// Buffers that packets keep, at most: 2 MiB for each endpoint, which are touched only in bulk.
const LENT_MAX: usize = 32;
/// Buffers looked at for one that has come back.
const LOOK: usize = 4;
/// Messages that one receive may bring: up to 512 packets, which is half a millisecond of work.
const SLOTS_MAX: usize = 8;
/// Messages asked for when the last receive brought one: each place for one is filled in before the call, and a process that
/// wakes up for one packet has none of that memory in its cache.
const SLOTS_FEW: usize = 2;

/// See the module.
pub(super) struct Inbox {
    /// Buffers of [`SLOT_LEN`] that nobody else has. Touched, and so taken from the system, only as far as packets ever filled them.
    slots: [BytesMut; SLOTS_MAX],
    /// What is left of buffers that packets were split off: their ends. The first has been away longest.
    lent: VecDeque<BytesMut>,
    metas: [RecvMeta; SLOTS_MAX],
    /// Messages to ask for.
    asked: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        let slots = std::array::from_fn(|_| BytesMut::zeroed(SLOT_LEN));
        Self { slots, lent: VecDeque::new(), metas: [RecvMeta::default(); SLOTS_MAX], asked: SLOTS_FEW }
    }

    /// Fills it: `receive` answers how many messages it brought, if it could be asked.
    pub(super) fn fill<R>(
        &mut self,
        receive: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> R,
        count: impl FnOnce(&R) -> Option<usize>,
    ) -> R {
        let mut slots = self.slots.each_mut().map(|slot| IoSliceMut::new(slot));
        let received = receive(slots.get_mut(..self.asked).unwrap_or_default(), &mut self.metas);
        if let Some(count) = count(&received) {
            self.asked = if count < self.asked { SLOTS_FEW } else { SLOTS_MAX };
        }
        received
    }

    /// Gives `each` the packets of the first `count` messages with where they came from.
    pub(super) fn packets(&mut self, count: usize, mut each: impl FnMut(&RecvMeta, BytesMut)) {
        for (slot, meta) in self.slots.iter_mut().zip(&self.metas).take(count) {
            let stride = meta.stride.max(1);
            if meta.len >= stride.saturating_mul(LONG)
                && let Some(whole) = whole(&mut self.lent)
            {
                let mut rest = std::mem::replace(slot, whole);
                split(rest.split_to(meta.len.min(SLOT_LEN)), stride, |packet| each(meta, packet));
                self.lent.push_back(rest);
            } else {
                let message = slot.get(..meta.len).unwrap_or_default();
                for run in message.chunks(stride.saturating_mul(RUN)) {
                    split(copy(run, stride), stride, |packet| each(meta, packet));
                }
            }
        }
    }
}

/// A buffer to put in the place of one that packets keep, if not too many are away.
fn whole(lent: &mut VecDeque<BytesMut>) -> Option<BytesMut> {
    for _ in 0..lent.len().min(LOOK) {
        let mut slot = lent.pop_front()?;
        slot.clear();
        if slot.try_reclaim(SLOT_LEN) {
            // SAFETY: all of its memory was written when it was made, and reclaiming does not allocate.
            unsafe { slot.set_len(SLOT_LEN) };
            return Some(slot);
        }
        lent.push_back(slot);
    }
    (lent.len() < LENT_MAX).then(|| BytesMut::zeroed(SLOT_LEN))
}

fn split(mut run: BytesMut, stride: usize, mut each: impl FnMut(BytesMut)) {
    while !run.is_empty() {
        each(run.split_to(stride.min(run.len())));
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

    /// Has `inbox` receive messages with these lengths and strides, each byte its position in the message; the packets.
    fn receive(inbox: &mut Inbox, messages: &[(usize, usize)]) -> Vec<BytesMut> {
        inbox.asked = SLOTS_MAX;
        let fill = |slots: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]| {
            for (i, &(len, stride)) in messages.iter().enumerate() {
                assert_eq!(slots[i].len(), SLOT_LEN);
                (metas[i].len, metas[i].stride) = (len, stride);
                (0..len).for_each(|at| slots[i][at] = u8::try_from(at % 251).unwrap());
            }
            messages.len()
        };
        let count = inbox.fill(fill, |count| Some(*count));
        let mut packets = Vec::new();
        inbox.packets(count, |_, packet| packets.push(packet));
        packets
    }

    fn message(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn a_batch_is_handed_on_packet_by_packet_and_what_is_empty_is_not() {
        let packets = receive(
            &mut Inbox::new(),
            &[(7800, 1200), (0, 0), (50, 50), (2400, 1200), (65_536, 65_536), (65_536, 1000)],
        );
        let lengths: Vec<usize> = packets[..11].iter().map(BytesMut::len).collect();
        assert_eq!(lengths, [1200, 1200, 1200, 1200, 1200, 1200, 600, 50, 1200, 1200, 65_536]);
        assert_eq!(packets[..7].concat(), message(7800));
        assert_eq!(packets[8..10].concat(), message(2400));
        let lengths: Vec<usize> = packets[11..].iter().map(BytesMut::len).collect();
        assert_eq!((lengths.len(), lengths[64], lengths[65]), (66, 1000, 536));
        assert_eq!(packets[11..].concat(), message(65_536));
    }

    /// Of one memory, neighbours lie side by side.
    fn share(packets: &[BytesMut], at: usize) -> bool {
        packets[at].as_ptr_range().end == packets[at + 1].as_ptr()
    }

    #[test]
    fn of_a_short_batch_no_more_than_four_packets_share_memory() {
        let packets = receive(&mut Inbox::new(), &[(8_400, 1200)]);
        assert_eq!(packets.len(), 7);
        assert!(share(&packets, 0) && share(&packets, 2) && share(&packets, 4));
        assert!(!share(&packets, 3));
    }

    #[test]
    fn a_long_batch_is_not_copied_and_its_buffer_comes_back_with_its_last_packet() {
        let mut inbox = Inbox::new();
        let mut first = receive(&mut inbox, &[(12_000, 1200)]);
        assert!((0..9).all(|at| share(&first, at)));
        let memory = first[0].as_ptr();
        let kept = first.split_off(9);
        drop(first);
        for _ in 0..3 {
            assert!(receive(&mut inbox, &[(12_000, 1200)]).iter().all(|packet| !std::ptr::eq(packet.as_ptr(), memory)));
        }
        assert_eq!(kept.concat(), &message(12_000)[10_800..]);
        drop(kept);
        let seen = (0..3).any(|_| std::ptr::eq(receive(&mut inbox, &[(12_000, 1200)])[0].as_ptr(), memory));
        assert!(seen, "the buffer is never used again");
        assert!(inbox.lent.len() <= 3, "{} buffers for batches that were dropped at once", inbox.lent.len());
    }

    #[test]
    fn who_keeps_a_packet_of_each_batch_keeps_no_more_than_so_many_buffers() {
        let mut inbox = Inbox::new();
        let mut keep = || receive(&mut inbox, &[(12_000, 1200)]).swap_remove(0);
        let kept: Vec<BytesMut> = (0..3 * LENT_MAX).map(|_| keep()).collect();
        assert!(kept.iter().all(|packet| *packet == message(1200)));
        assert_eq!(inbox.lent.len(), LENT_MAX);
        let packets = receive(&mut inbox, &[(12_000, 1200)]);
        assert!(!share(&packets, 3) && !share(&packets, 7), "not copied");
        assert_eq!(packets.concat(), message(12_000));
        drop(kept);
        let packets = receive(&mut inbox, &[(12_000, 1200)]);
        assert!(share(&packets, 3), "copied although buffers are back");
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
