//! Stage 1, the tasks of HTTP/2 streams: hyper hands each stream's future to the [`StreamExecutor`], which watches it.
//!
//! Two things hyper cannot do are done here, by dropping the stream's future, which resets the stream: giving up on a
//! client that grants no window, and cutting an upgraded stream instead of ending it cleanly.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use prometheus_client::metrics::counter::Counter;
use tokio_util::sync::CancellationToken;

use super::transport::Stall;
use crate::task::Tasks;

tokio::task_local! {
    static CURRENT: Phase;
}

/// What one stream is doing; shared by its task, its response body and, after a switch, the pump.
#[derive(Clone, Default)]
pub(super) struct Phase {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waits_on_client: AtomicBool,
    frames: AtomicU32,
    cut: CancellationToken,
    send_ended: CancellationToken,
}

impl Phase {
    /// The phase of the stream whose task this is; none on HTTP/1.1.
    pub(super) fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// The response body was asked for its next frame: whatever came before has been sent. If there `is` one, it now
    /// waits for the client's window.
    pub(super) fn next_frame(&self, is: bool) {
        self.shared.frames.fetch_add(1, Ordering::Relaxed);
        self.shared.waits_on_client.store(is, Ordering::Relaxed);
    }

    /// While bytes wait for the client's window: how many frames were asked for so far.
    fn waiting_frame(&self) -> Option<u32> {
        let waits = self.shared.waits_on_client.load(Ordering::Relaxed);
        waits.then(|| self.shared.frames.load(Ordering::Relaxed))
    }

    /// Makes the sending half of an upgraded stream end with a reset.
    pub(super) fn cut(&self) {
        self.shared.cut.cancel();
    }

    /// Whether the sending half of an upgraded stream has ended: cleanly, or by the client's reset.
    pub(super) fn send_ended(&self) -> bool {
        self.shared.send_ended.is_cancelled()
    }
}

/// Spawns the streams of one connection as tasks of its owner.
#[derive(Clone)]
pub(super) struct StreamExecutor {
    pub(super) tasks: Tasks,
    pub(super) timeout: Duration,
    pub(super) stalled: Counter,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        // From within a stream's task hyper spawns the sending half of that stream after a switch.
        if let Some(phase) = Phase::current() {
            self.tasks.spawn(async move {
                // The cut counts even when the future could end: its end would be a clean one.
                tokio::select! {
                    biased;
                    () = phase.shared.cut.cancelled() => {}
                    () = future => {}
                }
                phase.shared.send_ended.cancel();
            });
            return;
        }
        let phase = Phase::default();
        let watched = Watched {
            future: Box::pin(future),
            phase: phase.clone(),
            frame: None,
            stall: Stall::new(self.timeout),
            stalled: self.stalled.clone(),
        };
        self.tasks.spawn(CURRENT.scope(phase, watched));
    }
}

/// A stream's future that ends early when the client takes nothing.
struct Watched<F> {
    future: Pin<Box<F>>,
    phase: Phase,
    frame: Option<u32>,
    stall: Stall,
    stalled: Counter,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let frame = this.phase.waiting_frame();
        if frame.is_none() || frame != this.frame {
            this.stall.progress();
            this.frame = frame;
        }
        if frame.is_none() {
            return Poll::Pending;
        }
        ready!(this.stall.poll_pending(cx));
        this.stalled.inc();
        Poll::Ready(())
    }
}
