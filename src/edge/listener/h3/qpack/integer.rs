//! Stage 1, HTTP/3: prefix integers of QPACK (RFC 9204 section 4.1.1, RFC 7541 section 5.1).

use bytes::{Buf, BufMut};

/// Takes an integer with a prefix of `bits` (1 to 8) off the front. `None` if it is cut or larger than QUIC's integers.
///
/// Bits above the prefix are ignored.
pub fn take(input: &mut &[u8], bits: u32) -> Option<u64> {
    let mask = u8::MAX >> (8 - bits);
    let prefix = *input.first()? & mask;
    input.advance(1);
    if prefix < mask {
        return Some(u64::from(prefix));
    }
    let mut value = u64::from(mask);
    // 62 bits in steps of 7: more bytes than 9 are never needed, and would be a way to make us loop.
    for shift in (0..63).step_by(7) {
        let byte = *input.first()?;
        input.advance(1);
        value = value.checked_add(u64::from(byte & 0x7f) << shift)?;
        if value >> 62 != 0 {
            return None;
        }
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Appends `value` with a prefix of `bits`; `flags` are the bits above the prefix.
pub fn put(out: &mut impl BufMut, bits: u32, flags: u8, value: u64) {
    let mask = u8::MAX >> (8 - bits);
    if value < u64::from(mask) {
        out.put_u8(flags | (value as u8 & mask));
        return;
    }
    out.put_u8(flags | mask);
    let mut rest = value - u64::from(mask);
    while rest >= 0x80 {
        out.put_u8(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_rfc_decode() {
        assert_eq!(take(&mut &[0b1110_1010][..], 5), Some(10));
        assert_eq!(take(&mut &[0b0001_1111, 0b1001_1010, 0b0000_1010][..], 5), Some(1337));
        assert_eq!(take(&mut &[42][..], 8), Some(42));
    }

    #[test]
    fn overlong_and_overflowing_integers_are_refused() {
        assert_eq!(take(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..], 8), None);
        assert_eq!(take(&mut &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00][..], 8), None);
        assert_eq!(take(&mut &[0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f][..], 5), None);
        assert_eq!(take(&mut &[0x1f, 0x80][..], 5), None);
        assert_eq!(take(&mut &[][..], 5), None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bits in 1u32..=8, value in 0..(1u64 << 61)) {
            let mut out = Vec::new();
            put(&mut out, bits, 0, value);
            let mut input = &out[..];
            prop_assert_eq!(take(&mut input, bits), Some(value));
            prop_assert!(input.is_empty());
        }
    }
}
