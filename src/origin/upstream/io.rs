//! Stage 8: an open upstream socket, whatever its kind.
//!
//! Owned by hyper's connection while it speaks HTTP, by the two byte streams after an upgrade. Holds the pool's slot,
//! so that the pool counts sockets that exist and not requests that believe they do.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio_rustls::client::TlsStream;

use super::pool::Slot;

/// Bytes taken from a socket at once. hyper reads one piece ahead of what its caller takes, and the caller holds another while
/// its exchange has no credit: a thousand clients that do not read would make a gateway hold a thousand of both. One byte less
/// than a power of two: a read that fills hyper's buffer makes it take a buffer of twice the size.
const READ_MAX: usize = (16 << 10) - 1;
/// Bytes taken at once of a long body whose reader has shown to take it: what is read together is sent in full batches.
const READ_MAX_LONG: usize = READ_BUFFER - 1;
/// The same when [`LONG_MAX`] others are read so already.
const READ_MAX_MANY: usize = (64 << 10) - 1;
/// What hyper's buffer must be allowed to grow to, bytes.
pub(super) const READ_BUFFER: usize = 256 << 10;
/// Sockets of the process that are read so at a time: a reader that took much may stop, and then two reads are held.
const LONG_MAX: usize = 64;
/// Full reads in a row that show it: more than the credit that an exchange begins with, and what its connection adds.
const FULL_READS: u32 = 32;

/// The kinds of transport.
pub(super) enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// How many [`Long`] there are in the process.
static LONG: AtomicUsize = AtomicUsize::new(0);

/// The right to long reads, one of [`LONG_MAX`], until dropped.
struct Long(&'static AtomicUsize);

impl Long {
    /// One of those that are counted in `taken`, if one is left.
    fn take(taken: &'static AtomicUsize) -> Option<Self> {
        let more = |taken| (taken < LONG_MAX).then_some(taken + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(taken))
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What others may learn of, and do to, a socket that they do not hold.
#[derive(Default)]
pub(super) struct Signals {
    /// Notified once when the peer's first bytes came.
    pub(super) heard: Notify,
    /// Close with a reset instead of an end of stream, so that a cut cannot be taken for an end.
    pub(super) reset: AtomicBool,
}

/// An open socket with its place in the pool.
pub(super) struct Socket {
    transport: Transport,
    signals: Arc<Signals>,
    silent: bool,
    /// Full reads in a row.
    full: u32,
    /// Held as long as reads may be long.
    long: Option<Long>,
    _slot: Slot,
}

impl Socket {
    pub(super) fn new(transport: Transport, slot: Slot) -> Self {
        Self { transport, signals: Arc::default(), silent: true, full: 0, long: None, _slot: slot }
    }

    pub(super) fn signals(&self) -> Arc<Signals> {
        self.signals.clone()
    }

    /// Whether ALPN chose HTTP/2.
    pub(super) fn negotiated_h2(&self) -> bool {
        match &self.transport {
            Transport::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
            Transport::Tcp(_) | Transport::Unix(_) => false,
        }
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match &self.transport {
            Transport::Tcp(stream) => Some(stream),
            Transport::Tls(stream) => Some(stream.get_ref().0),
            Transport::Unix(_) => None,
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.signals.reset.load(Ordering::Relaxed)
            && let Some(stream) = self.tcp()
        {
            // Best effort: on failure the peer sees an ordinary close.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().transport {
            Transport::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Transport::Tls(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
            Transport::Unix(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let most = match (&this.long, this.full) {
            (Some(_), _) => READ_MAX_LONG,
            (None, FULL_READS) => READ_MAX_MANY,
            (None, _) => READ_MAX,
        } as u64;
        let poll = match &mut this.transport {
            Transport::Tcp(stream) => pin!(stream.take(most)).poll_read(cx, buf),
            Transport::Unix(stream) => pin!(stream.take(most)).poll_read(cx, buf),
            // A record is 16 KiB at most; what would be left of it would be a read of its own.
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        };
        if poll.is_ready() {
            let full = buf.filled().len() - before >= READ_MAX;
            this.full = if full { (this.full + 1).min(FULL_READS) } else { this.full / 2 };
            this.long = if this.full == FULL_READS { this.long.take().or_else(|| Long::take(&LONG)) } else { None };
            if std::mem::take(&mut this.silent) {
                this.signals.heard.notify_one();
            }
        }
        poll
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
            Transport::Unix(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_sockets_than_there_are_places_are_read_in_long_pieces() {
        static TAKEN: AtomicUsize = AtomicUsize::new(0);
        let take = || Long::take(&TAKEN);
        let mut places: Vec<Long> = std::iter::from_fn(take).take(2 * LONG_MAX).collect();
        assert_eq!(places.len(), LONG_MAX);
        places.pop();
        let again = take();
        assert!(again.is_some() && take().is_none());
    }
}
