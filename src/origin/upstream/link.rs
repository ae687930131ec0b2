//! Stage 8: from an open socket to an HTTP connection with its driver.
//!
//! Called by [`super`] with a slot of the pool. The driver task lives on the worker that opened the connection, ends
//! with it, and is owned by the pool's [`crate::task::Tasks`].

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;

use super::connect::connect_fault;
use super::io::{READ_BUFFER, Signals, Socket};
use super::lease::{Exclusive, Lease, Multiplexed, Peer};
use super::outgoing::Outgoing;
use super::pool::{Pool, Slot};
use crate::config::UpstreamScheme;
use crate::fault::{Fault, Kind};
use crate::task::Tasks;

/// Streams that may be opened before an HTTP/2 peer's settings are known (RFC 9113 section 6.5.2 recommends no less).
const STREAMS_BEFORE_SETTINGS: usize = 100;
/// Receive windows of an HTTP/2 connection: memory that one upstream can fill.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Frames in the size that tunnels forward.
const FRAME_MAX: u32 = 64 << 10;
/// Request bytes buffered in an HTTP/2 stream.
const SEND_BUFFER: usize = 256 << 10;
/// A connection with silent streams is checked this often, and given up when it does not answer for as long again.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// hyper keeps up to this many fields on the stack.
const FIELDS_ON_STACK: usize = 100;

/// Spawns what an HTTP/2 connection needs through its owner.
#[derive(Clone)]
struct Executor(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Opens a connection in `slot`. `http1_only` speaks HTTP/1.1 even to an upstream that could do HTTP/2.
///
/// # Errors
/// Connect and TLS faults, after which the upstream is avoided for a while. Nothing was sent.
pub(super) async fn open(pool: &Arc<Pool>, slot: Slot, http1_only: bool) -> Result<Lease, Fault> {
    let (id, worker) = (slot.id(), slot.worker());
    let opened = async {
        let socket = pool.connector.connect(slot, http1_only).await?;
        let h2 = socket.negotiated_h2() || (pool.scheme == UpstreamScheme::H2c && !http1_only);
        if h2 {
            let shared = multiplex(pool, socket).await?;
            pool.handle_shared(id, worker, shared.clone());
            Ok(Lease::multiplexed(pool.clone(), id, shared, false))
        } else {
            let exclusive = drive(pool, socket, worker).await?;
            let lease = Lease::exclusive(pool.clone(), id, exclusive, false);
            if http1_only {
                // For one upgrade alone: it says nothing of what the pool's connections speak.
                pool.metrics.connects.inc();
                return Ok(lease.once());
            }
            pool.handle_exclusive(id);
            Ok(lease)
        }
    };
    let opened = opened.await;
    if opened.is_err() {
        pool.handle_connect_failure();
    }
    opened
}

async fn drive(pool: &Pool, socket: Socket, worker: usize) -> Result<Exclusive, Fault> {
    let limits = &pool.limits;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(limits.field_section_max.max(READ_BUFFER)).max_header_size(limits.field_section_max);
    if limits.fields_max != FIELDS_ON_STACK {
        builder.max_headers(limits.fields_max);
    }
    let signals = socket.signals();
    let (sender, connection) =
        builder.handshake(TokioIo::new(socket)).await.map_err(|_| connect_fault(Kind::ConnectionTerminated))?;
    let (alive, dropped) = oneshot::channel::<()>();
    pool.tasks.spawn(async move {
        tokio::select! {
            // Its errors reach the request that they concern; an idle connection has nobody to tell.
            _ = connection.with_upgrades() => {}
            _ = dropped => {}
        }
    });
    Ok(Exclusive { sender, _alive: alive, signals, worker })
}

async fn multiplex(pool: &Pool, socket: Socket) -> Result<Multiplexed, Fault> {
    let signals = socket.signals();
    let mut builder = http2::Builder::new(Executor(pool.tasks.clone()));
    builder
        .timer(TokioTimer::new())
        .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(pool.limits.field_section_max).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    let handshake = tokio::time::timeout(pool.limits.connect_timeout, builder.handshake(TokioIo::new(socket)));
    let (sender, connection) = match handshake.await {
        Ok(Ok(both)) => both,
        Ok(Err(_)) => return Err(connect_fault(Kind::ConnectionTerminated)),
        Err(_) => return Err(connect_fault(Kind::ConnectionTimeout)),
    };
    let peer = Arc::new(Peer::new(STREAMS_BEFORE_SETTINGS));
    pool.tasks.spawn(drive_multiplexed(connection, peer.clone(), signals));
    Ok(Multiplexed { sender, peer })
}

/// Polls the connection and keeps its peer's settings at hand.
async fn drive_multiplexed(
    connection: http2::Connection<TokioIo<Socket>, Outgoing, Executor>,
    peer: Arc<Peer>,
    signals: Arc<Signals>,
) {
    let mut connection = pin!(connection);
    let mut heard = pin!(signals.heard.notified());
    let mut waiting = true;
    poll_fn(|cx| {
        // The first bytes of an HTTP/2 server are its settings (RFC 9113 section 3.4), processed when this runs.
        let came = waiting && heard.as_mut().poll(cx).is_ready();
        let done = Pin::new(&mut connection).poll(cx).map(|_| ());
        peer.update(connection.current_max_send_streams(), connection.is_extended_connect_protocol_enabled());
        if came || done.is_ready() {
            waiting = false;
            peer.set_known();
        }
        if done.is_ready() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
