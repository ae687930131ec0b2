//! Stage 8: which connection a request gets. Pure bookkeeping of one upstream's pool, generic over the connections.
//!
//! Owned by [`super::pool::Pool`] behind its lock. It opens and closes nothing: what it returns, the pool does.
//!
//! Invariants: `open` counts every connection from the permission to dial until its socket is closed and never
//! exceeds `open_max`; an exclusive connection is either idle here or with exactly one request; a shared connection
//! has never more streams than its peer allows; a request waits only when nothing can serve it, and the queue
//! never exceeds `queue_max`.

use std::collections::VecDeque;
use std::time::Instant;

/// A connection as the shelf sees it.
pub(super) trait Usable {
    /// Whether it can take another request while it carries `streams`.
    fn has_room(&self, streams: usize) -> bool;
    /// Whether it will never take a request again.
    fn is_closed(&self) -> bool;
}

/// Whoever waits for a connection.
pub(super) trait Wait {
    /// Whether it stopped waiting.
    fn is_gone(&self) -> bool;
}

/// The number of a connection within its pool.
pub(super) type ConnectionId = u64;

/// What serves a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken<S, M> {
    /// An idle connection, now exclusive.
    Idle(ConnectionId, S),
    /// A stream on a shared connection.
    Stream(ConnectionId, M),
    /// Permission to open a connection with this number.
    Open(ConnectionId),
}

struct Idle<S> {
    id: ConnectionId,
    worker: usize,
    since: Instant,
    connection: S,
}

struct Shared<M> {
    id: ConnectionId,
    worker: usize,
    streams: usize,
    idle_since: Instant,
    connection: M,
}

/// The connections of one upstream, its queue and its limits.
pub(super) struct Shelf<S, M, W> {
    open_max: usize,
    queue_max: usize,
    open: usize,
    next_id: ConnectionId,
    /// Newest last.
    idle: Vec<Idle<S>>,
    shared: Vec<Shared<M>>,
    /// Connections being opened, with the worker that opens them.
    opening: Vec<(ConnectionId, usize)>,
    /// Whether the upstream multiplexes; `None` until the first connection of an ALPN upstream tells.
    multiplexed: Option<bool>,
    waiting: VecDeque<(W, usize)>,
    /// Set when a drain began: nothing is kept idle any more.
    closing: bool,
}

impl<S: Usable, M: Usable + Clone, W: Wait> Shelf<S, M, W> {
    pub(super) fn new(open_max: usize, queue_max: usize, multiplexed: Option<bool>) -> Self {
        Self {
            open_max: open_max.max(1),
            queue_max,
            open: 0,
            next_id: 0,
            idle: Vec::new(),
            shared: Vec::new(),
            opening: Vec::new(),
            multiplexed,
            waiting: VecDeque::new(),
            closing: false,
        }
    }

    /// Connections that exist, those being opened included.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// For tests: requests in the queue, those that gave up but were not yet noticed included.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.waiting.len()
    }

    /// A connection for a request on `worker`, if one can be had now. `fresh` avoids idle connections while another
    /// may be opened.
    pub(super) fn ask(&mut self, worker: usize, fresh: bool) -> Option<Taken<S, M>> {
        self.forget_gone();
        if self.waiting.is_empty() { self.take(worker, fresh) } else { None }
    }

    /// Puts a request into the queue.
    pub(super) fn enqueue(&mut self, waiter: W, worker: usize) -> Result<(), W> {
        if self.waiting.len() >= self.queue_max {
            self.waiting.retain(|(waiter, _)| !waiter.is_gone());
        }
        if self.waiting.len() >= self.queue_max {
            return Err(waiter);
        }
        self.waiting.push_back((waiter, worker));
        Ok(())
    }

    /// The first waiting request together with what serves it, if that can be had now. Called after every change.
    pub(super) fn next_served(&mut self) -> Option<(W, usize, Taken<S, M>)> {
        self.forget_gone();
        let &(_, worker) = self.waiting.front()?;
        let taken = self.take(worker, false)?;
        let (waiter, worker) = self.waiting.pop_front()?;
        Some((waiter, worker, taken))
    }

    /// Permission to open one more connection whatever there is already; for upgrades. Nobody else waits for it.
    pub(super) fn ask_own(&mut self) -> Option<ConnectionId> {
        (self.open < self.open_max).then(|| self.count_open())
    }

    /// An exclusive connection came to be. It is with its first request.
    pub(super) fn handle_exclusive(&mut self, id: ConnectionId) {
        self.opening.retain(|&(opening, _)| opening != id);
        self.multiplexed = Some(false);
    }

    /// A shared connection came to be, with one stream on it.
    pub(super) fn handle_shared(&mut self, id: ConnectionId, worker: usize, connection: M, now: Instant) {
        self.opening.retain(|&(opening, _)| opening != id);
        self.multiplexed = Some(true);
        self.shared.push(Shared { id, worker, streams: 1, idle_since: now, connection });
    }

    /// An exclusive connection is free again. Given back when it must be closed instead.
    pub(super) fn handle_free(&mut self, id: ConnectionId, worker: usize, connection: S, now: Instant) -> Option<S> {
        if self.closing || connection.is_closed() {
            return Some(connection);
        }
        self.idle.push(Idle { id, worker, since: now, connection });
        None
    }

    /// A stream of a shared connection ended. Returns the connection when it is to be closed.
    pub(super) fn handle_stream_end(&mut self, id: ConnectionId, now: Instant) -> Option<M> {
        let position = self.shared.iter().position(|shared| shared.id == id)?;
        let shared = self.shared.get_mut(position)?;
        shared.streams = shared.streams.saturating_sub(1);
        shared.idle_since = now;
        let close = shared.streams == 0 && (self.closing || shared.connection.is_closed());
        close.then(|| self.shared.swap_remove(position).connection)
    }

    /// A connection's socket is closed, or was never opened.
    pub(super) fn handle_closed(&mut self, id: ConnectionId) -> (Option<S>, Option<M>) {
        self.open = self.open.saturating_sub(1);
        self.opening.retain(|&(opening, _)| opening != id);
        let idle = self.idle.iter().position(|idle| idle.id == id).map(|at| self.idle.remove(at).connection);
        let shared = self.shared.iter().position(|shared| shared.id == id);
        (idle, shared.map(|at| self.shared.swap_remove(at).connection))
    }

    /// Takes out the connections unused since `before`, for closing.
    pub(super) fn take_expired(&mut self, before: Instant) -> (Vec<S>, Vec<M>) {
        let fresh = self.idle.partition_point(|idle| idle.since <= before);
        let idle = self.idle.drain(..fresh).map(|idle| idle.connection).collect();
        let mut shared = Vec::new();
        self.shared.retain(|entry| {
            let expired = entry.streams == 0 && entry.idle_since <= before;
            if expired {
                shared.push(entry.connection.clone());
            }
            !expired
        });
        (idle, shared)
    }

    /// When the longest unused connection became unused.
    pub(super) fn oldest_idle(&self) -> Option<Instant> {
        let shared = self.shared.iter().filter(|entry| entry.streams == 0).map(|entry| entry.idle_since);
        self.idle.first().map(|idle| idle.since).into_iter().chain(shared).min()
    }

    /// Keeps nothing idle from now on.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    fn forget_gone(&mut self) {
        while self.waiting.front().is_some_and(|(waiter, _)| waiter.is_gone()) {
            self.waiting.pop_front();
        }
    }

    fn take(&mut self, worker: usize, fresh: bool) -> Option<Taken<S, M>> {
        if fresh && self.open < self.open_max && self.multiplexed != Some(true) {
            return Some(Taken::Open(self.start_opening(worker)));
        }
        self.take_idle(worker).or_else(|| self.take_stream(worker)).or_else(|| self.take_opening(worker))
    }

    /// The newest idle connection of the same worker, else the newest of any. Dead ones are left to their end.
    fn take_idle(&mut self, worker: usize) -> Option<Taken<S, M>> {
        let usable = |idle: &Idle<S>| idle.connection.has_room(0);
        let own = self.idle.iter().rposition(|idle| idle.worker == worker && usable(idle));
        let at = own.or_else(|| self.idle.iter().rposition(usable))?;
        let idle = self.idle.remove(at);
        Some(Taken::Idle(idle.id, idle.connection))
    }

    fn take_stream(&mut self, worker: usize) -> Option<Taken<S, M>> {
        let roomy = |entry: &Shared<M>| entry.connection.has_room(entry.streams);
        let own = self.shared.iter().position(|entry| entry.worker == worker && roomy(entry));
        // One connection per worker is worth its memory: a stream on another worker's costs two wake-ups across cores.
        if own.is_none() && self.open < self.open_max {
            return None;
        }
        let at = own.or_else(|| self.shared.iter().position(roomy))?;
        let entry = self.shared.get_mut(at)?;
        entry.streams += 1;
        Some(Taken::Stream(entry.id, entry.connection.clone()))
    }

    /// Permission to open, unless a connection that may carry this request too is being opened already.
    fn take_opening(&mut self, worker: usize) -> Option<Taken<S, M>> {
        let coming = self.multiplexed != Some(false) && self.opening.iter().any(|&(_, opener)| opener == worker);
        (self.open < self.open_max && !coming).then(|| Taken::Open(self.start_opening(worker)))
    }

    fn start_opening(&mut self, worker: usize) -> ConnectionId {
        let id = self.count_open();
        self.opening.push((id, worker));
        id
    }

    fn count_open(&mut self) -> ConnectionId {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.open += 1;
        id
    }
}

#[cfg(test)]
mod tests;
