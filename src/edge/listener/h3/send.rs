//! Stage 1, HTTP/3: the sending half of a request stream: a queue of a few pieces written to quinn together, and the guard
//! that lets no response end by accident. Owned by `request`.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::WriteError;

use super::code::Code;
use super::frame;
use super::receive::End;
use crate::fault::{Fault, Kind, Side, Stage};
use crate::quic::SendStream;

/// Pieces in the queue from which on nothing more is gathered.
const PIECES_MAX: usize = 8;
/// Bytes written at once, from which on nothing more is gathered.
const GATHER_MAX: usize = 64 << 10;
/// Pieces up to this size are copied together: cheaper than a segment of its own in quinn.
const COPY_MAX: usize = 1024;
/// The HEADERS frame head: type, and a length of four bytes that is filled in afterwards.
const HEADERS_HEAD: [u8; 5] = [frame::HEADERS as u8, 0x80, 0, 0, 0];

/// Why a response cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// The request ended.
    End(End),
    /// The response is wrong, or its rest cannot come.
    Fault(Fault),
}

impl From<End> for Abort {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

/// The sending half. Dropped before [`Sender::finish`] it resets the stream: quinn alone would end it cleanly, and a cut
/// response would look complete.
pub struct Sender {
    stream: SendStream,
    /// Whole pieces, in order.
    pieces: Vec<Bytes>,
    /// Payload in the queue.
    queued: usize,
    /// Behind the pieces: small things, not yet a piece.
    tail: BytesMut,
    over: bool,
    timeout: Duration,
    updates_seen: usize,
}

impl Sender {
    /// Writes wait for the client up to `timeout` without progress.
    pub fn new(stream: SendStream, timeout: Duration) -> Self {
        Self { stream, pieces: Vec::new(), queued: 0, tail: BytesMut::new(), over: false, timeout, updates_seen: 0 }
    }

    /// The stream's id.
    pub fn id(&self) -> u64 {
        u64::from(quinn::VarInt::from(self.stream.id()))
    }

    /// quinn's stream, for what needs no queue: priority and the stop signal.
    pub fn stream(&self) -> &SendStream {
        &self.stream
    }

    /// How many priority updates of the connection were seen.
    pub fn updates_seen(&mut self) -> &mut usize {
        &mut self.updates_seen
    }

    /// Whether the queue is so long that it should be flushed before more is made.
    pub fn is_full(&self) -> bool {
        self.pieces.len() >= PIECES_MAX || self.queued >= GATHER_MAX
    }

    /// Payload that waits to be written, bytes.
    pub fn queued(&self) -> u64 {
        self.queued as u64
    }

    /// Whether nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.tail.is_empty()
    }

    /// Queues a HEADERS frame; `section` appends the field section and returns its size.
    pub fn headers(&mut self, section: impl FnOnce(&mut BytesMut) -> usize) -> usize {
        self.tail.reserve(512);
        let start = self.tail.len();
        self.tail.put_slice(&HEADERS_HEAD);
        let size = section(&mut self.tail);
        let length = self.tail.len().saturating_sub(start + HEADERS_HEAD.len());
        // A field section never comes near 2^30 bytes; if it did, the client would see a wrong frame, not a wrong message.
        let length = u32::try_from(length).unwrap_or(u32::MAX) & 0x3fff_ffff | 0x8000_0000;
        if let Some(place) = self.tail.get_mut(start + 1..start + HEADERS_HEAD.len()) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        size
    }

    /// Forgets everything queued.
    pub fn clear(&mut self) {
        self.tail.clear();
        self.pieces.clear();
        self.queued = 0;
    }

    /// Queues the head of a DATA frame.
    pub fn data_head(&mut self, length: u64) {
        frame::put_head(&mut self.tail, frame::DATA, length);
    }

    /// Queues payload. Call [`Self::flush`] when [`Self::is_full`].
    pub fn payload(&mut self, data: Bytes) {
        self.queued += data.len();
        if data.len() <= COPY_MAX {
            self.tail.extend_from_slice(&data);
            return;
        }
        self.close_tail();
        self.pieces.push(data);
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = self.tail.split().freeze();
            self.pieces.push(tail);
        }
    }

    /// Writes the queue. Safe to drop and call again: what was not written stays queued.
    pub async fn flush(&mut self) -> Result<(), Abort> {
        self.close_tail();
        while !self.pieces.is_empty() {
            let written = tokio::time::timeout(self.timeout, self.stream.write_chunks(&mut self.pieces)).await;
            let written = written
                .map_err(|_| Abort::Fault(Fault::new(Stage::Listener, Side::Client, Kind::ConnectionWriteTimeout)))?;
            let written = written.map_err(|error| match error {
                WriteError::Stopped(_) => Abort::End(End::Cancelled),
                _ => Abort::End(End::Lost),
            })?;
            self.pieces.drain(..written.chunks.min(self.pieces.len()));
        }
        self.queued = 0;
        Ok(())
    }

    /// Ends the stream cleanly.
    pub fn finish(&mut self) {
        self.over = true;
        // An error here means that the stream is gone already.
        let _ = self.stream.finish();
    }

    /// Ends the stream with a code; what was finished before may still arrive.
    pub fn reset(&mut self, code: Code) {
        self.over = true;
        let _ = self.stream.reset(code.varint());
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.over {
            self.reset(Code::REQUEST_CANCELLED);
        }
    }
}
