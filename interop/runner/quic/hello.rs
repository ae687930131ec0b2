//! The TLS handshake as far as it is judged: hellos, certificates, transport parameters (RFC 8446 section 4, RFC 9000
//! section 18).
//!
//! Called by the trace. Bytes of CRYPTO frames come in any order and are put together here.

use std::collections::BTreeMap;

use super::wire::Reader;

/// TLS extensions looked at.
const PRE_SHARED_KEY: u64 = 41;
const TRANSPORT_PARAMETERS: u64 = 57;
/// Transport parameters looked at (RFC 9000 section 18.2).
const INITIAL_MAX_STREAMS_BIDI: u64 = 8;
const PREFERRED_ADDRESS: u64 = 13;
/// What a HelloRetryRequest has instead of randomness (RFC 8446 section 4.1.3).
const RETRY_RANDOM: [u8; 4] = [0xcf, 0x21, 0xad, 0x74];

/// The bytes of one direction and level.
#[derive(Debug, Default)]
pub struct Stream(BTreeMap<u64, Vec<u8>>);

impl Stream {
    /// Adds a frame.
    pub fn add(&mut self, offset: u64, data: &[u8]) {
        let kept = self.0.entry(offset).or_default();
        if kept.len() < data.len() {
            *kept = data.to_vec();
        }
    }

    /// What has come without a gap from the start.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (offset, data) in &self.0 {
            let Ok(offset) = usize::try_from(*offset) else { break };
            let Some(known) = bytes.len().checked_sub(offset) else { break };
            bytes.extend_from_slice(data.get(known..).unwrap_or_default());
        }
        bytes
    }
}

/// The whole handshake messages in `bytes`: type and body.
pub fn messages(bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut reader = Reader(bytes);
    let mut messages = Vec::new();
    while let (Some(kind), Some(body)) = (reader.byte(), reader.vector(3)) {
        messages.push((kind, body));
    }
    messages
}

/// Types of messages (RFC 8446 section 4).
pub const CLIENT_HELLO: u8 = 1;
/// See [`CLIENT_HELLO`].
pub const SERVER_HELLO: u8 = 2;
/// See [`CLIENT_HELLO`].
pub const ENCRYPTED_EXTENSIONS: u8 = 8;
/// See [`CLIENT_HELLO`].
pub const CERTIFICATE: u8 = 11;

/// Of a ClientHello: its random and the suites it offers.
pub fn client_hello(body: &[u8]) -> Option<([u8; 32], Vec<u16>)> {
    let mut reader = Reader(body);
    reader.take(2)?;
    let random = reader.take(32)?.try_into().ok()?;
    reader.vector(1)?;
    let suites = reader.vector(2)?.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    // RFC 8701: values that mean nothing.
    Some((random, suites.filter(|suite| suite & 0x0f0f != 0x0a0a).collect()))
}

/// Of a ServerHello: the suite, and whether it resumes a session. Nothing of a HelloRetryRequest.
pub fn server_hello(body: &[u8]) -> Option<(u16, bool)> {
    let mut reader = Reader(body);
    reader.take(2)?;
    if reader.take(32)?.starts_with(&RETRY_RANDOM) {
        return None;
    }
    reader.vector(1)?;
    let suite = u16::try_from(reader.number(2)?).ok()?;
    reader.byte()?;
    Some((suite, extension(reader.vector(2)?, PRE_SHARED_KEY).is_some()))
}

fn extension(list: &[u8], wanted: u64) -> Option<&[u8]> {
    let mut reader = Reader(list);
    loop {
        let (kind, body) = (reader.number(2)?, reader.vector(2)?);
        if kind == wanted {
            return Some(body);
        }
    }
}

/// What a server promises in its transport parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Bidirectional streams that the client may open at first.
    pub streams_bidi: u64,
    /// Whether it prefers another address.
    pub preferred_address: bool,
}

/// Of EncryptedExtensions.
pub fn parameters(body: &[u8]) -> Option<Parameters> {
    let mut reader = Reader(body);
    let mut reader = Reader(extension(reader.vector(2)?, TRANSPORT_PARAMETERS)?);
    let mut parameters = Parameters::default();
    while let (Some(id), Some(value)) = (reader.varint(), reader.counted()) {
        match id {
            INITIAL_MAX_STREAMS_BIDI => parameters.streams_bidi = Reader(value).varint()?,
            PREFERRED_ADDRESS => parameters.preferred_address = true,
            _ => {}
        }
    }
    Some(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_what_came_without_a_gap() {
        let mut stream = Stream::default();
        stream.add(6, b"world");
        assert!(stream.bytes().is_empty());
        stream.add(0, b"hello ");
        stream.add(3, b"lo w");
        stream.add(20, b"later");
        assert_eq!(stream.bytes(), b"hello world");
    }

    #[test]
    fn a_hello_retry_request_is_no_server_hello() {
        let random = [&RETRY_RANDOM[..], &[0; 28]].concat();
        let hello = |random: &[u8]| [&[3, 3][..], random, &[0, 0x13, 1, 0, 0, 6, 0, 41, 0, 2, 0, 0]].concat();
        assert_eq!(server_hello(&hello(&random)), None);
        assert_eq!(server_hello(&hello(&[7; 32])), Some((0x1301, true)));
    }

    #[test]
    fn parameters_are_found_among_other_extensions() {
        let body = [0, 13, 0, 16, 0, 1, 9, 0, 57, 0, 4, 8, 2, 0x43, 0xe8];
        assert_eq!(parameters(&body), Some(Parameters { streams_bidi: 1_000, preferred_address: false }));
    }
}
