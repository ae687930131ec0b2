//! Stage 8: the right of one request to one connection.
//!
//! Given out by [`super::pool`], held by the response body. A lease that is not given back closes its HTTP/1.1
//! connection at once; on HTTP/2 it only ends its stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use tokio::sync::{Notify, oneshot};

use super::io::Signals;
use super::outgoing::Outgoing;
use super::pool::Pool;
use super::shelf::ConnectionId;

/// How long a connection may take to be ready again after both messages ended.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a peer's HTTP/2 settings say, kept up to date by the connection's driver.
pub(super) struct Peer {
    streams_max: AtomicUsize,
    extended_connect: AtomicBool,
    known: AtomicBool,
    changed: Notify,
}

impl Peer {
    pub(super) fn new(streams_max: usize) -> Self {
        Self {
            streams_max: AtomicUsize::new(streams_max),
            extended_connect: AtomicBool::new(false),
            known: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    pub(super) fn streams_max(&self) -> usize {
        self.streams_max.load(Ordering::Relaxed)
    }

    /// Records the settings in force.
    pub(super) fn update(&self, streams_max: usize, extended_connect: bool) {
        self.streams_max.store(streams_max, Ordering::Relaxed);
        self.extended_connect.store(extended_connect, Ordering::Relaxed);
    }

    /// The peer's first settings have come.
    pub(super) fn set_known(&self) {
        self.known.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Whether the peer takes extended CONNECT (RFC 8441 section 3), once its settings have come.
    async fn extended_connect(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            if self.known.load(Ordering::Acquire) {
                return self.extended_connect.load(Ordering::Relaxed);
            }
            changed.await;
        }
    }
}

/// A connection that carries one request at a time (HTTP/1.1). Dropping it closes it.
pub(super) struct Exclusive {
    pub(super) sender: http1::SendRequest<Outgoing>,
    /// Its drop ends the driver and with it the socket.
    pub(super) _alive: oneshot::Sender<()>,
    pub(super) signals: Arc<Signals>,
    pub(super) worker: usize,
}

/// A connection that carries many requests (HTTP/2). It closes gracefully when the last clone is gone.
#[derive(Clone)]
pub(super) struct Multiplexed {
    pub(super) sender: http2::SendRequest<Outgoing>,
    pub(super) peer: Arc<Peer>,
}

enum Connection {
    Exclusive(Exclusive),
    Multiplexed(Multiplexed),
}

/// One request's hold on a connection.
pub(super) struct Lease {
    pool: Arc<Pool>,
    id: ConnectionId,
    connection: Option<Connection>,
    reused: bool,
    /// The connection is for this request alone, and closes with it.
    once: bool,
}

impl Lease {
    pub(super) fn exclusive(pool: Arc<Pool>, id: ConnectionId, exclusive: Exclusive, reused: bool) -> Self {
        Self { pool, id, connection: Some(Connection::Exclusive(exclusive)), reused, once: false }
    }

    pub(super) fn multiplexed(pool: Arc<Pool>, id: ConnectionId, shared: Multiplexed, reused: bool) -> Self {
        Self { pool, id, connection: Some(Connection::Multiplexed(shared)), reused, once: false }
    }

    /// The same lease of a connection that must not come into the pool.
    pub(super) fn once(mut self) -> Self {
        self.once = true;
        self
    }

    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Whether the connection was open before this request: its upstream may be closing it right now.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    pub(super) fn is_multiplexed(&self) -> bool {
        matches!(self.connection, Some(Connection::Multiplexed(_)))
    }

    /// The signals of an HTTP/1.1 connection's socket.
    pub(super) fn signals(&self) -> Option<Arc<Signals>> {
        match &self.connection {
            Some(Connection::Exclusive(exclusive)) => Some(exclusive.signals.clone()),
            Some(Connection::Multiplexed(_)) | None => None,
        }
    }

    /// Whether an upgrade can be asked for on this connection itself. Waits for an HTTP/2 peer's settings, at most
    /// for the connect timeout.
    pub(super) async fn takes_upgrades(&self) -> bool {
        let Some(Connection::Multiplexed(shared)) = &self.connection else { return true };
        let limit = self.pool.limits.connect_timeout;
        tokio::time::timeout(limit, shared.peer.extended_connect()).await.unwrap_or(false)
    }

    /// Hands a request to the connection. The future owns nothing of the lease; dropping it cancels the request.
    pub(super) fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Outgoing>>>> + Send + use<> {
        let (one, many) = match &mut self.connection {
            Some(Connection::Exclusive(exclusive)) => (Some(exclusive.sender.try_send_request(request)), None),
            Some(Connection::Multiplexed(shared)) => (None, Some(shared.sender.try_send_request(request))),
            None => (None, None),
        };
        async move {
            match (one, many) {
                (Some(response), _) => response.await,
                (None, Some(response)) => response.await,
                // A lease has its connection until it is given back.
                (None, None) => std::future::pending().await,
            }
        }
    }

    /// The request and its response are complete: the connection may serve another.
    pub(super) fn give_back(mut self) {
        if self.once {
            return;
        }
        let Some(Connection::Exclusive(mut exclusive)) =
            self.connection.take_if(|connection| matches!(connection, Connection::Exclusive(_)))
        else {
            return;
        };
        let (pool, id) = (self.pool.clone(), self.id);
        if exclusive.sender.is_ready() {
            pool.handle_free(id, exclusive);
        } else if !exclusive.sender.is_closed() {
            // Its driver has not yet seen the end, on another worker or behind us in the run queue.
            pool.clone().tasks.spawn(async move {
                let ready = tokio::time::timeout(SETTLE_TIMEOUT, exclusive.sender.ready()).await;
                if matches!(ready, Ok(Ok(()))) {
                    pool.handle_free(id, exclusive);
                }
            });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(Connection::Multiplexed(shared)) = self.connection.take() {
            drop(shared);
            self.pool.handle_stream_end(self.id);
        }
    }
}
