//! Stage 1, HTTP/3: decoding of the Huffman code of RFC 7541 Appendix B.
//!
//! The code is canonical: code lengths alone define it. One table lookup decodes codes of up to 8 bits, which are nearly
//! all that occur; longer ones are found by comparing with the first code of each length. There is no encoder: response
//! heads fit one packet either way, and literals cost no CPU.

use bytes::{BufMut, BytesMut};

/// Code length of each symbol; the last is EOS.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, //
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, //
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, //
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, //
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const LENGTH_MAX: usize = 30;
const EOS: u16 = 256;

/// Everything the decoder looks up, derived from [`LENGTHS`] when the program is compiled.
struct Tables {
    /// By the next 8 bits: symbol and length, or length 0 where the code is longer.
    short: [(u8, u8); 256],
    /// First code of each length.
    first: [u32; LENGTH_MAX + 1],
    /// How many codes of each length.
    count: [u32; LENGTH_MAX + 1],
    /// Where the symbols of each length begin in `symbols`.
    start: [usize; LENGTH_MAX + 1],
    /// Symbols ordered by length, then value.
    symbols: [u16; 257],
}

static TABLES: Tables = tables();

#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler: a wrong index does not build")]
const fn tables() -> Tables {
    let mut t = Tables {
        short: [(0, 0); 256],
        first: [0; LENGTH_MAX + 1],
        count: [0; LENGTH_MAX + 1],
        start: [0; LENGTH_MAX + 1],
        symbols: [0; 257],
    };
    let (mut code, mut filled, mut length) = (0u32, 0usize, 1usize);
    while length <= LENGTH_MAX {
        code <<= 1;
        t.first[length] = code;
        t.start[length] = filled;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                t.symbols[filled] = symbol as u16;
                if length <= 8 {
                    let mut slot = (code as usize) << (8 - length);
                    let end = (code as usize + 1) << (8 - length);
                    while slot < end {
                        t.short[slot] = (symbol as u8, length as u8);
                        slot += 1;
                    }
                }
                filled += 1;
                code += 1;
                t.count[length] += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    t
}

/// The string is not Huffman code: EOS within, or padding that is too long or not of ones (RFC 7541 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// The most bytes that `encoded` bytes can become: the shortest code has 5 bits.
pub fn decoded_max(encoded: usize) -> usize {
    encoded.saturating_mul(8) / 5
}

/// Appends the decoded string to `out`.
pub fn decode(mut input: &[u8], out: &mut BytesMut) -> Result<(), Invalid> {
    out.reserve(decoded_max(input.len()));
    // Bits not yet decoded, left-aligned.
    let (mut window, mut have) = (0u64, 0u32);
    loop {
        while have <= 56 {
            let Some((byte, rest)) = input.split_first() else { break };
            window |= u64::from(*byte) << (56 - have);
            have += 8;
            input = rest;
        }
        // Past the end of input the window reads as ones: padding is then a prefix of EOS, never a symbol.
        let padded = if have < 64 { window | (u64::MAX >> have) } else { window };
        let (symbol, length) = next(padded)?;
        if length > have {
            // Nothing decodes within what is left: it must be padding.
            let all_ones = have == 0 || window >> (64 - have) == (1 << have) - 1;
            return if have < 8 && all_ones { Ok(()) } else { Err(Invalid) };
        }
        if symbol == EOS {
            return Err(Invalid);
        }
        out.put_u8(symbol as u8);
        window <<= length;
        have -= length;
    }
}

/// The symbol at the front of the window and its code's length.
fn next(window: u64) -> Result<(u16, u32), Invalid> {
    let (symbol, length) = TABLES.short.get((window >> 56) as usize).copied().ok_or(Invalid)?;
    if length > 0 {
        return Ok((u16::from(symbol), u32::from(length)));
    }
    let codes = TABLES.first.iter().zip(&TABLES.count).zip(&TABLES.start).enumerate().skip(9);
    for (length, ((first, count), start)) in codes {
        let code = (window >> (64 - length)) as u32;
        let offset = code.wrapping_sub(*first);
        if offset < *count {
            let symbol = TABLES.symbols.get(start + offset as usize).copied().ok_or(Invalid)?;
            return Ok((symbol, length as u32));
        }
    }
    Err(Invalid)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code_of(symbol: u8) -> (u32, u32) {
        let length = LENGTHS[usize::from(symbol)] as usize;
        let at = TABLES.symbols.iter().position(|s| *s == u16::from(symbol)).unwrap();
        (TABLES.first[length] + (at - TABLES.start[length]) as u32, length as u32)
    }

    /// A plain encoder, for tests only.
    pub fn encode(plain: &[u8]) -> Vec<u8> {
        let mut bits: Vec<bool> = Vec::new();
        for symbol in plain {
            let (code, length) = code_of(*symbol);
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        while bits.len() % 8 != 0 {
            bits.push(true);
        }
        bits.chunks(8).map(|byte| byte.iter().fold(0, |acc, bit| acc << 1 | u8::from(*bit))).collect()
    }

    fn plain(encoded: &[u8]) -> Result<Vec<u8>, Invalid> {
        let mut out = BytesMut::new();
        decode(encoded, &mut out).map(|()| out.to_vec())
    }

    #[test]
    fn the_examples_of_the_rfc_decode() {
        let www = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(plain(&www).unwrap(), b"www.example.com");
        let date = [
            0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66, 0xe0, 0x82,
            0xa6, 0x2d, 0x1b, 0xff,
        ];
        assert_eq!(plain(&date).unwrap(), b"Mon, 21 Oct 2013 20:13:21 GMT");
        assert_eq!(code_of(b'\\'), (0x7fff0, 19));
        assert_eq!(code_of(249), (0xffffffe, 28));
        assert_eq!(code_of(22), (0x3ffffffe, 30));
    }

    #[test]
    fn padding_must_be_short_and_of_ones() {
        assert_eq!(plain(&[]).unwrap(), b"");
        assert_eq!(plain(&[0b0001_1111]).unwrap(), b"a");
        assert_eq!(plain(&[0b0001_1110]), Err(Invalid));
        assert_eq!(plain(&[0b0001_1000]), Err(Invalid));
        assert_eq!(plain(&[0xff]), Err(Invalid));
        assert_eq!(plain(&[0b0001_1111, 0xff]), Err(Invalid));
    }

    #[test]
    fn the_end_symbol_within_a_string_is_an_error() {
        assert_eq!(plain(&[0xff, 0xff, 0xff, 0xff]), Err(Invalid));
        assert_eq!(plain(&[0xff, 0xff, 0xff, 0xfc, 0x1f]), Err(Invalid));
    }

    proptest! {
        #[test]
        fn every_string_round_trips(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(plain(&encode(&text)).unwrap(), text);
        }

        #[test]
        fn what_decodes_is_the_only_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(text) = plain(&bytes) {
                prop_assert!(text.len() <= decoded_max(bytes.len()));
                prop_assert_eq!(encode(&text), bytes);
            }
        }
    }
}
