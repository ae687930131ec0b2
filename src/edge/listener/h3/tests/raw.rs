//! Bytes that no library would write, and what must come of them.

mod critical;
mod ends;
mod requests;

use quinn::{ConnectionError, ReadError, RecvStream, SendStream};

use super::super::code::Code;
use super::super::frame::{self, Decoder, Event};
use super::super::qpack::decode::{Name, Section, SectionLimits, StaticName};
use super::super::qpack::tests::encode;
use super::super::varint;
use super::*;

/// A connection with a control stream, and nothing else.
struct Raw {
    quinn: quinn::Connection,
    control: SendStream,
}

/// How a request stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// Status, body, number of trailer fields; a clean end.
    Response(u16, Vec<u8>, usize),
    /// Reset with a code, after this many bytes of body.
    Reset(u64, usize),
    /// The connection was closed with a code.
    Closed(u64),
}

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_head(&mut out, kind, payload.len() as u64);
    out.extend_from_slice(payload);
    out
}

fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(frame::HEADERS, &encode(fields))
}

/// HEADERS of a valid request with more fields behind.
fn request(method: Method, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let head = head(method, path);
    let all: Vec<_> = head.iter().map(|(n, v)| (n.as_str(), v.as_str())).chain(more.iter().copied()).collect();
    fields(&all)
}

fn get(path: &str) -> Vec<u8> {
    request(Method::GET, path, &[])
}

fn number(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(&mut out, value);
    out
}

fn code_of(error: ConnectionError) -> u64 {
    match error {
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("connection ended with {other}"),
    }
}

fn of(code: Code) -> u64 {
    code.varint().into_inner()
}

impl Raw {
    async fn connect(server: &Server) -> Self {
        let mut raw = Self::without_settings(server).await;
        raw.control.write_all(&frame(frame::SETTINGS, &[])).await.unwrap();
        raw
    }

    async fn without_settings(server: &Server) -> Self {
        let quinn = server.connect().await;
        let mut control = quinn.open_uni().await.unwrap();
        control.write_all(&[0]).await.unwrap();
        Self { quinn, control }
    }

    async fn open(&self, bytes: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, recv) = within(self.quinn.open_bi()).await.unwrap();
        send.write_all(bytes).await.unwrap();
        (send, recv)
    }

    /// Sends a whole request stream and waits for its outcome.
    async fn exchange(&self, bytes: &[u8]) -> Outcome {
        let (mut send, recv) = self.open(bytes).await;
        send.finish().unwrap();
        outcome(recv).await
    }

    async fn uni(&self, bytes: &[u8]) -> SendStream {
        let mut stream = within(self.quinn.open_uni()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    async fn closed(&self) -> u64 {
        code_of(within(self.quinn.closed()).await)
    }

    async fn assert_usable(&self) {
        let whole = Outcome::Response(200, b"hello".to_vec(), 0);
        assert_eq!(self.exchange(&get("/")).await, whole, "the connection is not usable any more");
    }
}

async fn outcome(recv: RecvStream) -> Outcome {
    responses(recv).await.1
}

/// Statuses of interim responses, and the end.
async fn responses(mut recv: RecvStream) -> (Vec<u16>, Outcome) {
    let mut decoder = Decoder::request(1 << 20);
    let (mut statuses, mut body, mut trailers) = (Vec::new(), Vec::new(), 0);
    loop {
        match within(recv.read_chunk(usize::MAX, true)).await {
            Ok(Some(chunk)) => {
                let mut bytes = chunk.bytes;
                while let Some(event) = decoder.decode(&mut bytes).unwrap() {
                    match event {
                        Event::Data(data) => body.extend_from_slice(&data),
                        Event::Headers(section) => match status(section) {
                            (Some(status), _) => statuses.push(status),
                            (None, fields) => trailers = fields,
                        },
                        other => panic!("{other:?}"),
                    }
                }
            }
            Ok(None) => {
                decoder.finish().unwrap();
                let last = statuses.pop().expect("a clean end without a response");
                return (statuses, Outcome::Response(last, body, trailers));
            }
            Err(ReadError::Reset(code)) => return (statuses, Outcome::Reset(code.into_inner(), body.len())),
            Err(ReadError::ConnectionLost(error)) => return (statuses, Outcome::Closed(code_of(error))),
            Err(other) => panic!("{other}"),
        }
    }
}

fn status(section: Bytes) -> (Option<u16>, usize) {
    let mut section = Section::new(section, SectionLimits { bytes_max: usize::MAX }).unwrap();
    let (mut status, mut count) = (None, 0);
    while let Some(line) = section.next_line().unwrap() {
        match line.name {
            Name::Static(StaticName::Pseudo(_)) => {
                status = Some(std::str::from_utf8(&line.value).unwrap().parse().unwrap())
            }
            _ => count += 1,
        }
    }
    (status, count)
}
