//! Varints (RFC 9000 section 16), length-prefixed bytes and type-length-value items: what every tunnel frame is made of.
//!
//! Decoding never trusts a length: everything is checked against what is there.

use bytes::{Buf, BufMut, Bytes};

/// The bytes do not follow the tunnel's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A value ends before its length says so.
    #[error("truncated value")]
    Truncated,
    /// A value is out of its range.
    #[error("{0} out of range")]
    Range(&'static str),
    /// A type that this side does not know and must not ignore (odd).
    #[error("unknown type {0:#x} that must be understood")]
    UnknownType(u64),
    /// A length above the limit.
    #[error("{what} of {length} bytes, more than {max}")]
    TooLong {
        /// What was too long.
        what: &'static str,
        /// Its announced length.
        length: u64,
        /// The limit.
        max: u64,
    },
    /// A frame that may not come here.
    #[error("unexpected {0}")]
    Unexpected(&'static str),
}

/// Largest value of a varint.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// Bytes that `value` takes as a varint.
#[inline]
pub const fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Writes a varint. Values above [`VARINT_MAX`] are cut to it: no field of the protocol can hold them.
#[inline]
pub fn put_varint(buf: &mut impl BufMut, value: u64) {
    match varint_len(value) {
        1 => buf.put_u8((value & 0x3f) as u8),
        2 => buf.put_u16(0x4000 | (value & 0x3fff) as u16),
        4 => buf.put_u32(0x8000_0000 | (value & 0x3fff_ffff) as u32),
        _ => buf.put_u64(0xc000_0000_0000_0000 | value.min(VARINT_MAX)),
    }
}

/// Reads a varint, or `None` if it is not there whole.
#[inline]
pub fn try_varint(buf: &mut impl Buf) -> Option<u64> {
    let first = *buf.chunk().first()?;
    let length = 1usize << (first >> 6);
    if buf.remaining() < length {
        return None;
    }
    Some(match length {
        1 => u64::from(buf.get_u8()),
        2 => u64::from(buf.get_u16() & 0x3fff),
        4 => u64::from(buf.get_u32() & 0x3fff_ffff),
        _ => buf.get_u64() & VARINT_MAX,
    })
}

/// Reads a varint that must be there.
#[inline]
pub fn get_varint(buf: &mut impl Buf) -> Result<u64, WireError> {
    try_varint(buf).ok_or(WireError::Truncated)
}

/// Writes a length and the bytes.
#[inline]
pub fn put_bytes(buf: &mut impl BufMut, bytes: &[u8]) {
    put_varint(buf, bytes.len() as u64);
    buf.put_slice(bytes);
}

/// Reads a length and that many bytes, sharing the buffer.
#[inline]
pub fn get_bytes(buf: &mut Bytes) -> Result<Bytes, WireError> {
    let length = get_varint(buf)?;
    take(buf, length)
}

/// Splits off `length` bytes, sharing the buffer.
#[inline]
pub fn take(buf: &mut Bytes, length: u64) -> Result<Bytes, WireError> {
    match usize::try_from(length) {
        Ok(length) if length <= buf.len() => Ok(buf.split_to(length)),
        _ => Err(WireError::Truncated),
    }
}

/// Writes one item: type, length, value.
pub fn put_item(buf: &mut impl BufMut, kind: u64, value: &[u8]) {
    put_varint(buf, kind);
    put_bytes(buf, value);
}

/// Writes one item whose value is a varint.
pub fn put_varint_item(buf: &mut impl BufMut, kind: u64, value: u64) {
    put_varint(buf, kind);
    put_varint(buf, varint_len(value) as u64);
    put_varint(buf, value);
}

/// Reads one item, or `None` at the end of `buf`.
pub fn get_item(buf: &mut Bytes) -> Result<Option<(u64, Bytes)>, WireError> {
    if buf.is_empty() {
        return Ok(None);
    }
    let kind = get_varint(buf)?;
    Ok(Some((kind, get_bytes(buf)?)))
}

/// Unknown even types are ignored, unknown odd types are an error.
pub fn unknown(kind: u64) -> Result<(), WireError> {
    if kind.is_multiple_of(2) { Ok(()) } else { Err(WireError::UnknownType(kind)) }
}

/// A UTF-8 string of at most 1,024 bytes.
pub fn text(value: &Bytes) -> Result<String, WireError> {
    if value.len() > 1_024 {
        return Err(WireError::TooLong { what: "text", length: value.len() as u64, max: 1_024 });
    }
    String::from_utf8(value.to_vec()).map_err(|_| WireError::Range("text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_varint_reads_back_as_written(value in 0..=VARINT_MAX) {
            let mut buf = Vec::new();
            put_varint(&mut buf, value);
            prop_assert_eq!(buf.len(), varint_len(value));
            let mut bytes = Bytes::from(buf);
            prop_assert_eq!(get_varint(&mut bytes), Ok(value));
            prop_assert!(bytes.is_empty());
        }

        #[test]
        fn any_bytes_give_items_or_an_error(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = Bytes::from(input);
            while let Ok(Some(_)) = get_item(&mut bytes) {}
        }
    }

    #[test]
    fn a_length_beyond_the_buffer_is_truncated() {
        let mut bytes = Bytes::from_static(&[0xff; 8]);
        assert_eq!(get_bytes(&mut bytes), Err(WireError::Truncated));
    }
}
