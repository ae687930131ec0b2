//! The sending half of a stream (RFC 9000 section 3.1).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::{ClosedStream, StoppedError, StreamId, VarInt, WriteError, Written};
use quinn_proto::FinishError;

use super::connection::Handle;

/// Bytes to the peer. Dropped before [`reset`](Self::reset) it ends cleanly: who has not sent everything must reset it.
pub struct SendStream {
    connection: Handle,
    id: StreamId,
}

impl SendStream {
    pub(super) fn new(connection: Handle, id: StreamId) -> Self {
        Self { connection, id }
    }

    /// Hands over pieces as they are, as many as there is room for, at least a part of one: what was taken is gone from them.
    /// Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the peer wants no more, or the stream or the connection is over.
    pub async fn write_chunks(&mut self, pieces: &mut [Bytes]) -> Result<Written, WriteError> {
        poll_fn(|cx| self.poll(cx, |stream| stream.write_chunks(pieces))).await
    }

    /// Hands over the whole piece.
    ///
    /// # Errors
    /// As [`write_chunks`](Self::write_chunks).
    pub async fn write_chunk(&mut self, piece: Bytes) -> Result<(), WriteError> {
        let mut piece = [piece];
        while piece.iter().any(|piece| !piece.is_empty()) {
            self.write_chunks(&mut piece).await?;
        }
        Ok(())
    }

    /// Copies all of `bytes`.
    ///
    /// # Errors
    /// As [`write_chunks`](Self::write_chunks).
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| self.poll(cx, |stream| stream.write(bytes))).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut quinn_proto::SendStream<'_>) -> Result<T, quinn_proto::WriteError>,
    ) -> Poll<Result<T, WriteError>> {
        let state = &mut *self.connection.lock();
        if let Some(error) = &state.error {
            return Poll::Ready(Err(error.clone().into()));
        }
        match write(&mut state.proto.send_stream(self.id)) {
            Ok(written) => {
                self.connection.wake(state);
                Poll::Ready(Ok(written))
            }
            Err(quinn_proto::WriteError::Blocked) => {
                state.writers.insert(self.id, cx.waker().clone());
                Poll::Pending
            }
            Err(quinn_proto::WriteError::Stopped(code)) => Poll::Ready(Err(WriteError::Stopped(code))),
            Err(quinn_proto::WriteError::ClosedStream) => Poll::Ready(Err(WriteError::ClosedStream)),
        }
    }

    /// Ends it cleanly: what was handed over arrives, and the peer learns that it is all.
    ///
    /// # Errors
    /// When it was finished or reset before.
    pub fn finish(&mut self) -> Result<(), ClosedStream> {
        let state = &mut *self.connection.lock();
        match state.proto.send_stream(self.id).finish() {
            Ok(()) => self.connection.wake(state),
            // `stopped` tells of it.
            Err(FinishError::Stopped(_)) => {}
            Err(FinishError::ClosedStream) => return Err(ClosedStream::default()),
        }
        Ok(())
    }

    /// Breaks it off (RESET_STREAM): what has not arrived may never do.
    ///
    /// # Errors
    /// When it was finished and has arrived, or was reset before.
    pub fn reset(&mut self, code: VarInt) -> Result<(), ClosedStream> {
        let state = &mut *self.connection.lock();
        state.proto.send_stream(self.id).reset(code)?;
        self.connection.wake(state);
        Ok(())
    }

    /// Which stream of the connection goes first: a higher one.
    ///
    /// # Errors
    /// When it is over.
    pub fn set_priority(&self, priority: i32) -> Result<(), ClosedStream> {
        self.connection.lock().proto.send_stream(self.id).set_priority(priority)
    }

    /// Waits until the peer has stopped it (the code) or has got everything (none). For a stream that was reset before it
    /// answers none at once; one that waits when the stream is reset is not told.
    pub fn stopped(&self) -> Stopped {
        let number = {
            let mut state = self.connection.lock();
            state.stopper += 1;
            state.stopper
        };
        Stopped { connection: self.connection.clone(), id: self.id, number }
    }

    /// Its number in the connection.
    pub fn id(&self) -> StreamId {
        self.id
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        let state = &mut *self.connection.lock();
        state.writers.remove(&self.id);
        if state.error.is_some() {
            return;
        }
        let mut stream = state.proto.send_stream(self.id);
        let ended = match stream.finish() {
            Ok(()) => true,
            Err(FinishError::Stopped(code)) => stream.reset(code).is_ok(),
            Err(FinishError::ClosedStream) => false,
        };
        if ended {
            self.connection.wake(state);
        }
    }
}

/// See [`SendStream::stopped`]; outlives the stream.
pub struct Stopped {
    connection: Handle,
    id: StreamId,
    /// Tells those apart who wait for the same stream.
    number: u64,
}

impl Future for Stopped {
    type Output = Result<Option<VarInt>, StoppedError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let state = &mut *self.connection.lock();
        match state.proto.send_stream(self.id).stopped() {
            Err(ClosedStream { .. }) => return Poll::Ready(Ok(None)),
            Ok(Some(code)) => return Poll::Ready(Ok(Some(code))),
            Ok(None) => {}
        }
        if let Some(error) = &state.error {
            return Poll::Ready(Err(error.clone().into()));
        }
        state.stoppers.insert((self.id, self.number), cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.connection.lock().stoppers.remove(&(self.id, self.number));
    }
}
