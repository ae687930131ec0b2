//! The only place that spawns. Every task has an owner: a [`Tasks`] that outlives it and can wait for it.
//!
//! Ending has two signals, in order: *drain* (no new work, finish what runs) and *force* (stop now). A task sees drain
//! through [`Tasks::draining`] and ends by itself; force drops it where it stands.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The two signals of an orderly end, shared by everything in a process.
#[derive(Clone, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    force: CancellationToken,
    /// Set before `force`: a look at it takes no lock.
    forced: Arc<AtomicBool>,
}

impl Shutdown {
    /// Asks for an orderly end: no new work, finish what runs.
    pub fn start_drain(&self) {
        self.drain.cancel();
    }

    /// Ends everything now; implies drain.
    pub fn start_force(&self) {
        self.forced.store(true, Ordering::Release);
        self.drain.cancel();
        self.force.cancel();
    }

    /// Whether drain has begun.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Whether force has begun.
    pub fn is_forced(&self) -> bool {
        self.forced.load(Ordering::Acquire)
    }

    /// Resolves when drain begins.
    pub fn draining(&self) -> impl Future<Output = ()> + '_ {
        self.drain.cancelled()
    }

    /// Resolves when force begins.
    pub fn forced(&self) -> impl Future<Output = ()> + '_ {
        self.force.cancelled()
    }
}

/// An owner of tasks: spawns them, signals them and waits for them.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: Shutdown,
}

impl Tasks {
    /// An owner with no tasks, under the process's two signals.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { tracker: TaskTracker::new(), shutdown }
    }

    /// An owner whose tasks are counted apart but which hears the same signals.
    pub fn child(&self) -> Self {
        Self::new(self.shutdown.clone())
    }

    /// Runs `future` on the current runtime until it ends or force begins.
    pub fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // tokio moves a future half a dozen times on its way into a task, and a request's future is 10 KiB large: it
        // goes to the heap at once, and only the box is moved.
        let mut future = Box::pin(future);
        let Shutdown { force, forced, .. } = self.shutdown.clone();
        self.tracker.spawn(async move {
            let mut force = pin!(force.cancelled());
            let mut watching = false;
            poll_fn(|cx| {
                // Force first: a last poll could end a stream cleanly whose other half was just dropped. The signal
                // keeps the waker of the first poll; tasks never change theirs.
                let ends = match std::mem::replace(&mut watching, true) {
                    true => forced.load(Ordering::Acquire),
                    false => force.as_mut().poll(cx).is_ready(),
                };
                if ends { Poll::Ready(()) } else { future.as_mut().poll(cx) }
            })
            .await;
        });
    }

    /// The signals these tasks run under.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Resolves when drain begins.
    pub fn draining(&self) -> impl Future<Output = ()> + '_ {
        self.shutdown.draining()
    }

    /// Tasks running now.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task runs.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits until every task has ended. New tasks may still be spawned while waiting; they are waited for too.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
