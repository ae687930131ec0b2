//! Stage 1, copies of whole TLS records, in pieces. Called by `records`; pure.
//!
//! glibc copies 2,112 bytes and more with `rep movsb` where the CPU claims to be good at it. Zen 3 and 4 are not when the
//! target lies up to 64 bytes beyond the source within its page, as a record behind its header of five bytes does: 16 KiB then
//! take 6,400 ns and not 220 (glibc bug 30994, glibc 2.36). Shorter copies are made another way.

use std::io::{self, IoSlice, Read, Write};

use tokio::io::ReadBuf;

/// Bytes of one copy.
const PIECE_LEN: usize = 2 << 10;

/// Appends `from` to `to`.
pub(super) fn append(to: &mut Vec<u8>, from: &[u8]) {
    to.reserve(from.len());
    for piece in from.chunks(PIECE_LEN) {
        to.extend_from_slice(piece);
    }
}

/// Appends `from` to `to`, which has room for it.
pub(super) fn put(to: &mut ReadBuf<'_>, from: &[u8]) {
    for piece in from.chunks(PIECE_LEN) {
        to.put_slice(piece);
    }
}

/// Slices of `N` pieces at most that follow each other: what a writer gets that copies slice by slice. The pieces of two
/// parts of `len` bytes in all are no more than `len / 2 KiB + 2`.
pub(super) fn slices<'a, const N: usize>(first: &'a [u8], second: &'a [u8]) -> [IoSlice<'a>; N] {
    let mut slices = [IoSlice::new(&[]); N];
    for (slice, piece) in slices.iter_mut().zip(first.chunks(PIECE_LEN).chain(second.chunks(PIECE_LEN))) {
        *slice = IoSlice::new(piece);
    }
    slices
}

/// Appends what is written.
pub(super) struct Sink<'a>(pub(super) &'a mut Vec<u8>);

impl Write for Sink<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        append(self.0, buf);
        Ok(buf.len())
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let before = self.0.len();
        for buf in bufs {
            append(self.0, buf);
        }
        Ok(self.0.len() - before)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives bytes to be read.
pub(super) struct Source<'a>(pub(super) &'a [u8]);

impl Read for Source<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut taken = 0;
        for piece in buf.chunks_mut(PIECE_LEN) {
            taken += self.0.read(piece)?;
        }
        Ok(taken)
    }
}
