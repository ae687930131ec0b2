//! Stage 1, HTTP/2: what one turn of a connection writes leaves at its end. h2 flushes after each frame, and a frame is 16 KiB at
//! most, so that each would be a system call and, with its header, two TLS records.
//!
//! Made for each HTTP/2 connection: hyper has the [`Gathered`] end and flushes in vain; [`Flushing`], which polls hyper's
//! connection, has the other one and flushes when hyper has nothing more to write for now. Nothing waits for longer than a turn.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Graceful;
use super::records::Records;
use super::transport::Transport;

type Stream = Records<Transport>;

/// hyper's end of a stream, and the one to flush it.
pub(super) fn gather(stream: Stream) -> (Gathered, Flusher) {
    let shared = Arc::new(Mutex::new(stream));
    (Gathered(shared.clone()), Flusher(shared))
}

/// hyper's end.
pub(super) struct Gathered(Arc<Mutex<Stream>>);

/// The end that flushes.
pub(super) struct Flusher(Arc<Mutex<Stream>>);

impl Flusher {
    /// Sends what waits, as far as the socket takes it. Whether hyper must hear of a failure.
    fn flush(&self, cx: &mut Context<'_>) -> bool {
        let mut stream = self.0.lock();
        if let Poll::Ready(Err(failure)) = Pin::new(&mut *stream).poll_flush(cx) {
            stream.fail(failure);
            return true;
        }
        false
    }
}

impl AsyncRead for Gathered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Left to the [`Flusher`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.lock().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_shutdown(cx)
    }
}

/// A connection whose stream is flushed after each of its turns.
pub(super) struct Flushing<C> {
    conn: Pin<Box<C>>,
    flusher: Flusher,
}

impl<C> Flushing<C> {
    pub(super) fn new(conn: C, flusher: Flusher) -> Self {
        Self { conn: Box::pin(conn), flusher }
    }
}

impl<C: Graceful> Future for Flushing<C> {
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let turn = self.conn.as_mut().poll(cx);
        if self.flusher.flush(cx) && turn.is_pending() {
            // To hear of the failure, which ends it.
            return self.conn.as_mut().poll(cx);
        }
        turn
    }
}

impl<C: Graceful> Graceful for Flushing<C> {
    fn shut_down(mut self: Pin<&mut Self>) {
        self.conn.as_mut().shut_down();
    }
}
