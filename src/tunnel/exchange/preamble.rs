//! The first bytes of an exchange's stream (sans-IO).

use bytes::{Buf, BytesMut};

use crate::tunnel::wire::{WireError, put_varint, try_varint};

const OPEN: u64 = 0x01;
const RESUME: u64 = 0x03;
const RESUMED: u64 = 0x05;

/// Longest preamble: five varints.
pub const PREAMBLE_MAX: usize = 40;

/// How a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preamble {
    /// A new exchange.
    Open {
        /// Counter part of its id.
        counter: u64,
        /// How many bytes the sender of this takes.
        window: u64,
    },
    /// A known exchange goes on here.
    Resume {
        /// Counter part of its id.
        counter: u64,
        /// Rises with each attachment.
        generation: u64,
        /// Bytes the sender of this has received.
        received: u64,
        /// How many more it takes: credit announced on the lost link may never have arrived.
        window: u64,
    },
    /// The answer to RESUME.
    Resumed {
        /// The generation answered.
        generation: u64,
        /// Bytes the sender of this has received.
        received: u64,
        /// How many more it takes.
        window: u64,
    },
}

impl Preamble {
    /// Appends the preamble.
    pub fn encode(self, out: &mut BytesMut) {
        let mut put = |values: &[u64]| values.iter().for_each(|value| put_varint(out, *value));
        match self {
            Self::Open { counter, window } => put(&[OPEN, counter, window]),
            Self::Resume { counter, generation, received, window } => {
                put(&[RESUME, counter, generation, received, window])
            }
            Self::Resumed { generation, received, window } => put(&[RESUMED, generation, received, window]),
        }
    }

    /// Takes a preamble off the front of `buf`, or `None` if it is not there whole; `buf` is unchanged then.
    pub fn try_decode<B: Buf + Clone>(buf: &mut B) -> Result<Option<Self>, WireError> {
        let mut at = buf.clone();
        let decoded = Self::decode(&mut at)?;
        if decoded.is_some() {
            *buf = at;
        }
        Ok(decoded)
    }

    fn decode(buf: &mut impl Buf) -> Result<Option<Self>, WireError> {
        let Some(kind) = try_varint(buf) else { return Ok(None) };
        let mut next = || try_varint(buf);
        Ok(match kind {
            OPEN => match (next(), next()) {
                (Some(counter), Some(window)) => Some(Self::Open { counter, window }),
                _ => None,
            },
            RESUME => match (next(), next(), next(), next()) {
                (Some(counter), Some(generation), Some(received), Some(window)) => {
                    Some(Self::Resume { counter, generation, received, window })
                }
                _ => None,
            },
            RESUMED => match (next(), next(), next()) {
                (Some(generation), Some(received), Some(window)) => {
                    Some(Self::Resumed { generation, received, window })
                }
                _ => None,
            },
            other => return Err(WireError::UnknownType(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_preamble_reads_back_from_any_prefix_that_holds_it(a in 0..=1u64 << 61, b in 0..=1u64 << 61, c in 0..=1u64 << 61, which in 0..3) {
            let preamble = match which {
                0 => Preamble::Open { counter: a, window: b },
                1 => Preamble::Resume { counter: a, generation: b, received: c, window: a },
                _ => Preamble::Resumed { generation: b, received: c, window: a },
            };
            let mut out = BytesMut::new();
            preamble.encode(&mut out);
            prop_assert!(out.len() <= PREAMBLE_MAX);
            for cut in 0..out.len() {
                prop_assert_eq!(Preamble::try_decode(&mut &out[..cut]), Ok(None));
            }
            out.extend_from_slice(b"rest");
            let mut bytes = out.freeze();
            prop_assert_eq!(Preamble::try_decode(&mut bytes), Ok(Some(preamble)));
            prop_assert_eq!(bytes, Bytes::from_static(b"rest"));
        }
    }
}
