//! Stage 1, a client's TCP stream below TLS: tells the [`Activity`] of bytes and gives up on a client that takes
//! nothing. Owned by the connection; knows neither TLS nor HTTP.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::activity::Activity;
use crate::clock;

/// A TCP stream whose writes fail once the peer took no byte for `timeout`.
pub(super) struct Transport {
    tcp: TcpStream,
    activity: Arc<Activity>,
    stall: Stall,
}

impl Transport {
    pub(super) fn new(tcp: TcpStream, activity: Arc<Activity>, timeout: Duration) -> Self {
        Self { tcp, activity, stall: Stall::new(timeout) }
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.activity.bytes_read(clock::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.stall.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.stall.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// A deadline that runs while something is pending and starts anew with each progress.
pub(super) struct Stall {
    timeout: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Stall {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, sleep: None, running: false }
    }

    /// Progress was made: the deadline no longer runs.
    pub(super) fn progress(&mut self) {
        self.running = false;
    }

    /// Nothing came: starts the deadline if it does not run. Ready when it has passed.
    pub(super) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timeout = self.timeout;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        if !self.running {
            let deadline = tokio::time::Instant::from_std(clock::now() + timeout);
            sleep.as_mut().reset(deadline);
            self.running = true;
        }
        sleep.as_mut().poll(cx)
    }

    fn judge(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.progress();
            return written;
        }
        self.poll_pending(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}
