//! A body of a known length made of one static block: costs its maker next to nothing. Used by clients and by the
//! upstream.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::tally::Tally;

/// Size of the pieces that bodies are made of, bytes.
const BLOCK: usize = 64 << 10;
static ZEROS: [u8; BLOCK] = [b'0'; BLOCK];

/// So many bytes, in pieces of at most 64 KiB.
pub struct Filler {
    left: u64,
    tally: Option<Arc<Tally>>,
}

impl Filler {
    /// A body of `bytes` bytes; each piece is counted as moved when it is taken, where there is a tally.
    pub fn new(bytes: u64, tally: Option<Arc<Tally>>) -> Self {
        Self { left: bytes, tally }
    }
}

impl Iterator for Filler {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let size = usize::try_from(self.left).map_or(BLOCK, |left| left.min(BLOCK));
        self.left -= size as u64;
        if let Some(tally) = &self.tally {
            tally.moved(size as u64);
        }
        (size > 0).then(|| Bytes::from_static(&ZEROS).slice(..size))
    }
}

impl Body for Filler {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next().map(|piece| Ok(Frame::data(piece))))
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
    fn a_filler_is_exactly_as_long_as_it_says() {
        for bytes in [0, 1, 65_535, 65_536, 65_537, 1_000_000] {
            let filler = Filler::new(bytes, None);
            assert_eq!(Body::size_hint(&filler).exact(), Some(bytes));
            assert_eq!(filler.map(|piece| piece.len() as u64).sum::<u64>(), bytes);
        }
    }
}
