//! A connection: quinn-proto's state machine behind a lock, and who waits for what in it.
//!
//! Handles lock it, act, and put it on the endpoint's list of what is due; the endpoint's task drives it. It ends by itself when
//! its last handle is dropped.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quinn::{ConnectionError, ConnectionStats, Dir, Side, StreamId, VarInt};
use quinn_proto::{Event, StreamEvent};
use tokio::sync::Notify;

use super::receive::RecvStream;
use super::send::SendStream;
use crate::clock;

/// Connections with something to do, and the task that does it.
#[derive(Default)]
pub(super) struct Due(Mutex<(Vec<Arc<Inner>>, Option<Waker>)>);

impl Due {
    fn push(&self, connection: Arc<Inner>) {
        let (connections, driver) = &mut *self.0.lock();
        connections.push(connection);
        if let (1, Some(driver)) = (connections.len(), driver) {
            driver.wake_by_ref();
        }
    }

    /// Wakes the task.
    pub(super) fn wake(&self) {
        self.0.lock().1.iter().for_each(Waker::wake_by_ref);
    }

    /// All that are due, to the end of `work`; `waker` is the task's.
    pub(super) fn take(&self, waker: &Waker, work: &mut impl Extend<Arc<Inner>>) {
        let (connections, driver) = &mut *self.0.lock();
        if driver.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
        work.extend(connections.drain(..));
    }

    /// There is no task any more.
    pub(super) fn clear(&self) {
        // Connections hold this: they are dropped outside the lock.
        let forgotten = std::mem::take(&mut *self.0.lock());
        drop(forgotten);
    }
}

/// What handles and the endpoint share.
pub(super) struct Inner {
    state: Mutex<State>,
    /// What quinn-proto's endpoint calls it.
    index: usize,
    due: Arc<Due>,
    /// Handles; the endpoint's own reference is not one.
    handles: AtomicUsize,
    /// The peer opened a stream, by direction.
    opened: [Notify; 2],
    /// The peer lets us open more streams, by direction.
    available: [Notify; 2],
    /// The handshake went on, or the connection is over.
    progress: Notify,
}

/// See the module.
pub(super) struct State {
    pub(super) proto: quinn_proto::Connection,
    /// On a list of connections to be driven.
    pub(super) queued: bool,
    /// Waits for room in the socket.
    pub(super) stuck: bool,
    /// When the endpoint looks at it by itself.
    pub(super) timer: Option<Instant>,
    pub(super) readers: BTreeMap<StreamId, Waker>,
    pub(super) writers: BTreeMap<StreamId, Waker>,
    /// By stream and a number of each who waits.
    pub(super) stoppers: BTreeMap<(StreamId, u64), Waker>,
    /// The last such number.
    pub(super) stopper: u64,
    connected: bool,
    /// Why it is over, if it is.
    pub(super) error: Option<ConnectionError>,
}

impl Inner {
    pub(super) fn new(proto: quinn_proto::Connection, index: usize, due: Arc<Due>) -> Arc<Self> {
        let state = State {
            proto,
            queued: false,
            stuck: false,
            timer: None,
            readers: BTreeMap::new(),
            writers: BTreeMap::new(),
            stoppers: BTreeMap::new(),
            stopper: 0,
            connected: false,
            error: None,
        };
        let (opened, available) = Default::default();
        let (handles, progress) = (AtomicUsize::new(0), Notify::new());
        Arc::new(Self { state: Mutex::new(state), index, due, handles, opened, available, progress })
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Lets the endpoint's task see to it.
    pub(super) fn wake(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.queued, true) {
            self.due.push(Arc::clone(self));
        }
    }

    /// Tells whoever waits what has happened.
    pub(super) fn forward(&self, state: &mut State) {
        while let Some(event) = state.proto.poll() {
            match event {
                Event::HandshakeDataReady => self.progress.notify_waiters(),
                Event::Connected => {
                    state.connected = true;
                    self.progress.notify_waiters();
                }
                Event::ConnectionLost { reason } => self.end(state, reason),
                Event::Stream(event) => self.forward_stream(state, event),
                // Neither is negotiated.
                Event::DatagramReceived | Event::DatagramsUnblocked => {}
            }
        }
    }

    fn forward_stream(&self, state: &mut State, event: StreamEvent) {
        let wake = |waiting: &mut BTreeMap<StreamId, Waker>, id| waiting.remove(&id).into_iter().for_each(Waker::wake);
        match event {
            StreamEvent::Readable { id } => wake(&mut state.readers, id),
            StreamEvent::Writable { id } => wake(&mut state.writers, id),
            StreamEvent::Finished { id } => state.tell_stoppers(id),
            StreamEvent::Stopped { id, .. } => {
                state.tell_stoppers(id);
                wake(&mut state.writers, id);
            }
            StreamEvent::Opened { dir } => of(&self.opened, dir).notify_waiters(),
            StreamEvent::Available { dir } => of(&self.available, dir).notify_waiters(),
        }
    }

    /// It is over: everyone who waits is told.
    pub(super) fn end(&self, state: &mut State, reason: ConnectionError) {
        state.error = Some(reason);
        for waiting in [&mut state.readers, &mut state.writers] {
            std::mem::take(waiting).into_values().for_each(Waker::wake);
        }
        std::mem::take(&mut state.stoppers).into_values().for_each(Waker::wake);
        self.opened.iter().chain(&self.available).chain([&self.progress]).for_each(Notify::notify_waiters);
    }

    /// Closes it (RFC 9000 section 10.2).
    pub(super) fn close(self: &Arc<Self>, state: &mut State, code: VarInt, reason: Bytes) {
        state.proto.close(clock::now(), code, reason);
        self.end(state, ConnectionError::LocallyClosed);
        self.wake(state);
    }
}

fn of(both: &[Notify; 2], dir: Dir) -> &Notify {
    let [bi, uni] = both;
    match dir {
        Dir::Bi => bi,
        Dir::Uni => uni,
    }
}

/// A handle that keeps the connection open.
pub(super) struct Handle(Arc<Inner>);

impl Handle {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        inner.handles.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(inner))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    pub(super) fn wake(&self, state: &mut State) {
        self.0.wake(state);
    }

    /// Waits until `look` has an answer; it is asked again whenever the handshake went on and when the connection is over.
    pub(super) async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let progress = {
                let mut state = self.lock();
                if let Some(answer) = look(&mut state) {
                    return answer;
                }
                // Told of what happens from here on, while the lock is held.
                self.0.progress.notified()
            };
            progress.await;
        }
    }

    async fn stream(&self, dir: Dir, ours: bool) -> Result<StreamId, ConnectionError> {
        let notify = of(if ours { &self.0.available } else { &self.0.opened }, dir);
        loop {
            let change = {
                let state = &mut *self.lock();
                // What the peer opened before the end is there to be read; nothing is to be opened any more.
                if ours && let Some(error) = &state.error {
                    return Err(error.clone());
                }
                let mut streams = state.proto.streams();
                if let Some(id) = if ours { streams.open(dir) } else { streams.accept(dir) } {
                    // The peer may get to open another one.
                    if !ours {
                        self.wake(state);
                    }
                    return Ok(id);
                }
                if let Some(error) = &state.error {
                    return Err(error.clone());
                }
                notify.notified()
            };
            change.await;
        }
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::Relaxed) == 1 {
            let state = &mut *self.0.lock();
            if !state.proto.is_closed() {
                self.0.close(state, VarInt::from_u32(0), Bytes::new());
            }
        }
    }
}

impl State {
    /// Everyone who waits for the end of what is sent on a stream is to look.
    fn tell_stoppers(&mut self, id: StreamId) {
        while let Some((&key, _)) = self.stoppers.range((id, 0)..=(id, u64::MAX)).next() {
            self.stoppers.remove(&key).into_iter().for_each(Waker::wake);
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }
}

/// A QUIC connection (RFC 9000). Clones are the same connection; it closes with code 0 when the last of them, and of its
/// streams, is dropped.
#[derive(Clone)]
pub struct Connection(pub(super) Handle);

impl Connection {
    /// Opens a stream in both directions; waits until the peer allows one more. The peer learns of it with the first bytes.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        Ok(self.both(self.0.stream(Dir::Bi, true).await?, false))
    }

    /// Opens a stream that only we send on; otherwise as [`open_bi`](Self::open_bi).
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        Ok(SendStream::new(self.0.clone(), self.0.stream(Dir::Uni, true).await?))
    }

    /// The next stream in both directions that the peer opened.
    ///
    /// # Errors
    /// When the connection is over and the streams that were opened before have been taken.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let id = self.0.stream(Dir::Bi, false).await?;
        Ok(self.both(id, self.is_early()))
    }

    /// The next stream that only the peer sends on.
    ///
    /// # Errors
    /// As [`accept_bi`](Self::accept_bi).
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        let id = self.0.stream(Dir::Uni, false).await?;
        Ok(RecvStream::new(self.0.clone(), id, self.is_early()))
    }

    fn both(&self, id: StreamId, early: bool) -> (SendStream, RecvStream) {
        (SendStream::new(self.0.clone(), id), RecvStream::new(self.0.clone(), id, early))
    }

    /// Whether what comes now may have been sent by someone who repeats it.
    fn is_early(&self) -> bool {
        let state = self.0.lock();
        state.proto.side() == Side::Server && state.proto.is_handshaking()
    }

    /// Closes it at once (RFC 9000 section 10.2): streams end where they are, whoever waits gets
    /// [`ConnectionError::LocallyClosed`]. Of `reason` the peer gets what fits into a packet.
    pub fn close(&self, code: VarInt, reason: &[u8]) {
        let state = &mut *self.0.lock();
        self.0.0.close(state, code, Bytes::copy_from_slice(reason));
    }

    /// Waits until it is over.
    pub async fn closed(&self) -> ConnectionError {
        self.0.until(|state| state.error.clone()).await
    }

    /// Why it is over, if it is.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.0.lock().error.clone()
    }

    /// The peer's address now; it may migrate (RFC 9000 section 9).
    pub fn remote_address(&self) -> SocketAddr {
        self.0.lock().proto.remote_address()
    }

    /// Our address at which the connection began, if the system told.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.0.lock().proto.local_ip()
    }

    /// The estimate of the round-trip time.
    pub fn rtt(&self) -> Duration {
        self.0.lock().proto.rtt()
    }

    /// Counts of packets, bytes and frames.
    pub fn stats(&self) -> ConnectionStats {
        self.0.lock().proto.stats()
    }

    /// What TLS negotiated: [`HandshakeData`](quinn::crypto::rustls::HandshakeData) of our sessions.
    pub fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.0.lock().proto.crypto_session().handshake_data()
    }

    /// The peer's certificates, the first one its own.
    pub fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.0.lock().proto.crypto_session().peer_identity()
    }

    /// How many bytes may wait for acknowledgement on all streams together.
    pub fn set_send_window(&self, bytes: u64) {
        let state = &mut *self.0.lock();
        state.proto.set_send_window(bytes);
        self.0.wake(state);
    }

    /// How many streams in both directions the peer may have open.
    pub fn set_max_concurrent_bi_streams(&self, count: VarInt) {
        let state = &mut *self.0.lock();
        state.proto.set_max_concurrent_streams(Dir::Bi, count);
        self.0.wake(state);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.remote_address()).finish_non_exhaustive()
    }
}
