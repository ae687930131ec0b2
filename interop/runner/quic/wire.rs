//! The forms of QUIC on the wire: variable-length integers, headers (RFC 9000 section 17), frames (section 19).
//!
//! Called by the trace. Pure; any bytes give something or nothing, never a panic.

/// Reads bytes from the front.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// A big-endian number of `length` bytes, at most 8.
    pub fn number(&mut self, length: usize) -> Option<u64> {
        Some(self.take(length)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// RFC 9000 section 16.
    pub fn varint(&mut self) -> Option<u64> {
        let length = 1 << (self.0.first()? >> 6);
        Some(self.number(length)? & (u64::MAX >> (66 - 8 * length)))
    }

    /// Bytes behind a length of `size` bytes.
    pub fn vector(&mut self, size: usize) -> Option<&'a [u8]> {
        let length = self.number(size)?;
        self.take(usize::try_from(length).ok()?)
    }

    /// Bytes behind a variable-length integer.
    pub fn counted(&mut self) -> Option<&'a [u8]> {
        let length = self.varint()?;
        self.take(usize::try_from(length).ok()?)
    }
}

/// The kind of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// RFC 9000 section 17.2.2
    Initial,
    /// Section 17.2.3
    ZeroRtt,
    /// Section 17.2.4
    Handshake,
    /// Section 17.2.5
    Retry,
    /// Section 17.2.1
    VersionNegotiation,
    /// Section 17.3.1
    OneRtt,
}

/// A long header, and where its packet lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Long<'a> {
    /// The kind.
    pub kind: Kind,
    /// Of the receiver.
    pub dcid: &'a [u8],
    /// Of the sender.
    pub scid: &'a [u8],
    /// Of an Initial or Retry.
    pub token: &'a [u8],
    /// Offset of the protected packet number.
    pub number_at: usize,
    /// The packet's whole length.
    pub length: usize,
}

impl<'a> Long<'a> {
    /// Reads the packet that begins `bytes`; nothing if it is no long header of QUIC version 1.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let first = reader.byte().filter(|first| first & 0x80 != 0)?;
        let version = reader.number(4)?;
        let (dcid, scid) = (reader.vector(1)?, reader.vector(1)?);
        let whole = |kind, token| Self { kind, dcid, scid, token, number_at: 0, length: bytes.len() };
        let kind = match (version, first >> 4 & 3) {
            (0, _) => return Some(whole(Kind::VersionNegotiation, &[])),
            // The token ends where the integrity tag begins.
            (1, 3) => return Some(whole(Kind::Retry, reader.0.get(..reader.0.len().checked_sub(16)?)?)),
            (1, 0) => Kind::Initial,
            (1, 1) => Kind::ZeroRtt,
            (1, 2) => Kind::Handshake,
            _ => return None,
        };
        let token = if kind == Kind::Initial { reader.counted()? } else { &[] };
        let rest = usize::try_from(reader.varint()?).ok()?;
        let number_at = bytes.len() - reader.0.len();
        reader.take(rest)?;
        Some(Self { kind, dcid, scid, token, number_at, length: number_at + rest })
    }
}

/// A frame, as far as anything is judged by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Whether it counts ECN marks.
    Ack(bool),
    /// Bytes of TLS.
    Crypto { offset: u64, data: Vec<u8> },
    /// Another connection id of the sender.
    NewConnectionId(Vec<u8>),
    /// Asks whether a path works.
    PathChallenge([u8; 8]),
    /// Answers that.
    PathResponse([u8; 8]),
    /// The end, with its code and whether it comes from the application.
    Close { code: u64, application: bool },
    /// Bytes of a stream.
    Stream { id: u64, length: usize },
    /// Any other, by its type.
    Other(u64),
}

impl Frame {
    /// A word for people.
    pub fn word(&self) -> String {
        match self {
            Self::Ack(ecn) => if *ecn { "ACK+ECN" } else { "ACK" }.to_owned(),
            Self::Crypto { offset, data } => format!("CRYPTO {offset}+{}", data.len()),
            Self::NewConnectionId(_) => "NEW_CONNECTION_ID".to_owned(),
            Self::PathChallenge(_) => "PATH_CHALLENGE".to_owned(),
            Self::PathResponse(_) => "PATH_RESPONSE".to_owned(),
            Self::Close { code, .. } => format!("CLOSE 0x{code:x}"),
            Self::Stream { id, length } => format!("STREAM {id}: {length}"),
            Self::Other(kind) => format!("0x{kind:x}"),
        }
    }
}

/// All frames of a packet; nothing if one cannot be read.
pub fn frames(payload: &[u8]) -> Option<Vec<Frame>> {
    let mut reader = Reader(payload);
    let mut frames = Vec::new();
    while !reader.0.is_empty() {
        let kind = reader.varint()?;
        // Padding is not worth a frame.
        if kind != 0 {
            frames.push(frame(kind, &mut reader)?);
        }
    }
    Some(frames)
}

fn frame(kind: u64, reader: &mut Reader<'_>) -> Option<Frame> {
    // Frames that consist of so many integers.
    let mut skip = |count: usize| (0..count).try_for_each(|_| reader.varint().map(drop)).map(|()| Frame::Other(kind));
    match kind {
        0x01 | 0x1e | 0x1f => skip(0),
        0x10 | 0x12..=0x14 | 0x16 | 0x17 | 0x19 => skip(1),
        0x05 | 0x11 | 0x15 => skip(2),
        0x04 => skip(3),
        // ACK_FREQUENCY of its draft.
        0xaf => skip(4),
        0x02 | 0x03 => ack(kind == 0x03, reader),
        0x06 => Some(Frame::Crypto { offset: reader.varint()?, data: reader.counted()?.to_vec() }),
        0x07 => reader.counted().map(|_| Frame::Other(kind)),
        0x08..=0x0f => stream(kind, reader),
        0x18 => {
            skip(2)?;
            let id = reader.vector(1)?.to_vec();
            reader.take(16).map(|_| Frame::NewConnectionId(id))
        }
        0x1a => Some(Frame::PathChallenge(reader.take(8)?.try_into().ok()?)),
        0x1b => Some(Frame::PathResponse(reader.take(8)?.try_into().ok()?)),
        0x1c | 0x1d => {
            let code = reader.varint()?;
            if kind == 0x1c {
                reader.varint()?;
            }
            reader.counted().map(|_| Frame::Close { code, application: kind == 0x1d })
        }
        0x30 => reader.take(reader.0.len()).map(|_| Frame::Other(kind)),
        0x31 => reader.counted().map(|_| Frame::Other(kind)),
        _ => None,
    }
}

fn ack(ecn: bool, reader: &mut Reader<'_>) -> Option<Frame> {
    let (_largest, _delay) = (reader.varint()?, reader.varint()?);
    let ranges = reader.varint()?;
    for _ in 0..ranges.checked_mul(2)?.checked_add(1 + if ecn { 3 } else { 0 })? {
        reader.varint()?;
    }
    Some(Frame::Ack(ecn))
}

fn stream(kind: u64, reader: &mut Reader<'_>) -> Option<Frame> {
    let id = reader.varint()?;
    if kind & 4 != 0 {
        reader.varint()?;
    }
    let data = if kind & 2 != 0 { reader.counted()? } else { reader.take(reader.0.len())? };
    Some(Frame::Stream { id, length: data.len() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_those_of_rfc_9000_appendix_a_1() {
        let read = |bytes: &[u8]| Reader(bytes).varint();
        assert_eq!(read(&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]), Some(151_288_809_941_952_652));
        assert_eq!(read(&[0x9d, 0x7f, 0x3e, 0x7d]), Some(494_878_333));
        assert_eq!(read(&[0x7b, 0xbd]), Some(15_293));
        assert_eq!(read(&[0x25]), Some(37));
    }

    #[test]
    fn frames_are_told_apart() {
        let payload = [
            &[0, 0, 1][..],
            &[3, 5, 0, 0, 5, 9, 0, 0],
            &[0x1a, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x0a, 4, 2, 7, 7],
            &[0x1d, 0, 0],
        ]
        .concat();
        let expected = [
            Frame::Other(1),
            Frame::Ack(true),
            Frame::PathChallenge([1, 2, 3, 4, 5, 6, 7, 8]),
            Frame::Stream { id: 4, length: 2 },
            Frame::Close { code: 0, application: true },
        ];
        assert_eq!(frames(&payload).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = frames(&bytes);
            let _ = Long::read(&bytes);
        }
    }
}
