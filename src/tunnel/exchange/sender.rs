//! The sending half of one direction of an exchange (sans-IO): offsets, credit, and what is kept until acknowledged.
//!
//! Invariants, checked in debug builds: `base <= next <= end`, `acked <= next`, the chunks hold exactly `base..end`,
//! bytes reserved in the budget are `next - base` as long as the exchange is resumable.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::retention::Budget;

/// The bytes that the other end still needs are no longer kept, or it claims bytes that were never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot resume at offset {0}")]
pub struct CannotResume(pub u64);

/// See the module.
#[derive(Debug)]
pub struct Sender {
    chunks: VecDeque<Bytes>,
    /// Offset of the first byte in `chunks`.
    base: u64,
    /// Offset of the next byte for the stream.
    next: u64,
    /// Chunk that holds `next`, and the bytes of it that already went.
    cursor: (usize, usize),
    end: u64,
    credit: u64,
    ended: bool,
    resumable: bool,
    budget: Arc<Budget>,
}

impl Sender {
    /// A direction at offset 0 that may send `credit` bytes before it hears anything.
    pub fn new(credit: u64, budget: Arc<Budget>) -> Self {
        Self {
            chunks: VecDeque::new(),
            base: 0,
            next: 0,
            cursor: (0, 0),
            end: 0,
            credit,
            ended: false,
            resumable: true,
            budget,
        }
    }

    /// Appends bytes to the direction.
    pub fn append(&mut self, bytes: Bytes) {
        debug_assert!(!self.ended, "append after end");
        if !bytes.is_empty() {
            self.end += bytes.len() as u64;
            self.chunks.push_back(bytes);
        }
    }

    /// Nothing more will be appended.
    pub fn set_ended(&mut self) {
        self.ended = true;
    }

    /// Whether [`Self::set_ended`] was called.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether every appended byte was handed to a stream.
    pub fn is_flushed(&self) -> bool {
        self.next == self.end
    }

    /// Whether every byte was acknowledged and nothing more comes.
    pub fn is_settled(&self) -> bool {
        self.ended && self.base == self.end
    }

    /// Whether bytes wait only for credit.
    pub fn is_blocked_by_credit(&self) -> bool {
        self.next < self.end && self.next >= self.credit
    }

    /// Whether a lost link can still be survived as far as this side knows.
    pub fn is_resumable(&self) -> bool {
        self.resumable
    }

    /// Bytes kept that went out and are not acknowledged.
    pub fn retained(&self) -> u64 {
        self.next - self.base
    }

    /// How many pieces [`Self::poll_transmit`] could give; none without credit.
    pub fn pieces_to_transmit(&self) -> usize {
        if self.next < self.credit { self.chunks.len().saturating_sub(self.cursor.0) } else { 0 }
    }

    /// Fills `out` with the next bytes for the stream, within credit; answers how many entries it filled.
    pub fn poll_transmit(&self, out: &mut [Bytes]) -> usize {
        let mut room = self.credit.saturating_sub(self.next);
        let (first, mut skip) = self.cursor;
        let mut filled = 0;
        for (slot, chunk) in out.iter_mut().zip(self.chunks.iter().skip(first)) {
            if room == 0 {
                break;
            }
            let available = chunk.len() - skip;
            let length = usize::try_from(room).unwrap_or(usize::MAX).min(available);
            *slot = chunk.slice(skip..skip + length);
            skip = 0;
            room -= length as u64;
            filled += 1;
        }
        filled
    }

    /// `bytes` of what [`Self::poll_transmit`] gave went to the stream.
    pub fn handle_transmitted(&mut self, bytes: u64) {
        self.next += bytes;
        self.resumable = self.resumable && self.budget.reserve(bytes);
        if self.resumable {
            self.advance_cursor(bytes);
        } else {
            // No longer kept: what was reserved before goes back too.
            self.budget.release(self.next - bytes - self.base);
            self.cursor = (0, 0);
            self.drop_before(self.next);
        }
        self.check_invariants();
    }

    fn advance_cursor(&mut self, bytes: u64) {
        let (mut index, mut within) = self.cursor;
        let mut left = bytes;
        while let Some(chunk) = self.chunks.get(index) {
            let rest = (chunk.len() - within) as u64;
            if left < rest {
                within += usize::try_from(left).unwrap_or(usize::MAX);
                break;
            }
            left -= rest;
            index += 1;
            within = 0;
        }
        self.cursor = (index, within);
    }

    /// Drops kept bytes below `offset`; the cursor must be set anew by the caller if it is not at `offset`.
    fn drop_before(&mut self, offset: u64) -> usize {
        let mut dropped = 0;
        while let Some(front) = self.chunks.front_mut() {
            let gap = offset - self.base;
            if gap == 0 {
                break;
            }
            if gap < front.len() as u64 {
                let part = usize::try_from(gap).unwrap_or(usize::MAX);
                let _ = front.split_to(part);
                self.base = offset;
                break;
            }
            self.base += front.len() as u64;
            self.chunks.pop_front();
            dropped += 1;
        }
        dropped
    }

    /// The other end has received everything below `offset` and takes `window` bytes more. Answers whether credit rose.
    /// Late or nonsensical acknowledgements change nothing.
    pub fn handle_ack(&mut self, offset: u64, window: u64) -> bool {
        if offset > self.next {
            return false;
        }
        if offset > self.base {
            if self.resumable {
                self.budget.release(offset - self.base);
            }
            self.drop_before(offset);
            self.recompute_cursor();
        }
        let credit = offset.saturating_add(window);
        let rose = credit > self.credit;
        self.credit = self.credit.max(credit);
        self.check_invariants();
        rose
    }

    fn recompute_cursor(&mut self) {
        self.cursor = (0, 0);
        self.advance_cursor(self.next - self.base);
    }

    /// Goes on from `offset` on a new attachment: the bytes the other end has received; it takes `window` more. Answers
    /// how many bytes will be sent again.
    ///
    /// # Errors
    /// [`CannotResume`] if these bytes are no longer kept, or were never sent.
    pub fn handle_resume(&mut self, offset: u64, window: u64) -> Result<u64, CannotResume> {
        if offset < self.base || offset > self.next {
            return Err(CannotResume(offset));
        }
        let again = self.next - offset;
        if self.resumable {
            self.budget.release(self.next - self.base);
        }
        self.drop_before(offset);
        self.next = offset;
        self.cursor = (0, 0);
        self.credit = self.credit.max(offset.saturating_add(window));
        self.check_invariants();
        Ok(again)
    }

    /// Forgets everything: the exchange is over.
    pub fn clear(&mut self) {
        if self.resumable {
            self.budget.release(self.next - self.base);
        }
        self.chunks.clear();
        self.ended = true;
        self.base = self.end;
        self.next = self.end;
        self.cursor = (0, 0);
    }

    fn check_invariants(&self) {
        debug_assert!(self.base <= self.next && self.next <= self.end);
        debug_assert_eq!(self.chunks.iter().map(|c| c.len() as u64).sum::<u64>(), self.end - self.base);
        debug_assert!(self.resumable || self.base == self.next);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn byte(offset: u64) -> u8 {
        (offset % 251) as u8
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append(u16),
        Transmit(u16),
        Ack(u64, u64),
        Resume(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u16..3000).prop_map(Step::Append),
            (0u16..3000).prop_map(Step::Transmit),
            (0u64..9000, 0u64..5000).prop_map(|(offset, window)| Step::Ack(offset, window)),
            (0u64..9000).prop_map(Step::Resume),
        ]
    }

    /// The other end of a perfect stream: counts what arrived since the last resume and checks every byte.
    fn transmit(sender: &mut Sender, most: u16, received: &mut u64) {
        let mut out = vec![Bytes::new(); 4];
        let filled = sender.poll_transmit(&mut out);
        let mut left = usize::from(most);
        let mut sent = 0u64;
        for chunk in &out[..filled] {
            let part = chunk.slice(..chunk.len().min(left));
            for (i, b) in part.iter().enumerate() {
                assert_eq!(*b, byte(*received + sent + i as u64));
            }
            left -= part.len();
            sent += part.len() as u64;
        }
        sender.handle_transmitted(sent);
        *received += sent;
    }

    proptest! {
        #[test]
        fn whatever_happens_the_other_end_gets_each_byte_once_and_in_order(
            steps in proptest::collection::vec(any_step(), 1..120),
            budget in prop_oneof![Just(u64::MAX / 2), 0u64..6000],
        ) {
            let budget = Arc::new(Budget::new(budget));
            let mut sender = Sender::new(1000, budget.clone());
            let (mut appended, mut received) = (0u64, 0u64);
            for step in steps {
                match step {
                    Step::Append(length) => {
                        let bytes: Vec<u8> = (0..u64::from(length)).map(|i| byte(appended + i)).collect();
                        appended += u64::from(length);
                        sender.append(bytes.into());
                    }
                    Step::Transmit(most) => transmit(&mut sender, most, &mut received),
                    Step::Ack(offset, window) => { sender.handle_ack(offset.min(received), window); }
                    Step::Resume(offset) => {
                        let possible = offset >= sender.base && offset <= sender.next;
                        prop_assert_eq!(sender.handle_resume(offset, 0).is_ok(), possible);
                        if possible { received = offset }
                    }
                }
                prop_assert!(budget.used() == 0 || sender.is_resumable());
            }
            drop(sender);
            prop_assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn nothing_goes_out_beyond_the_credit() {
        let mut sender = Sender::new(10, Arc::new(Budget::new(1 << 20)));
        sender.append((0..25).map(byte).collect());
        let mut received = 0;
        transmit(&mut sender, 100, &mut received);
        assert_eq!(received, 10);
        assert!(sender.is_blocked_by_credit());
        assert!(sender.handle_ack(10, 15));
        assert!(!sender.is_blocked_by_credit());
    }

    #[test]
    fn past_the_budget_an_exchange_keeps_its_speed_and_loses_only_its_ability_to_resume() {
        let budget = Arc::new(Budget::new(8));
        let mut sender = Sender::new(100, budget.clone());
        sender.append(Bytes::from_static(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
        let mut received = 0;
        transmit(&mut sender, 5, &mut received);
        assert!(sender.is_resumable());
        transmit(&mut sender, 5, &mut received);
        assert_eq!((received, sender.is_resumable(), budget.used()), (10, false, 0));
        assert_eq!(sender.handle_resume(3, 9), Err(CannotResume(3)));
        assert_eq!(sender.handle_resume(10, 0), Ok(0));
    }
}
