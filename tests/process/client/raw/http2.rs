//! HTTP/2 by hand (RFC 9113).

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::{Outcome, status};
use crate::chain::{Chain, in_time};
use crate::client::tls;

/// A frame to send.
#[derive(Clone, Debug)]
pub struct Http2Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Http2Frame {
    /// HEADERS on stream 1, END_HEADERS; with END_STREAM if `end`.
    pub fn headers(fields: &[(&str, &str)], end: bool) -> Self {
        Self { kind: 1, flags: 4 | u8::from(end), stream: 1, payload: block(fields) }
    }

    /// DATA on stream 1.
    pub fn data(payload: &[u8], end: bool) -> Self {
        Self { kind: 0, flags: u8::from(end), stream: 1, payload: payload.into() }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.payload.len()).expect("a short payload").to_be_bytes();
        out.extend_from_slice(&length[1..]);
        out.extend_from_slice(&[self.kind, self.flags]);
        out.extend_from_slice(&self.stream.to_be_bytes());
        out.extend_from_slice(&self.payload);
    }
}

/// Empty SETTINGS.
fn settings() -> Http2Frame {
    Http2Frame { kind: 4, flags: 0, stream: 0, payload: Vec::new() }
}

/// HPACK: literals without indexing, no Huffman code.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            string(text.as_bytes(), &mut block);
        }
    }
    block
}

fn string(text: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(text.len()) {
        Ok(length) if length < 0x7f => out.push(length),
        _ => {
            out.push(0x7f);
            let mut rest = text.len() - 0x7f;
            while rest >= 0x80 {
                out.push(u8::try_from(rest & 0x7f | 0x80).expect("seven bits and one"));
                rest >>= 7;
            }
            out.push(u8::try_from(rest).expect("seven bits"));
        }
    }
    out.extend_from_slice(text);
}

/// Sends the preface, SETTINGS and `frames`, and tells how stream 1 or the connection ended.
pub async fn http2(chain: &Chain, frames: &[Http2Frame]) -> Outcome {
    let mut stream = tls::connect(&chain.site_ca(), chain.http2(0), b"h2").await.expect("connect");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    settings().encode(&mut bytes);
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    let _ = stream.write_all(&bytes).await;
    in_time("an answer to raw HTTP/2", async {
        while let Some((kind, number, payload)) = read_frame(&mut stream).await {
            match (kind, number) {
                (1, 1) => return Outcome::Status(status::hpack(&payload).expect("a status")),
                (3, 1) => return Outcome::Reset(u64::from(word(&payload))),
                (7, _) if word(payload.get(4..).unwrap_or_default()) != 0 => {
                    return Outcome::Closed(u64::from(word(&payload[4..])));
                }
                _ => {}
            }
        }
        Outcome::Closed(u64::MAX)
    })
    .await
}

fn word(bytes: &[u8]) -> u32 {
    bytes.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    let mut payload = vec![0; usize::try_from(length).ok()?];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], number, payload))
}
