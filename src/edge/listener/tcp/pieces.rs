//! Stage 1, copies of whole TLS records, in pieces. Called by `records`; pure.
//!
//! glibc (2.36) copies 2,112 bytes and more with `rep movsb` where the CPU claims to be good at it. Zen 3 and 4 claim so and are
//! not when the target begins 1 to 31 bytes after the source within a page, as a record after its header of five bytes
//! does: 16 KiB then take 6,400 ns and not 220 (measured on Zen 3; glibc bug 30994). Shorter copies are made another way.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_in_two_parts_fits_into_ten_slices_and_none_is_long() {
        let record: Vec<u8> = (0..16_384).map(|at: u32| at.to_le_bytes()[0]).collect();
        for at in (0..=record.len()).step_by(7).chain([2048, 2049, 16_383, 16_384]) {
            let (first, second) = record.split_at(at);
            let slices = slices::<10>(first, second);
            assert!(slices.iter().all(|slice| slice.len() <= PIECE_LEN));
            assert!(slices.iter().flat_map(|slice| slice.iter()).eq(record.iter()), "cut at {at}");
        }
    }

    #[test]
    fn what_is_copied_in_pieces_is_whole() {
        let data: Vec<u8> = (0..70_001).map(|at: u32| at.to_le_bytes()[0]).collect();
        let mut sunk = b"before".to_vec();
        let (first, second) = data.split_at(5000);
        let slices = [IoSlice::new(first), IoSlice::new(second)];
        assert_eq!(Sink(&mut sunk).write_vectored(&slices).unwrap(), data.len());
        assert!(sunk.strip_prefix(b"before") == Some(&data[..]));
        let mut read = vec![0; data.len() + 1];
        assert_eq!(Source(&data).read(&mut read).unwrap(), data.len());
        assert!(read.strip_suffix(&[0]) == Some(&data[..]));
        let mut room = vec![0; data.len()];
        let mut buf = ReadBuf::new(&mut room);
        put(&mut buf, &data);
        assert!(buf.filled() == data);
    }
}
