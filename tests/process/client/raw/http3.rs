//! HTTP/3 by hand (RFC 9114, RFC 9204), on quinn.

use quinn::{Connection, ConnectionError, Endpoint, ReadError, ReadToEndError, RecvStream, SendStream};

use super::{Outcome, status};
use crate::chain::{Chain, in_time};
use crate::client::http3::quic;

/// Longest answer that is looked at.
const ANSWER_MAX: usize = 1 << 20;

/// A variable-length integer (RFC 9000 section 16).
pub fn varint(value: u64, out: &mut Vec<u8>) {
    let bytes = value.to_be_bytes();
    match value {
        0..0x40 => out.push(bytes[7]),
        0x40..0x4000 => out.extend_from_slice(&[0x40 | bytes[6], bytes[7]]),
        0x4000..0x4000_0000 => out.extend_from_slice(&[0x80 | bytes[4], bytes[5], bytes[6], bytes[7]]),
        _ => {
            out.push(0xc0 | bytes[0]);
            out.extend_from_slice(&bytes[1..]);
        }
    }
}

/// A frame with its type and length.
pub fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(kind, &mut out);
    varint(payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

/// A field section of literals, without Huffman code or tables.
pub fn section(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![0, 0];
    for (name, value) in fields {
        prefixed(0x20, 3, name.len(), &mut out);
        out.extend_from_slice(name.as_bytes());
        prefixed(0, 7, value.len(), &mut out);
        out.extend_from_slice(value.as_bytes());
    }
    out
}

/// RFC 7541 section 5.1.
fn prefixed(pattern: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.push(pattern | u8::try_from(value).expect("fits"));
        return;
    }
    out.push(pattern | u8::try_from(most).expect("fits"));
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f | 0x80).expect("fits"));
        rest >>= 7;
    }
    out.push(u8::try_from(rest).expect("fits"));
}

/// A connection with a control stream and settings, and nothing else.
pub struct Raw {
    pub connection: Connection,
    /// Closing it would be an error of its own (RFC 9114 section 6.2.1).
    pub control: SendStream,
    _endpoint: Endpoint,
}

impl Raw {
    /// Connects and sends empty SETTINGS.
    pub async fn connect(chain: &Chain) -> Self {
        let mut control = vec![0];
        control.extend(frame(4, &[]));
        Self::with_control(chain, &control).await
    }

    /// Connects and sends `control` on the first unidirectional stream.
    pub async fn with_control(chain: &Chain, control: &[u8]) -> Self {
        let (endpoint, connection) = quic(&chain.site_ca(), chain.http3(0)).await.expect("connect");
        let mut stream = connection.open_uni().await.expect("a stream");
        stream.write_all(control).await.expect("write");
        Self { connection, control: stream, _endpoint: endpoint }
    }

    /// A request stream.
    pub async fn open(&self) -> (SendStream, RecvStream) {
        self.connection.open_bi().await.expect("a stream")
    }

    /// Sends `bytes` as one whole request stream and tells how it ended.
    pub async fn request(&self, bytes: &[u8]) -> Outcome {
        let (mut send, mut receive) = self.open().await;
        // The server may have stopped listening already; what it answers counts.
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        match in_time("an answer to raw HTTP/3", receive.read_to_end(ANSWER_MAX)).await {
            Ok(answer) => {
                Outcome::Status(first_status(&answer).unwrap_or_else(|| panic!("no status in {answer:02x?}")))
            }
            Err(ReadToEndError::Read(ReadError::Reset(code))) => Outcome::Reset(code.into_inner()),
            Err(ReadToEndError::Read(ReadError::ConnectionLost(error))) => Outcome::Closed(code(&error)),
            Err(error) => panic!("{error}"),
        }
    }

    /// The code with which the server closes the connection.
    pub async fn closed(&self) -> u64 {
        code(&in_time("the connection's end", self.connection.closed()).await)
    }
}

fn code(error: &ConnectionError) -> u64 {
    match error {
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("the server did not close with an HTTP/3 code: {other}"),
    }
}

/// The status of the first HEADERS frame.
pub fn first_status(mut bytes: &[u8]) -> Option<u16> {
    loop {
        let kind = take_varint(&mut bytes)?;
        let length = usize::try_from(take_varint(&mut bytes)?).ok()?;
        let (payload, rest) = bytes.split_at_checked(length)?;
        if kind == 1 {
            return status::qpack(payload);
        }
        bytes = rest;
    }
}

/// Takes one variable-length integer from the start.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    let more = (1_usize << (first >> 6)) - 1;
    let (tail, rest) = rest.split_at_checked(more)?;
    *bytes = rest;
    Some(tail.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)))
}
