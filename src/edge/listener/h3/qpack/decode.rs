//! Stage 1, HTTP/3: decoding of field sections (RFC 9204 section 4.5) line by line, against limits, while they are read.

use bytes::{Bytes, BytesMut};

use super::super::code::{Code, Error};
pub use super::table::{Name as StaticName, Pseudo};
use super::{huffman, integer, table};

/// What a field section may cost (RFC 9114 section 4.2.2).
#[derive(Clone, Copy, Debug)]
pub struct SectionLimits {
    /// Sum over the lines of name length + value length + 32.
    pub bytes_max: usize,
}

/// Why a section was not decoded to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Over the limits. Without a dynamic table the rest of the section may be left unread.
    TooLarge,
    /// It cannot be decoded: a connection error.
    Broken(Error),
}

const fn broken(why: &'static str) -> Failure {
    Failure::Broken(Error::Connection(Code::QPACK_DECOMPRESSION_FAILED, why))
}

/// A field name as it came.
#[derive(Clone, Debug)]
pub enum Name {
    /// By its index in the static table.
    Static(&'static StaticName),
    /// Spelt out; not validated.
    Literal(Bytes),
}

/// One field line; the value is not validated and shares memory with the other lines of its section.
#[derive(Clone, Debug)]
pub struct Line {
    /// The name.
    pub name: Name,
    /// The value.
    pub value: Bytes,
}

/// The lines of one field section.
pub struct Section {
    encoded: Bytes,
    at: usize,
    left: usize,
    /// Where strings are decoded to; all of a section share one allocation.
    plain: BytesMut,
}

impl Section {
    /// Reads the prefix: no reference to a dynamic table, which we do not have, may be announced.
    pub fn new(encoded: Bytes, limits: SectionLimits) -> Result<Self, Failure> {
        let mut input: &[u8] = &encoded;
        let inserts = integer::take(&mut input, 8).ok_or(broken("field section prefix is cut"))?;
        let negative = input.first().is_some_and(|byte| byte & 0x80 != 0);
        integer::take(&mut input, 7).ok_or(broken("field section prefix is cut"))?;
        if inserts != 0 || negative {
            return Err(broken("field section needs a dynamic table"));
        }
        let at = encoded.len() - input.len();
        Ok(Self { encoded, at, left: limits.bytes_max, plain: BytesMut::new() })
    }

    /// The next line, or `None` at the end.
    pub fn next_line(&mut self) -> Result<Option<Line>, Failure> {
        let Some(first) = self.encoded.get(self.at).copied() else { return Ok(None) };
        let line = match first {
            0x80.. => self.indexed(first)?,
            0x40..=0x7f => {
                if first & 0x10 == 0 {
                    return Err(broken("reference to the dynamic table"));
                }
                let (name, _) = entry(self.integer(4)?)?;
                Line { name: Name::Static(name), value: self.string(7)? }
            }
            0x20..=0x3f => {
                let name = self.string(3)?;
                Line { name: Name::Literal(name), value: self.string(7)? }
            }
            _ => return Err(broken("reference to the dynamic table")),
        };
        self.charge(&line)?;
        Ok(Some(line))
    }

    fn indexed(&mut self, first: u8) -> Result<Line, Failure> {
        if first & 0x40 == 0 {
            return Err(broken("reference to the dynamic table"));
        }
        let (name, value) = entry(self.integer(6)?)?;
        Ok(Line { name: Name::Static(name), value: Bytes::from_static(value.as_bytes()) })
    }

    /// Counts a line against the limit.
    fn charge(&mut self, line: &Line) -> Result<(), Failure> {
        let name = match &line.name {
            Name::Static(StaticName::Field(name)) => name.as_str().len(),
            Name::Static(StaticName::Pseudo(pseudo)) => pseudo.name().len(),
            Name::Literal(name) => name.len(),
        };
        let size = name.saturating_add(line.value.len()).saturating_add(32);
        self.left = self.left.checked_sub(size).ok_or(Failure::TooLarge)?;
        Ok(())
    }

    fn integer(&mut self, bits: u32) -> Result<u64, Failure> {
        let mut input = self.encoded.get(self.at..).unwrap_or_default();
        let value = integer::take(&mut input, bits).ok_or(broken("integer is cut or too large"))?;
        self.at = self.encoded.len() - input.len();
        Ok(value)
    }

    /// A string whose length has `bits` of prefix; the bit above tells Huffman code.
    ///
    /// Plain strings are copied too: a head may live as long as a WebSocket, and must not pin the datagrams it came in.
    fn string(&mut self, bits: u32) -> Result<Bytes, Failure> {
        let coded = self.encoded.get(self.at).is_some_and(|byte| byte & (1 << bits) != 0);
        let length = usize::try_from(self.integer(bits)?).map_err(|_| Failure::TooLarge)?;
        let rest = self.encoded.get(self.at..).unwrap_or_default();
        let string = rest.get(..length).ok_or(broken("string is cut"))?;
        self.at += length;
        if self.plain.capacity() == 0 {
            // Once per section: room for all that is left of it.
            self.plain.reserve(huffman::decoded_max(rest.len()));
        }
        if coded {
            huffman::decode(string, &mut self.plain).map_err(|_| broken("invalid Huffman code"))?;
        } else {
            self.plain.extend_from_slice(string);
        }
        Ok(self.plain.split().freeze())
    }
}

fn entry(index: u64) -> Result<(&'static StaticName, &'static str), Failure> {
    let entry = usize::try_from(index).ok().and_then(|index| table::TABLE.get(index));
    entry.map(|(name, value)| (name, *value)).ok_or(broken("no such entry in the static table"))
}

impl Pseudo {
    /// The name as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authority => ":authority",
            Self::Method => ":method",
            Self::Path => ":path",
            Self::Protocol => ":protocol",
            Self::Scheme => ":scheme",
            Self::Status => ":status",
        }
    }

    /// The pseudo-field with this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Authority, Self::Method, Self::Path, Self::Protocol, Self::Scheme, Self::Status]
            .into_iter()
            .find(|pseudo| pseudo.name().as_bytes() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::huffman::tests as code;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn lines(bytes: &[u8], max: usize) -> Result<Vec<(String, Bytes)>, Failure> {
        let mut section = Section::new(Bytes::copy_from_slice(bytes), SectionLimits { bytes_max: max })?;
        let mut lines = Vec::new();
        while let Some(line) = section.next_line()? {
            let name = match line.name {
                Name::Static(StaticName::Field(name)) => name.to_string(),
                Name::Static(StaticName::Pseudo(pseudo)) => pseudo.name().to_owned(),
                Name::Literal(name) => String::from_utf8_lossy(&name).into_owned(),
            };
            lines.push((name, line.value));
        }
        Ok(lines)
    }

    #[test]
    fn the_example_of_the_rfc_decodes() {
        // RFC 9204 appendix B.1.
        let bytes = [&[0, 0, 0x51, 0x0b][..], b"/index.html"].concat();
        assert_eq!(lines(&bytes, 1000).unwrap(), [(":path".to_owned(), Bytes::from("/index.html"))]);
    }

    #[test]
    fn every_form_of_a_line_decodes() {
        let name = code::encode(b"x-name");
        let bytes = [
            &[0, 0, 0xc0 | 17, 0x50, 1, b'h', 0x23, b'a', b'-', b'b', 2, b'v', b'w', 0x28 | name.len() as u8][..],
            &name,
            &[0x80 | code::encode(b"value").len() as u8],
            &code::encode(b"value"),
            &[0xff, 98 - 63],
        ]
        .concat();
        let expected = [
            (":method", "GET"),
            (":authority", "h"),
            ("a-b", "vw"),
            ("x-name", "value"),
            ("x-frame-options", "sameorigin"),
        ];
        let expected: Vec<_> = expected.map(|(n, v)| (n.to_owned(), Bytes::from(v))).into();
        assert_eq!(lines(&bytes, 1000).unwrap(), expected);
    }

    #[test]
    fn whatever_needs_a_dynamic_table_breaks_the_connection() {
        let cases: [&[u8]; 9] = [
            &[2, 0],                   // required insert count
            &[0, 0x80],                // negative base
            &[0, 0, 0x80],             // indexed, dynamic
            &[0, 0, 0x40, 0],          // literal with a dynamic name
            &[0, 0, 0x10],             // indexed after base
            &[0, 0, 0x00, 0],          // literal with a name after base
            &[0, 0, 0xff, 99 - 63],    // beyond the static table
            &[0, 0, 0x51, 0x0b, b'/'], // cut
            &[0],                      // cut prefix
        ];
        for bytes in cases {
            assert!(matches!(lines(bytes, 1000), Err(Failure::Broken(Error::Connection(..)))), "{bytes:x?}");
        }
    }

    #[test]
    fn the_limit_counts_32_bytes_a_line_and_stops_at_once() {
        let get = 7 + 3 + 32;
        assert!(lines(&[0, 0, 0xd1], get).is_ok());
        assert_eq!(lines(&[0, 0, 0xd1], get - 1), Err(Failure::TooLarge));
        assert_eq!(lines(&[0, 0, 0xd1, 0x80], get - 1), Err(Failure::TooLarge));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic_nor_exceed_the_limit(bytes in vec(any::<u8>(), 0..300), max in 0usize..2000) {
            if let Ok(lines) = lines(&[&[0, 0], &bytes[..]].concat(), max) {
                let size: usize = lines.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
                prop_assert!(size <= max);
            }
        }
    }
}
