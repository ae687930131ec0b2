//! Stage 1, HTTP/3: QUIC's variable-length integers (RFC 9000 section 16), as frames and settings use them.

use bytes::{Buf, BufMut};

/// The largest value: 2^62 - 1.
pub const MAX: u64 = (1 << 62) - 1;

/// Bytes of the integer whose first byte is `first`: 1, 2, 4 or 8.
pub const fn length(first: u8) -> usize {
    1 << (first >> 6)
}

/// Takes one integer off the front of `input`; `None`, and nothing taken, if it is cut.
pub fn take(input: &mut impl Buf) -> Option<u64> {
    let first = *input.chunk().first()?;
    let length = length(first);
    if input.remaining() < length {
        return None;
    }
    let value = input.get_uint(length);
    Some(value & (u64::MAX >> (66 - 8 * length as u32)))
}

/// Appends `value` in its shortest form. Values over [`MAX`] cannot be written and are cut to it.
pub fn put(out: &mut impl BufMut, value: u64) {
    let value = value.min(MAX);
    match value {
        0..=0x3f => out.put_uint(value, 1),
        0x40..=0x3fff => out.put_uint(value | 0x4000, 2),
        0x4000..=0x3fff_ffff => out.put_uint(value | 0x8000_0000, 4),
        _ => out.put_u64(value | 0xc000_0000_0000_0000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_rfc_decode() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            let mut input = bytes;
            assert_eq!(take(&mut input), Some(value));
            assert!(input.is_empty());
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in 0..=MAX, cut in 0usize..8) {
            let mut out = Vec::new();
            put(&mut out, value);
            prop_assert_eq!(take(&mut &out[..]), Some(value));
            let cut = cut.min(out.len() - 1);
            prop_assert_eq!(take(&mut &out[..cut]), None);
        }
    }
}
