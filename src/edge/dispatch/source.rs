//! A request body that can be sent again: what went out is kept up to a bound, so that a replay starts from its first
//! byte. Called by dispatch; past the bound the body still goes, once.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;

use crate::edge::listener::RequestBody;
use crate::fault::Fault;
use crate::observe::record::Received;
use crate::tunnel::exchange::ExchangeWriter;
use crate::tunnel::exchange::retention::Budget;

/// Bytes of one request body that are kept for a replay.
pub const KEPT_MAX: u64 = 64 << 10;

/// What comes next of a body.
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// The end, with trailers if any came.
    End(Option<HeaderMap>),
}

/// See the module.
pub struct Source {
    body: RequestBody,
    received: Option<Received>,
    kept: Vec<Bytes>,
    kept_bytes: u64,
    /// The next of `kept` to send; all of them on the first attempt.
    next: usize,
    end: Option<Option<HeaderMap>>,
    whole: bool,
    budget: Arc<Budget>,
}

impl Source {
    /// The body as it comes from the listener; `budget` bounds what all requests keep.
    pub fn new(body: RequestBody, received: Option<Received>, budget: Arc<Budget>) -> Self {
        let end = body.is_end_stream().then_some(None);
        Self { body, received, kept: Vec::new(), kept_bytes: 0, next: 0, end, whole: true, budget }
    }

    /// Whether everything that went out can go out again.
    pub fn is_repeatable(&self) -> bool {
        self.whole
    }

    /// Whether the end is known: nothing more is awaited from the client.
    pub fn is_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Begins again with the first byte; answers how many will go out again.
    pub fn rewind(&mut self) -> u64 {
        let sent = std::mem::take(&mut self.next);
        self.kept.iter().take(sent).map(|piece| piece.len() as u64).sum()
    }

    /// All that went out, if it ended and is kept: to be sent beside.
    pub fn kept(&self) -> Option<Kept> {
        let end = self.end.clone().filter(|_| self.whole)?;
        Some(Kept { pieces: self.kept.clone(), end })
    }

    /// No replay will follow: what was kept is freed.
    pub fn forget(&mut self) {
        self.whole = false;
        self.kept.drain(..self.next.min(self.kept.len()));
        self.next = 0;
        self.budget.release(std::mem::take(&mut self.kept_bytes));
    }

    /// The next piece. Safe to drop before it resolves: nothing is lost.
    ///
    /// # Errors
    /// The client's fault: it went away, or what it sent is malformed.
    pub async fn next(&mut self) -> Result<Piece, Fault> {
        if let Some(piece) = self.kept.get(self.next).cloned() {
            self.next += 1;
            return Ok(Piece::Data(piece));
        }
        if let Some(end) = &self.end {
            return Ok(Piece::End(end.clone()));
        }
        match self.body.frame().await.transpose()?.map(http_body::Frame::into_data) {
            Some(Ok(data)) => {
                if let Some(received) = &self.received {
                    received.add(data.len() as u64);
                }
                self.keep(&data);
                Ok(Piece::Data(data))
            }
            Some(Err(frame)) => Ok(self.ended(frame.into_trailers().ok())),
            None => Ok(self.ended(None)),
        }
    }

    fn ended(&mut self, trailers: Option<HeaderMap>) -> Piece {
        self.end = Some(trailers.clone());
        Piece::End(trailers)
    }

    fn keep(&mut self, data: &Bytes) {
        let bytes = data.len() as u64;
        if !self.whole {
            return;
        }
        if self.kept_bytes + bytes > KEPT_MAX || !self.budget.reserve(bytes) {
            return self.forget();
        }
        self.kept_bytes += bytes;
        self.kept.push(data.clone());
        self.next = self.kept.len();
    }
}

/// A whole body that was sent.
#[derive(Clone, Debug)]
pub struct Kept {
    pieces: Vec<Bytes>,
    end: Option<HeaderMap>,
}

impl Kept {
    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Appends all of it.
    pub fn send(self, writer: &mut ExchangeWriter) {
        self.pieces.into_iter().for_each(|piece| writer.body(piece));
        writer.end(self.end.as_ref());
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    fn body(data: &'static [u8]) -> RequestBody {
        let full = Full::new(Bytes::from_static(data)).map_err(|never| match never {});
        RequestBody::Stream(Box::pin(full))
    }

    async fn read(source: &mut Source) -> Vec<u8> {
        let mut all = Vec::new();
        while let Piece::Data(data) = source.next().await.unwrap() {
            all.extend_from_slice(&data);
        }
        all
    }

    #[tokio::test]
    async fn a_small_body_is_sent_again_from_its_first_byte() {
        let budget = Arc::new(Budget::new(100));
        let mut source = Source::new(body(b"hello"), None, budget.clone());
        assert_eq!(read(&mut source).await, b"hello");
        assert!(source.is_repeatable());
        source.rewind();
        assert_eq!(read(&mut source).await, b"hello");
        drop(source);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_body_over_the_budget_goes_once() {
        let budget = Arc::new(Budget::new(4));
        let mut source = Source::new(body(b"hello"), None, budget.clone());
        assert_eq!(read(&mut source).await, b"hello");
        assert!(!source.is_repeatable());
        assert_eq!(budget.used(), 0);
    }
}
