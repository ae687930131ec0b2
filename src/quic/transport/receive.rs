//! The receiving half of a stream (RFC 9000 section 3.2).

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::{Chunk, ClosedStream, ReadError, StreamId, VarInt};
use quinn_proto::Chunks;

use super::connection::Handle;

/// Bytes from the peer. Dropped before its end it tells the peer to stop, with code 0.
pub struct RecvStream {
    connection: Handle,
    id: StreamId,
    early: bool,
    /// Everything was read, or it was stopped: the state machine has forgotten it.
    over: bool,
    /// The peer reset it, which the last read had bytes to tell instead.
    reset: Option<VarInt>,
}

impl RecvStream {
    pub(super) fn new(connection: Handle, id: StreamId, early: bool) -> Self {
        Self { connection, id, early, over: false, reset: None }
    }

    /// Fills `pieces` from the front with what is there, as packets brought it, and answers how many it filled; none at the end.
    /// Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the peer reset it, or the connection is over.
    pub async fn read_chunks(&mut self, pieces: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        poll_fn(|cx| {
            self.poll(cx, true, |chunks| {
                let mut count = 0;
                for piece in &mut *pieces {
                    match chunks.next(usize::MAX) {
                        Ok(Some(chunk)) => *piece = chunk.bytes,
                        end => return ((count > 0).then_some(count), Some(end.map(|_| ()))),
                    }
                    count += 1;
                }
                (Some(count), None)
            })
        })
        .await
    }

    /// The next piece of at most `length_max` bytes; none at the end. If not `ordered`, pieces come as they arrive, and none may be
    /// read in order any more.
    ///
    /// # Errors
    /// As [`read_chunks`](Self::read_chunks).
    pub async fn read_chunk(&mut self, length_max: usize, ordered: bool) -> Result<Option<Chunk>, ReadError> {
        poll_fn(|cx| {
            self.poll(cx, ordered, |chunks| match chunks.next(length_max) {
                Ok(Some(chunk)) => (Some(chunk), None),
                end => (None, Some(end.map(|_| ()))),
            })
        })
        .await
    }

    /// `read` answers what it got and, if it met the end of what is there, what that was: the end of the stream or why
    /// there is no more.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        ordered: bool,
        read: impl FnOnce(&mut Chunks<'_>) -> (Option<T>, Option<Result<(), quinn_proto::ReadError>>),
    ) -> Poll<Result<Option<T>, ReadError>> {
        if self.over {
            return Poll::Ready(Ok(None));
        }
        let state = &mut *self.connection.lock();
        let (got, end) = match self.reset {
            Some(code) => (None, Some(Err(quinn_proto::ReadError::Reset(code)))),
            None => {
                let mut stream = state.proto.recv_stream(self.id);
                let mut chunks = stream.read(ordered).map_err(ReadError::from)?;
                let answer = read(&mut chunks);
                // The peer may get credit.
                if chunks.finalize().should_transmit() {
                    self.connection.wake(state);
                }
                answer
            }
        };
        match end {
            None => {}
            Some(Ok(())) => self.over = true,
            Some(Err(quinn_proto::ReadError::Reset(code))) => {
                self.reset = Some(code);
                if got.is_none() {
                    self.over = true;
                    return Poll::Ready(Err(ReadError::Reset(code)));
                }
            }
            Some(Err(quinn_proto::ReadError::Blocked)) if got.is_some() => {}
            Some(Err(quinn_proto::ReadError::Blocked)) => {
                if let Some(error) = &state.error {
                    return Poll::Ready(Err(error.clone().into()));
                }
                state.readers.insert(self.id, cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(got))
    }

    /// Tells the peer to stop (STOP_SENDING) and lets what came go.
    ///
    /// # Errors
    /// When it was stopped before or everything was read.
    pub fn stop(&mut self, code: VarInt) -> Result<(), ClosedStream> {
        let state = &mut *self.connection.lock();
        state.proto.recv_stream(self.id).stop(code)?;
        state.readers.remove(&self.id);
        self.connection.wake(state);
        self.over = true;
        Ok(())
    }

    /// Whether it was opened before the handshake was complete: what it brings may be a repetition (RFC 9001 section 9.2).
    pub fn is_0rtt(&self) -> bool {
        self.early
    }

    /// Its number in the connection.
    pub fn id(&self) -> StreamId {
        self.id
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let state = &mut *self.connection.lock();
        state.readers.remove(&self.id);
        if state.error.is_none() && state.proto.recv_stream(self.id).stop(VarInt::from_u32(0)).is_ok() {
            self.connection.wake(state);
        }
    }
}
