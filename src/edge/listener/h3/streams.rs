//! Stage 1, HTTP/3: the client's unidirectional streams (RFC 9114 section 6.2): control, QPACK encoder and decoder, and
//! unknown ones. One task per connection reads them all; it ends with the connection, which it closes when a rule is
//! broken. Requests never wait for it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use quinn::ReadError;

use super::code::{Code, Error};
use super::control::Control;
use super::shared::Shared;
use super::varint;
use crate::quic::RecvStream;

const CONTROL: u64 = 0x00;
const PUSH: u64 = 0x01;
const QPACK_ENCODER: u64 = 0x02;
const QPACK_DECODER: u64 = 0x03;

/// Streams of unknown types over the life of a connection; browsers open one or two to keep servers tolerant.
const UNKNOWN_MAX: usize = 256;
/// Bytes of instructions on a QPACK stream over the life of a connection. Honest ones are a byte, or a few for each
/// cancelled request.
const QPACK_BYTES_MAX: usize = 64 << 10;

/// Reads the client's unidirectional streams until the connection ends, and closes it if they break a rule.
pub async fn read_all(shared: Arc<Shared>) {
    if let Err(Error::Connection(code, why) | Error::Stream(code, why)) = run(&shared).await {
        shared.close(code, why);
    }
}

async fn run(shared: &Shared) -> Result<(), Error> {
    let mut streams = Streams { open: Vec::new(), seen: [false; 4], unknown: 0, control: Control::default() };
    let mut accept = pin!(shared.quinn.accept_uni());
    std::future::poll_fn(|cx| {
        loop {
            // The client's stream limit bounds how many can be open.
            match accept.as_mut().poll(cx) {
                Poll::Ready(Ok(stream)) => {
                    streams.open.push(Uni { stream, reading: Reading::Type([0; 8], 0) });
                    accept.set(shared.quinn.accept_uni());
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Pending => return streams.poll(cx, shared),
            }
        }
    })
    .await
}

/// One stream and how far its reader is.
struct Uni {
    stream: RecvStream,
    reading: Reading,
}

enum Reading {
    /// The stream's type, maybe cut.
    Type([u8; 8], usize),
    Control,
    Encoder(usize),
    Decoder(CancelInstruction, usize),
}

/// What became of a stream.
#[derive(PartialEq, Eq)]
enum After {
    Keep,
    Remove,
}

struct Streams {
    open: Vec<Uni>,
    /// Which of the types 0 to 3 came already.
    seen: [bool; 4],
    unknown: usize,
    control: Control,
}

impl Streams {
    /// Reads what there is on every stream.
    fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<Result<(), Error>> {
        for mut uni in std::mem::take(&mut self.open) {
            match self.poll_stream(&mut uni, cx, shared) {
                Poll::Ready(Ok(After::Remove)) => {}
                Poll::Ready(Ok(After::Keep)) | Poll::Pending => self.open.push(uni),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Pending
    }

    /// Reads one stream until it has no more, is done with, or breaks a rule.
    fn poll_stream(&mut self, uni: &mut Uni, cx: &mut Context<'_>, shared: &Shared) -> Poll<Result<After, Error>> {
        loop {
            let chunk = match ready!(pin!(uni.stream.read_chunk(usize::MAX, true)).poll(cx)) {
                Ok(Some(chunk)) => chunk.bytes,
                Ok(None) | Err(ReadError::Reset(_)) => return Poll::Ready(uni.reading.closed()),
                // The connection is lost; its own task sees that too.
                Err(_) => return Poll::Ready(Ok(After::Remove)),
            };
            if self.feed(uni, chunk, shared)? == After::Remove {
                return Poll::Ready(Ok(After::Remove));
            }
        }
    }

    fn feed(&mut self, uni: &mut Uni, mut bytes: Bytes, shared: &Shared) -> Result<After, Error> {
        if let Reading::Type(head, have) = &mut uni.reading {
            let Some(kind) = take_type(head, have, &mut bytes) else { return Ok(After::Keep) };
            match self.begin(kind)? {
                Some(reading) => uni.reading = reading,
                None => {
                    // An error here means that the stream is gone already.
                    let _ = uni.stream.stop(Code::STREAM_CREATION_ERROR.varint());
                    return Ok(After::Remove);
                }
            }
        }
        match &mut uni.reading {
            Reading::Type(..) => {}
            Reading::Control => self.control.feed(bytes, shared)?,
            Reading::Encoder(budget) => {
                spend(budget, bytes.len())?;
                check_encoder(&bytes)?;
            }
            Reading::Decoder(cancel, budget) => {
                spend(budget, bytes.len())?;
                cancel.check(&bytes)?;
            }
        }
        Ok(After::Keep)
    }

    /// A stream's type is known: how it is read, or `None` if it is not.
    fn begin(&mut self, kind: u64) -> Result<Option<Reading>, Error> {
        let reading = match kind {
            CONTROL => Reading::Control,
            QPACK_ENCODER => Reading::Encoder(QPACK_BYTES_MAX),
            QPACK_DECODER => Reading::Decoder(CancelInstruction::default(), QPACK_BYTES_MAX),
            PUSH => return Err(Error::Connection(Code::STREAM_CREATION_ERROR, "push stream from a client")),
            _ => {
                self.unknown += 1;
                if self.unknown > UNKNOWN_MAX {
                    return Err(Error::Connection(Code::EXCESSIVE_LOAD, "too many unknown streams"));
                }
                return Ok(None);
            }
        };
        let seen = usize::try_from(kind).ok().and_then(|kind| self.seen.get_mut(kind));
        if seen.is_some_and(|seen| std::mem::replace(seen, true)) {
            return Err(Error::Connection(Code::STREAM_CREATION_ERROR, "critical stream twice"));
        }
        Ok(Some(reading))
    }
}

impl Reading {
    /// The client ended or reset the stream: only allowed before it said what it is.
    fn closed(&self) -> Result<After, Error> {
        match self {
            Self::Type(..) => Ok(After::Remove),
            _ => Err(Error::Connection(Code::CLOSED_CRITICAL_STREAM, "critical stream closed")),
        }
    }
}

fn take_type(head: &mut [u8; 8], have: &mut usize, bytes: &mut Bytes) -> Option<u64> {
    while let Some(byte) = bytes.first().copied() {
        *head.get_mut(*have)? = byte;
        *have += 1;
        bytes.advance(1);
        if let Some(kind) = varint::take(&mut head.get(..*have)?) {
            return Some(kind);
        }
    }
    None
}

fn spend(budget: &mut usize, bytes: usize) -> Result<(), Error> {
    *budget =
        budget.checked_sub(bytes).ok_or(Error::Connection(Code::EXCESSIVE_LOAD, "too many QPACK instructions"))?;
    Ok(())
}

/// Encoder instructions (RFC 9204 section 4.3): our table has capacity 0, so only Set Dynamic Table Capacity to 0 is right.
fn check_encoder(bytes: &[u8]) -> Result<(), Error> {
    match bytes.iter().all(|byte| *byte == 0x20) {
        true => Ok(()),
        false => Err(Error::Connection(Code::QPACK_ENCODER_STREAM_ERROR, "insertion into a table of capacity 0")),
    }
}

/// Decoder instructions (RFC 9204 section 4.4): we never insert, so only Stream Cancellation is right. Counts the bytes
/// of its integer that came so far, 0 between instructions.
#[derive(Default)]
struct CancelInstruction(u8);

impl CancelInstruction {
    fn check(&mut self, bytes: &[u8]) -> Result<(), Error> {
        const WRONG: Error = Error::Connection(Code::QPACK_DECODER_STREAM_ERROR, "acknowledges what was never sent");
        for byte in bytes {
            self.0 = match (self.0, byte) {
                (0, 0x40..=0x7e) => 0,
                (0, 0x7f) => 1,
                (0, _) | (10.., _) => return Err(WRONG),
                (_, 0x00..=0x7f) => 0,
                (have, _) => have + 1,
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_capacity_zero_is_right_on_the_encoder_stream() {
        assert!(check_encoder(&[0x20, 0x20]).is_ok());
        for wrong in [&[0x21][..], &[0x3f, 0x00], &[0xc0, 0x00], &[0x41, b'a', 0], &[0x00]] {
            assert!(check_encoder(wrong).is_err(), "{wrong:x?}");
        }
    }

    #[test]
    fn only_cancellation_is_right_on_the_decoder_stream() {
        let check = |pieces: &[&[u8]]| {
            let mut cancel = CancelInstruction::default();
            pieces.iter().try_for_each(|piece| cancel.check(piece))
        };
        assert!(check(&[&[0x44, 0x7f, 0x80], &[0x01, 0x40]]).is_ok());
        for wrong in [&[0x80][..], &[0x84], &[0x00], &[0x01], &[0x7f, 0x01, 0x80], &[0xff; 12]] {
            assert!(check(&[wrong]).is_err(), "{wrong:x?}");
        }
        assert!(check(&[&[0x7f], &[0x80; 10]]).is_err());
    }

    #[test]
    fn a_stream_type_may_come_byte_by_byte() {
        let (mut head, mut have) = ([0; 8], 0);
        assert_eq!(take_type(&mut head, &mut have, &mut Bytes::from_static(&[0x40])), None);
        let mut rest = Bytes::from_static(&[0x21, 9]);
        assert_eq!(take_type(&mut head, &mut have, &mut rest), Some(0x21));
        assert_eq!(rest, &[9][..]);
    }
}
