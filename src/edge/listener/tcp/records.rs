//! Stage 1, TLS after the handshake: a stream whose plaintext fills whole records and whose records leave together.
//!
//! Made for each connection from what the handshake leaves. rustls keeps all cryptography and all rules of the protocol; this
//! decides when a record is made and where its bytes wait. rustls' own way, a record for each write and memory for each
//! record until the socket has taken it, gives a peer that writes 16 KiB and nine bytes two records, and each record cold
//! memory and a system call. Never writes before a flush unless it is full.
//!
//! Invariants:
//! - Bytes leave in the order written: `open` follows what is sealed, and what rustls wants to say follows what it said.
//! - `open` is shorter than a record; `sealed` is at most [`SEALED_MAX`] and one record (what a flush adds).
//! - After a flush nothing waits and no memory is held; nothing is held either for a peer that is silent.

use std::io::{self, BufRead, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

use super::pieces;

/// Plaintext of a full record (RFC 8446 section 5.1).
const RECORD_LEN: usize = 16 << 10;
/// A full record on the wire: header, and explicit nonce and tag, or inner type and tag.
const WIRE_LEN: usize = RECORD_LEN + 5 + 24;
/// Sealed bytes that go to the socket at once: four full records.
const SEALED_MAX: usize = 4 * WIRE_LEN;
/// A record's plaintext, in two parts, as [`pieces::slices`] has it.
const RECORD_PIECES: usize = 10;
/// What one read of the socket may bring.
const READ_LEN: usize = 32 << 10;

/// A TLS session on `T`, after its handshake.
pub(super) struct Records<T> {
    transport: T,
    session: ServerConnection,
    /// Plaintext of the next record.
    open: Vec<u8>,
    /// Records for the socket, which has taken `sent` bytes of them.
    sealed: Vec<u8>,
    sent: usize,
    /// From the socket, not yet taken by the session.
    received: BytesMut,
    read_ended: bool,
    write_ended: bool,
    /// To be told at the next read.
    read_failure: Option<io::Error>,
    /// To be told at the next read or write.
    failure: Option<io::Error>,
}

impl<T> From<TlsStream<T>> for Records<T> {
    fn from(tls: TlsStream<T>) -> Self {
        let (transport, session) = tls.into_inner();
        Self::new(transport, session)
    }
}

impl<T> Records<T> {
    /// All that `transport` brought so far has been given to `session`.
    pub(super) fn new(transport: T, session: ServerConnection) -> Self {
        Self {
            transport,
            session,
            open: Vec::new(),
            sealed: Vec::new(),
            sent: 0,
            received: BytesMut::new(),
            read_ended: false,
            write_ended: false,
            read_failure: None,
            failure: None,
        }
    }

    /// What was agreed on in the handshake.
    pub(super) fn session(&self) -> &ServerConnection {
        &self.session
    }

    /// Makes the next read or write fail.
    pub(super) fn fail(&mut self, failure: io::Error) {
        self.failure = Some(failure);
    }

    /// What [`fail`](Self::fail) left, once.
    pub(super) fn check(&mut self) -> io::Result<()> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Takes of `data` what there is room for.
    fn push(&mut self, mut data: &[u8]) -> io::Result<usize> {
        let whole = data.len();
        while !data.is_empty() && self.sealed.len() + WIRE_LEN <= SEALED_MAX {
            let Some((part, rest)) = data.split_at_checked(RECORD_LEN - self.open.len()) else {
                pieces::append(&mut self.open, data);
                return Ok(whole);
            };
            self.seal(part)?;
            data = rest;
        }
        Ok(whole - data.len())
    }

    /// Makes a record of the open one and `part`.
    fn seal(&mut self, part: &[u8]) -> io::Result<()> {
        let slices = pieces::slices::<RECORD_PIECES>(&self.open, part);
        let taken = self.session.writer().write_vectored(&slices)?;
        if taken < self.open.len() + part.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.open.clear();
        if !part.is_empty() {
            // More will follow.
            self.sealed.reserve_exact(SEALED_MAX.saturating_sub(self.sealed.len()));
        }
        self.collect()
    }

    /// Takes what the session has for the peer.
    fn collect(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut pieces::Sink(&mut self.sealed))?;
        }
        Ok(())
    }

    /// Makes a record of what is open, and takes what the session has for the peer.
    fn seal_rest(&mut self) -> io::Result<()> {
        if self.open.is_empty() { self.collect() } else { self.seal(&[]) }
    }

    /// Copies out what is decrypted. Whether there was anything, if only the end.
    fn take_plaintext(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<bool> {
        let chunk = match self.session.reader().into_first_chunk() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            chunk => chunk?,
        };
        self.read_ended = chunk.is_empty();
        let taken = chunk.len().min(buf.remaining());
        let (chunk, _) = chunk.split_at_checked(taken).unwrap_or_default();
        pieces::put(buf, chunk);
        self.session.reader().consume(taken);
        Ok(true)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Records<T> {
    /// Gives the socket what is sealed. Ready when it has taken all.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.sealed.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.transport).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => self.sent += taken,
            }
        }
        self.sealed.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Takes bytes from the socket and gives them to the session, which may answer.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.received.is_empty() {
            self.received.reserve(READ_LEN);
            match poll_read_buf(Pin::new(&mut self.transport), cx, &mut self.received) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    self.received = BytesMut::new();
                    return Poll::Pending;
                }
            };
        }
        // Of nothing it learns that the socket has ended.
        let taken = self.session.read_tls(&mut pieces::Source(&self.received))?;
        self.received.advance(taken);
        if let Err(error) = self.session.process_new_packets() {
            // An alert, if the socket takes it.
            let _ = self.collect().map(|()| self.poll_send(cx));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_push(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check()?;
        loop {
            let mut taken = 0;
            for buf in bufs {
                let pushed = self.push(buf)?;
                taken += pushed;
                if pushed < buf.len() {
                    break;
                }
            }
            if taken > 0 || bufs.iter().all(|buf| buf.is_empty()) {
                return Poll::Ready(Ok(taken));
            }
            ready!(self.poll_send(cx))?;
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Records<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        self.read_failure.take().map_or(Ok(()), Err)?;
        let before = buf.filled().len();
        while !self.read_ended && buf.remaining() > 0 {
            let polled = match self.take_plaintext(buf) {
                Ok(true) => continue,
                Ok(false) => self.poll_receive(cx),
                Err(error) => Poll::Ready(Err(error)),
            };
            match polled {
                Poll::Ready(Ok(())) => {}
                stopped if buf.filled().len() == before => return stopped,
                Poll::Ready(Err(error)) => {
                    self.read_failure = Some(error);
                    break;
                }
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Records<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_push(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_push(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.seal_rest()?;
        ready!(self.poll_send(cx))?;
        self.open = Vec::new();
        self.sealed = Vec::new();
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.write_ended {
            self.write_ended = true;
            self.seal_rest()?;
            self.session.send_close_notify();
            self.collect()?;
        }
        ready!(self.poll_send(cx))?;
        match ready!(Pin::new(&mut self.transport).poll_shutdown(cx)) {
            // The client has gone, too.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            ended => Poll::Ready(ended),
        }
    }
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
