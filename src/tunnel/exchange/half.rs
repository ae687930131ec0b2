//! The two halves of an exchange as edge and gateway use them: whole messages out, events in.
//!
//! A writer dropped before its end aborts the exchange. A reader dropped before its end cancels it at an edge (the
//! client is gone); at a gateway only the rest of the request is given up (the response came first).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;

use super::Exchange;
use super::transfer::{PIECES, PIECES_FEW};
use crate::fault::Fault;
use crate::tunnel::block;
use crate::tunnel::code::ResetCode;
use crate::tunnel::message::{self, Meta, RequestHead, ResponseHead};
use crate::tunnel::wire::{WireError, try_varint, unknown};

/// Body pieces up to this size are copied next to their frame header: one piece less for QUIC to keep.
const COPY_MAX: usize = 2 << 10;
/// Received pieces of a body are joined up to this size, so that what follows handles few large pieces.
const JOIN_MAX: usize = 64 << 10;

/// The sending half. Methods append; [`Self::flush`] sends.
pub struct ExchangeWriter {
    exchange: Arc<Exchange>,
    staged: BytesMut,
    ended: bool,
}

impl ExchangeWriter {
    pub(in crate::tunnel) fn new(exchange: Arc<Exchange>) -> Self {
        Self { exchange, staged: BytesMut::new(), ended: false }
    }

    /// The exchange this is half of.
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// Appends a request head.
    pub fn request(&mut self, head: &RequestHead, meta: &Meta) {
        message::put_request(&mut self.staged, head, meta);
    }

    /// Appends a final or interim response head.
    pub fn response(&mut self, head: &ResponseHead) {
        message::put_response(&mut self.staged, head);
    }

    /// Appends ACCEPTED.
    pub fn accepted(&mut self) {
        message::put_accepted(&mut self.staged);
    }

    /// Appends a piece of the body.
    pub fn body(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        message::put_body_header(&mut self.staged, data.len());
        if data.len() <= COPY_MAX {
            self.staged.put_slice(&data);
        } else {
            self.commit();
            self.exchange.append(data);
        }
    }

    /// Appends the end, with trailers if there are any.
    pub fn end(&mut self, trailers: Option<&HeaderMap>) {
        match trailers {
            Some(trailers) => message::put_trailers(&mut self.staged, trailers),
            None => message::put_end(&mut self.staged),
        }
        self.commit();
        self.exchange.state.lock().send.set_ended();
        self.ended = true;
    }

    fn commit(&mut self) {
        if !self.staged.is_empty() {
            self.exchange.append(self.staged.split().freeze());
        }
    }

    /// Sends everything appended; ready when the link took it.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.commit();
        self.exchange.poll_flush(cx, false)
    }

    /// Sends everything appended; resolves when the link took it, within the other end's credit.
    pub async fn flush(&mut self) -> Result<(), Fault> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Whether the other end needs no more: what is appended is dropped.
    pub fn is_unwanted(&self) -> bool {
        self.exchange.is_unwanted()
    }

    /// Gives the exchange up, both directions.
    pub fn abort(self, fault: Fault) {
        self.exchange.abort(fault);
    }
}

impl Drop for ExchangeWriter {
    fn drop(&mut self) {
        if !self.ended && !self.exchange.is_unwanted() {
            self.exchange.abort(ResetCode::Cancelled.fault());
        }
        self.exchange.release_half();
    }
}

/// What comes out of an exchange.
#[derive(Debug)]
pub enum Event {
    /// HEAD; at a gateway read with [`message::get_request`], at an edge with [`message::get_response`].
    Head(Bytes),
    /// An interim response.
    Informational(ResponseHead),
    /// The upstream connection has the request.
    Accepted,
    /// A piece of the body.
    Body(Bytes),
    /// The end, with trailers if any came.
    End(Option<HeaderMap>),
}

/// The receiving half.
pub struct ExchangeReader {
    exchange: Arc<Exchange>,
    pieces: Pieces,
    frame: Frame,
    ended: bool,
    /// The last read filled every slot it had.
    plenty: bool,
}

/// Where in a frame the reader stands.
#[derive(Clone, Copy)]
enum Frame {
    Header,
    Body(usize),
    Whole { kind: u64, length: usize },
}

impl ExchangeReader {
    pub(in crate::tunnel) fn new(exchange: Arc<Exchange>, early: Bytes) -> Self {
        let mut pieces = Pieces::default();
        pieces.push(early);
        Self { exchange, pieces, frame: Frame::Header, ended: false, plenty: false }
    }

    /// The exchange this is half of.
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// While impatient, reading fails as soon as no link to the peer is left that could carry the exchange, instead of
    /// waiting for one: for a request that can be sent elsewhere.
    pub fn set_impatient(&self, impatient: bool) {
        self.exchange.set_impatient(impatient);
    }

    /// Whether the exchange itself goes on although reading failed: only impatience ended the wait.
    pub fn is_waiting(&self) -> bool {
        self.exchange.is_waiting()
    }

    /// Whether the end was read.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// The next event.
    pub async fn next(&mut self) -> Result<Event, Fault> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next event. After [`Event::End`] it must not be called again.
    ///
    /// # Errors
    /// The other end's reset, a cut stream, or malformed frames.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Fault>> {
        loop {
            match self.parse() {
                Ok(Some(event)) => {
                    if matches!(event, Event::End(_)) {
                        self.ended = true;
                        self.exchange.complete_read();
                    }
                    return Poll::Ready(Ok(event));
                }
                Ok(None) => {}
                Err(_) => return Poll::Ready(Err(self.refuse())),
            }
            let read = match self.plenty {
                true => self.poll_pieces::<PIECES>(cx),
                false => self.poll_pieces::<PIECES_FEW>(cx),
            };
            if std::task::ready!(read)? == 0 {
                return Poll::Ready(Err(self.refuse()));
            }
        }
    }

    /// Takes up to `N` pieces from the stream; how many came, zero at its end.
    fn poll_pieces<const N: usize>(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Fault>> {
        let mut pieces = [const { Bytes::new() }; N];
        let count = std::task::ready!(self.exchange.poll_read(cx, &mut pieces))?;
        self.plenty = count >= PIECES_FEW;
        for piece in pieces.iter_mut().take(count) {
            self.pieces.push(std::mem::take(piece));
        }
        Poll::Ready(Ok(count))
    }

    fn refuse(&mut self) -> Fault {
        let fault = ResetCode::Protocol.fault();
        self.exchange.abort(fault);
        fault
    }

    fn parse(&mut self) -> Result<Option<Event>, WireError> {
        loop {
            match self.frame {
                Frame::Header => match self.pieces.frame_header() {
                    Some((message::BODY, length)) => {
                        let length = usize::try_from(length).map_err(|_| WireError::Range("body"))?;
                        self.frame = if length == 0 { Frame::Header } else { Frame::Body(length) };
                    }
                    Some((kind, length)) => self.frame = whole(kind, length)?,
                    None => return Ok(None),
                },
                Frame::Body(left) => {
                    let length = left.min(self.pieces.length).min(JOIN_MAX);
                    if length == 0 {
                        return Ok(None);
                    }
                    self.frame = if length == left { Frame::Header } else { Frame::Body(left - length) };
                    return Ok(Some(Event::Body(self.pieces.take(length))));
                }
                Frame::Whole { kind, length } => {
                    if self.pieces.length < length {
                        return Ok(None);
                    }
                    self.frame = Frame::Header;
                    if let Some(event) = event(kind, self.pieces.take(length))? {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }
}

fn whole(kind: u64, length: u64) -> Result<Frame, WireError> {
    if length > message::HEAD_MAX {
        return Err(WireError::TooLong { what: "message frame", length, max: message::HEAD_MAX });
    }
    let length = usize::try_from(length).map_err(|_| WireError::Range("length"))?;
    Ok(Frame::Whole { kind, length })
}

fn event(kind: u64, payload: Bytes) -> Result<Option<Event>, WireError> {
    Ok(Some(match kind {
        message::HEAD => Event::Head(payload),
        message::INFORMATIONAL => Event::Informational(message::get_response(payload)?),
        message::ACCEPTED => Event::Accepted,
        message::TRAILERS => Event::End(Some(block::decode(payload)?)),
        message::END => Event::End(None),
        other => {
            unknown(other)?;
            return Ok(None);
        }
    }))
}

impl Drop for ExchangeReader {
    fn drop(&mut self) {
        match (self.ended, self.exchange.owner) {
            (true, _) => {}
            (false, true) => self.exchange.abort(ResetCode::Cancelled.fault()),
            // A response that came before the request's end: the rest is not needed.
            (false, false) => self.exchange.stop_reading(),
        }
        self.exchange.release_half();
    }
}

/// Received pieces in order.
#[derive(Default)]
struct Pieces {
    queue: VecDeque<Bytes>,
    length: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.length += piece.len();
            self.queue.push_back(piece);
        }
    }

    /// Takes type and length of a frame, if both are there.
    fn frame_header(&mut self) -> Option<(u64, u64)> {
        let mut head = [0u8; 16];
        let available = self.peek(&mut head);
        let mut peek = head.get(..available)?;
        let (kind, length) = (try_varint(&mut peek)?, try_varint(&mut peek)?);
        self.skip(available - peek.remaining());
        Some((kind, length))
    }

    fn peek(&self, out: &mut [u8]) -> usize {
        let mut filled = 0;
        for piece in &self.queue {
            let room = out.get_mut(filled..).unwrap_or_default();
            let length = room.len().min(piece.len());
            if length == 0 {
                break;
            }
            room[..length].copy_from_slice(&piece[..length]);
            filled += length;
        }
        filled
    }

    fn skip(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let Some(front) = self.queue.front_mut() else { break };
            let length = bytes.min(front.len());
            front.advance(length);
            if front.is_empty() {
                self.queue.pop_front();
            }
            self.length -= length;
            bytes -= length;
        }
    }

    /// Takes `length` bytes, which must be there: shared if they lie in one piece, joined otherwise.
    fn take(&mut self, length: usize) -> Bytes {
        match self.queue.front_mut() {
            Some(front) if front.len() > length => {
                self.length -= length;
                front.split_to(length)
            }
            Some(front) if front.len() == length => {
                self.length -= length;
                self.queue.pop_front().unwrap_or_default()
            }
            _ => {
                let mut joined = BytesMut::with_capacity(length);
                while joined.len() < length {
                    let Some(front) = self.queue.front_mut() else { break };
                    let part = front.split_to(front.len().min(length - joined.len()));
                    joined.put_slice(&part);
                    if front.is_empty() {
                        self.queue.pop_front();
                    }
                }
                self.length -= joined.len();
                joined.freeze()
            }
        }
    }
}
