//! A deterministic pseudo-random byte stream that anyone can compute at any offset: word `n` (8 bytes, little endian)
//! is the SplitMix64 output for counter `n`. `/bytes/N` is its first N bytes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use super::body::BodyError;

/// Bytes made at once: the unit in which they travel to the socket.
const PIECE: usize = 64 << 10;

/// Writes the pattern's bytes from `offset` on into `out`.
pub fn pattern_fill(offset: u64, out: &mut [u8]) {
    let mut counter = offset / 8;
    let mut skip = usize::try_from(offset % 8).unwrap_or(0);
    let mut rest = out;
    while !rest.is_empty() {
        let word = word(counter).to_le_bytes();
        let word = word.get(skip..).unwrap_or(&[]);
        let n = word.len().min(rest.len());
        let (now, later) = rest.split_at_mut(n);
        now.copy_from_slice(word.get(..n).unwrap_or(&[]));
        (rest, skip, counter) = (later, 0, counter.wrapping_add(1));
    }
}

fn word(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A part of the pattern as a body; holds no more than one piece.
pub struct PatternBody {
    offset: u64,
    left: u64,
}

impl PatternBody {
    /// `length` bytes from `offset` on.
    pub fn new(offset: u64, length: u64) -> Self {
        Self { offset, left: length }
    }
}

impl Body for PatternBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let length = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        let mut piece = BytesMut::zeroed(length);
        pattern_fill(self.offset, &mut piece);
        self.offset += length as u64;
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(piece.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_is_splitmix64_with_seed_zero() {
        let mut bytes = [0; 16];
        pattern_fill(0, &mut bytes);
        // The published first outputs of SplitMix64 seeded with 0.
        assert_eq!(bytes[..8], 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
        assert_eq!(bytes[8..], 0x6e78_9e6a_a1b9_65f4_u64.to_le_bytes());
    }

    #[test]
    fn any_part_equals_the_same_part_of_the_whole() {
        let mut whole = [0; 100];
        pattern_fill(0, &mut whole);
        for start in 0..40 {
            for end in start..60 {
                let mut part = vec![0; end - start];
                pattern_fill(start as u64, &mut part);
                assert_eq!(part, whole[start..end], "{start}..{end}");
            }
        }
    }
}
