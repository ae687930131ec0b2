//! Stage 8: the connections of one upstream: a hard cap, a bounded queue with a deadline, reuse, idle closing.
//!
//! Called by [`super::Upstreams`] for every request. Which connection a request gets is decided by [`super::shelf`];
//! this file holds the lock, wakes those who wait, and closes what is unused. The lock is never held across an await,
//! and nothing is dropped or sent under it that could come back for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::connect::Connector;
use super::health::Health;
use super::lease::{Exclusive, Lease, Multiplexed};
use super::metrics::UpstreamMetrics;
use super::shelf::{ConnectionId, Shelf, Taken, Usable, Wait};
use crate::clock;
use crate::config::{Upstream, UpstreamLimits, UpstreamScheme};
use crate::fault::{Fault, Kind, Retry, Side, Stage};
use crate::task::Tasks;

type Sender = oneshot::Sender<Grant>;

/// What a request is served with.
pub(super) enum Grant {
    /// A connection that exists.
    Lease(Lease),
    /// Permission to open one.
    Open(Slot),
}

impl Wait for Sender {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }
}

impl Usable for Exclusive {
    fn has_room(&self, _streams: usize) -> bool {
        self.sender.is_ready()
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Usable for Multiplexed {
    fn has_room(&self, streams: usize) -> bool {
        streams < self.peer.streams_max() && !self.is_closed()
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// The place of one socket under the cap: freed when this is dropped.
pub(super) struct Slot {
    pool: Arc<Pool>,
    id: ConnectionId,
    worker: usize,
}

impl Slot {
    pub(super) fn id(&self) -> ConnectionId {
        self.id
    }

    pub(super) fn worker(&self) -> usize {
        self.worker
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.metrics.connections.dec();
        let gone = self.pool.shelf.lock().handle_closed(self.id);
        drop(gone);
        self.pool.serve_waiting();
    }
}

/// One upstream's connections.
pub(super) struct Pool {
    pub(super) scheme: UpstreamScheme,
    pub(super) connector: Connector,
    pub(super) limits: UpstreamLimits,
    pub(super) metrics: Arc<UpstreamMetrics>,
    pub(super) tasks: Tasks,
    shelf: Mutex<Shelf<Exclusive, Multiplexed, Sender>>,
    health: Mutex<Health>,
    reaping: Mutex<bool>,
}

impl Pool {
    pub(super) fn new(
        upstream: &Upstream,
        connector: Connector,
        limits: &UpstreamLimits,
        metrics: Arc<UpstreamMetrics>,
        tasks: Tasks,
    ) -> Self {
        let multiplexed = match upstream.scheme {
            UpstreamScheme::Http => Some(false),
            UpstreamScheme::H2c => Some(true),
            UpstreamScheme::Https => None,
        };
        Self {
            scheme: upstream.scheme,
            connector,
            limits: limits.clone(),
            metrics,
            tasks,
            shelf: Mutex::new(Shelf::new(limits.connections_max, limits.queue_max, multiplexed)),
            health: Mutex::new(Health::default()),
            reaping: Mutex::new(false),
        }
    }

    /// Whether other upstreams should be tried first.
    pub(super) fn is_down(&self, now: Instant) -> bool {
        self.health.lock().is_down(now)
    }

    /// A connection, or permission to open one, waiting in the queue until `deadline` if need be. `fresh` avoids
    /// reused connections where possible.
    ///
    /// # Errors
    /// `connection_limit_reached` when the queue is full or the deadline passed: nothing was sent.
    pub(super) async fn ask(self: &Arc<Self>, fresh: bool, deadline: Instant) -> Result<Grant, Fault> {
        let worker = worker();
        let waiting = {
            let mut shelf = self.shelf.lock();
            match shelf.ask(worker, fresh) {
                Some(taken) => Ok(taken),
                None => {
                    let (sender, receiver) = oneshot::channel();
                    Err(shelf.enqueue(sender, worker).map(|()| receiver))
                }
            }
        };
        match waiting {
            Ok(taken) => Ok(self.granted(taken, worker)),
            Err(Ok(receiver)) => self.wait(receiver, deadline).await,
            Err(Err(_)) => {
                self.metrics.queue_full.inc();
                Err(limit_reached())
            }
        }
    }

    /// Permission to open a connection of one's own, without waiting.
    pub(super) fn ask_own(self: &Arc<Self>) -> Result<Slot, Fault> {
        let id = self.shelf.lock().ask_own().ok_or_else(limit_reached)?;
        Ok(self.slot(id, worker()))
    }

    async fn wait(&self, receiver: oneshot::Receiver<Grant>, deadline: Instant) -> Result<Grant, Fault> {
        let _waiting = Counted::new(&self.metrics);
        match tokio::time::timeout_at(deadline.into(), receiver).await {
            Ok(Ok(grant)) => Ok(grant),
            Ok(Err(_)) => Err(Fault::internal(Stage::Upstream, Side::Gateway).with_retry(Retry::Anywhere)),
            Err(_) => {
                self.metrics.queue_timeouts.inc();
                Err(limit_reached())
            }
        }
    }

    fn granted(self: &Arc<Self>, taken: Taken<Exclusive, Multiplexed>, worker: usize) -> Grant {
        match taken {
            Taken::Idle(id, exclusive) => Grant::Lease(Lease::exclusive(self.clone(), id, exclusive, true)),
            Taken::Stream(id, shared) => Grant::Lease(Lease::multiplexed(self.clone(), id, shared, true)),
            Taken::Open(id) => Grant::Open(self.slot(id, worker)),
        }
    }

    fn slot(self: &Arc<Self>, id: ConnectionId, worker: usize) -> Slot {
        self.metrics.connections.inc();
        Slot { pool: self.clone(), id, worker }
    }

    /// Gives what is free to those who wait. A grant that nobody takes any more comes back through its drop.
    fn serve_waiting(self: &Arc<Self>) {
        loop {
            let served = self.shelf.lock().next_served();
            let Some((waiter, worker, taken)) = served else { return };
            let _ = waiter.send(self.granted(taken, worker));
        }
    }

    /// A connect failed.
    pub(super) fn handle_connect_failure(&self) {
        self.metrics.connect_failures.inc();
        self.health.lock().handle_failure(clock::now());
    }

    /// A connection for one request at a time was opened.
    pub(super) fn handle_exclusive(self: &Arc<Self>, id: ConnectionId) {
        self.handle_connected();
        self.shelf.lock().handle_exclusive(id);
        self.serve_waiting();
    }

    /// A connection for many requests was opened; its first stream is taken.
    pub(super) fn handle_shared(self: &Arc<Self>, id: ConnectionId, worker: usize, connection: Multiplexed) {
        self.handle_connected();
        self.shelf.lock().handle_shared(id, worker, connection, clock::now());
        self.serve_waiting();
    }

    fn handle_connected(self: &Arc<Self>) {
        self.metrics.connects.inc();
        self.health.lock().handle_success();
        if !std::mem::replace(&mut *self.reaping.lock(), true) {
            self.tasks.spawn(reap(self.clone()));
        }
    }

    /// An exclusive connection is free again.
    pub(super) fn handle_free(self: &Arc<Self>, id: ConnectionId, connection: Exclusive) {
        let refused = self.shelf.lock().handle_free(id, connection.worker, connection, clock::now());
        drop(refused);
        self.serve_waiting();
    }

    /// A stream of a shared connection ended.
    pub(super) fn handle_stream_end(self: &Arc<Self>, id: ConnectionId) {
        let closed = self.shelf.lock().handle_stream_end(id, clock::now());
        drop(closed);
        self.serve_waiting();
    }

    /// Closes what was unused since `before`; says when to look again, or nothing when there are no connections.
    fn close_unused(&self, before: Instant) -> Option<Instant> {
        let (exclusive, shared, oldest) = {
            let mut shelf = self.shelf.lock();
            if shelf.open() == 0 {
                *self.reaping.lock() = false;
                return None;
            }
            let (exclusive, shared) = shelf.take_expired(before);
            (exclusive, shared, shelf.oldest_idle())
        };
        let closed = u64::try_from(exclusive.len() + shared.len()).unwrap_or(u64::MAX);
        self.metrics.idle_closed.inc_by(closed);
        let idle_timeout = self.limits.idle_timeout;
        Some(oldest.unwrap_or_else(clock::now) + idle_timeout)
    }

    /// Connections now, for tests.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.shelf.lock().open()
    }

    /// Requests waiting now, for tests.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.shelf.lock().queued()
    }
}

/// Closes unused connections of one upstream: one task while it has connections, not a timer for each.
async fn reap(pool: Arc<Pool>) {
    let idle_timeout = pool.limits.idle_timeout;
    let mut next = clock::now() + idle_timeout;
    loop {
        let drain = pool.tasks.draining();
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = drain => break,
        }
        let Some(before) = clock::now().checked_sub(idle_timeout) else { continue };
        match pool.close_unused(before) {
            Some(at) => next = at.max(clock::now() + Duration::from_millis(10)),
            None => return,
        }
    }
    // Requests that still run open and close connections of their own from here on.
    pool.shelf.lock().close();
    pool.close_unused(clock::now());
}

fn limit_reached() -> Fault {
    Fault::new(Stage::Upstream, Side::Gateway, Kind::ConnectionLimitReached).with_retry(Retry::Anywhere)
}

/// Counts a waiting request while it lives.
struct Counted<'a>(&'a UpstreamMetrics);

impl<'a> Counted<'a> {
    fn new(metrics: &'a UpstreamMetrics) -> Self {
        metrics.waiting.inc();
        Self(metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.waiting.dec();
    }
}

/// The number of this thread: connections live on the worker that opened them.
pub(super) fn worker() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static WORKER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    WORKER.with(|worker| *worker)
}
