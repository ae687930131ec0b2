//! Stage 8: the two byte streams that an accepted upgrade leaves.
//!
//! Each direction ends by itself: the end of one is a FIN there and nothing else. A direction that breaks resets the
//! connection, so that neither side takes a cut for an end.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::io::Signals;
use super::lease::Lease;
use crate::fault::{Fault, Kind, Side, Stage};

/// Pieces that bytes are read in.
const PIECE: usize = 16 << 10;

type Io = TokioIo<Upgraded>;

/// The direction from the upstream. Dropping it before its end resets the connection.
pub(super) struct Received {
    half: ReadHalf<Io>,
    /// Resolves when the other direction broke.
    broken: Pin<Box<WaitForCancellationFutureOwned>>,
    abort: Option<(DropGuard, Option<Arc<Signals>>)>,
    _lease: Arc<Lease>,
}

/// Splits an upgraded connection. The second half of the result is to be spawned: it carries `body` to the upstream.
pub(super) fn split<B>(
    upgraded: Upgraded,
    body: B,
    lease: Lease,
) -> (Received, impl Future<Output = ()> + Send + 'static)
where
    B: Body<Data = Bytes, Error = Fault> + Send + 'static,
{
    let (half, writer) = tokio::io::split(TokioIo::new(upgraded));
    let (dropped, broken) = (CancellationToken::new(), CancellationToken::new());
    let (signals, write_timeout) = (lease.signals(), lease.pool().limits.body_timeout);
    // Whichever direction ends last gives the connection's place up.
    let lease = Arc::new(lease);
    let abort = Some((dropped.clone().drop_guard(), signals.clone()));
    let broken_owned = Box::pin(broken.clone().cancelled_owned());
    let received = Received { half, broken: broken_owned, abort, _lease: lease.clone() };
    let sending = async move {
        let _lease = lease;
        let done = dropped.run_until_cancelled(send(Box::pin(body), writer, write_timeout)).await;
        if done != Some(true) {
            reset(signals.as_deref());
            broken.cancel();
        }
    };
    (received, sending)
}

fn reset(signals: Option<&Signals>) {
    if let Some(signals) = signals {
        signals.reset.store(true, Ordering::Relaxed);
    }
}

/// Carries a body to its end. False when it broke.
async fn send<B>(mut body: Pin<Box<B>>, mut writer: WriteHalf<Io>, write_timeout: Duration) -> bool
where
    B: Body<Data = Bytes, Error = Fault>,
{
    loop {
        match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            Some(Ok(frame)) => {
                let Ok(mut data) = frame.into_data() else { continue };
                let written = async {
                    writer.write_all_buf(&mut data).await?;
                    writer.flush().await
                };
                if !matches!(tokio::time::timeout(write_timeout, written).await, Ok(Ok(()))) {
                    return false;
                }
            }
            Some(Err(_)) => return false,
            None => return matches!(tokio::time::timeout(write_timeout, writer.shutdown()).await, Ok(Ok(()))),
        }
    }
}

impl Received {
    /// The next bytes; `None` is the end of this direction.
    pub(super) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let broken = Fault::new(Stage::Upstream, Side::Upstream, Kind::ConnectionTerminated);
        // Silent streams hold no buffer: it is on the stack.
        let mut piece = [std::mem::MaybeUninit::uninit(); PIECE];
        let mut piece = ReadBuf::uninit(&mut piece);
        match Pin::new(&mut self.half).poll_read(cx, &mut piece) {
            Poll::Ready(Ok(())) if piece.filled().is_empty() => {
                self.disarm();
                Poll::Ready(Ok(None))
            }
            Poll::Ready(Ok(())) => Poll::Ready(Ok(Some(Bytes::copy_from_slice(piece.filled())))),
            Poll::Ready(Err(_)) => Poll::Ready(Err(broken)),
            Poll::Pending if self.broken.as_mut().poll(cx).is_ready() => Poll::Ready(Err(broken)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Ends this direction in order: the other one goes on.
    fn disarm(&mut self) {
        if let Some((guard, _)) = self.abort.take() {
            drop(guard.disarm());
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some((guard, signals)) = self.abort.take() {
            reset(signals.as_deref());
            drop(guard);
        }
    }
}
