//! Stage 1, HTTP/3: the receiving half of a request stream: order of frames (RFC 9114 section 4.1), joining of packets into
//! larger pieces, and a guard. Owned by `request` until the head is there, then by the body.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use quinn::ReadError;

use super::code::{Code, Error};
use super::frame::{Decoder, Event};
use crate::quic::RecvStream;

/// Packets taken from quinn at once: about 46 KiB. Many small pieces cost more further on than this copy.
const CHUNKS_MAX: usize = 32;
/// As long as there are no more: empty slots cost time too.
const CHUNKS_FEW: usize = 2;

/// Why a request goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client reset or stopped the stream.
    Cancelled,
    /// The connection is gone.
    Lost,
    /// A rule was broken.
    Error(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// What one read brought.
#[derive(Debug, Default)]
pub struct Batch {
    /// The head's field section.
    pub head: Option<Bytes>,
    /// A field section (the head's, or the trailers') was too large.
    pub too_large: bool,
    /// Body bytes.
    pub data: Option<Bytes>,
    /// The trailers' field section.
    pub trailers: Option<Bytes>,
    /// The client ended the stream, in order.
    pub end: bool,
}

/// Which frame may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Head,
    Body,
    Over,
}

/// The receiving half. Dropped before its end it sends STOP_SENDING with H3_REQUEST_CANCELLED; quinn alone would send code
/// 0, which means nothing in HTTP/3.
pub struct Receiver {
    stream: RecvStream,
    decoder: Decoder,
    phase: Phase,
    ended: bool,
    /// The last read filled every slot it had.
    plenty: bool,
}

impl Receiver {
    /// A stream from which nothing was read yet.
    pub fn new(stream: RecvStream, headers_max: usize) -> Self {
        Self { stream, decoder: Decoder::request(headers_max), phase: Phase::Head, ended: false, plenty: false }
    }

    /// Whether the stream was read to its end.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether the stream was opened before the handshake was complete, so that it may be a replay.
    pub fn is_early(&self) -> bool {
        self.stream.is_0rtt()
    }

    /// Takes what quinn has. The batch may be empty: skipped frames, or a frame that is not complete yet.
    pub fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Result<Batch, End>> {
        match self.plenty {
            true => self.poll_chunks::<CHUNKS_MAX>(cx),
            false => self.poll_chunks::<CHUNKS_FEW>(cx),
        }
    }

    fn poll_chunks<const N: usize>(&mut self, cx: &mut Context<'_>) -> Poll<Result<Batch, End>> {
        let mut chunks = [const { Bytes::new() }; N];
        let read = ready!(pin!(self.stream.read_chunks(&mut chunks)).poll(cx));
        self.plenty = read == Ok(Some(N));
        Poll::Ready(self.absorb(read, &mut chunks))
    }

    fn absorb(&mut self, read: Result<Option<usize>, ReadError>, chunks: &mut [Bytes]) -> Result<Batch, End> {
        let mut batch = Batch::default();
        match read {
            Ok(Some(count)) => {
                let chunks = chunks.get_mut(..count).unwrap_or_default();
                let mut data = Joined::new(chunks.iter().map(Bytes::len).sum());
                for chunk in chunks {
                    self.feed(chunk, &mut batch, &mut data)?;
                }
                batch.data = data.finish();
            }
            Ok(None) => {
                self.ended = true;
                batch.end = true;
                self.decoder.finish()?;
                if self.phase == Phase::Head {
                    return Err(Error::Stream(Code::REQUEST_INCOMPLETE, "stream ended without a request").into());
                }
            }
            Err(ReadError::Reset(_)) => {
                self.ended = true;
                return Err(End::Cancelled);
            }
            Err(_) => return Err(End::Lost),
        }
        Ok(batch)
    }

    fn feed(&mut self, chunk: &mut Bytes, batch: &mut Batch, data: &mut Joined) -> Result<(), Error> {
        while let Some(event) = self.decoder.decode(chunk)? {
            match (self.phase, event) {
                (Phase::Head, Event::Headers(section)) => {
                    batch.head = Some(section);
                    self.phase = Phase::Body;
                }
                (Phase::Body, Event::Headers(section)) => {
                    batch.trailers = Some(section);
                    self.phase = Phase::Over;
                }
                (Phase::Head | Phase::Body, Event::HeadersTooLarge) => {
                    batch.too_large = true;
                    self.phase = if self.phase == Phase::Head { Phase::Body } else { Phase::Over };
                }
                (Phase::Body, Event::Data(piece)) => data.push(piece),
                _ => return Err(Error::Connection(Code::FRAME_UNEXPECTED, "frames of a request out of order")),
            }
        }
        Ok(())
    }

    /// Asks the client to send no more; nothing if it has ended anyway.
    pub fn stop(mut self, code: Code) {
        self.stop_now(code);
    }

    fn stop_now(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            // An error here means that the stream is gone already.
            let _ = self.stream.stop(code.varint());
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop_now(Code::REQUEST_CANCELLED);
    }
}

/// Pieces of a body joined into one; a single piece is not copied.
struct Joined {
    first: Option<Bytes>,
    joined: BytesMut,
    capacity: usize,
}

impl Joined {
    fn new(capacity: usize) -> Self {
        Self { first: None, joined: BytesMut::new(), capacity }
    }

    fn push(&mut self, piece: Bytes) {
        match (&self.first, self.joined.is_empty()) {
            (None, true) => self.first = Some(piece),
            (None, false) => self.joined.extend_from_slice(&piece),
            (Some(first), _) => {
                self.joined.reserve(self.capacity);
                self.joined.extend_from_slice(first);
                self.joined.extend_from_slice(&piece);
                self.first = None;
            }
        }
    }

    fn finish(self) -> Option<Bytes> {
        self.first.or_else(|| (!self.joined.is_empty()).then(|| self.joined.freeze()))
    }
}
