//! The task of an endpoint: all that its connections have to do in a turn of the event loop.
//!
//! A turn: who is due by handles and timers, what came, and then each of these connections: its timers, what it sends, what it
//! tells. Work that a turn leaves is done in the next one, after everything else that the event loop has: a turn takes no more than
//! [`PACKETS_MAX`] packets and sends no more than [`TURN_MAX`] datagrams, of each connection [`DATAGRAMS_MAX`].

mod sending;

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quinn::udp::{EcnCodepoint, RecvMeta};
use quinn::{AsyncUdpSocket, ConnectionError, EndpointConfig, ServerConfig, TransportErrorCode, UdpPoller, VarInt};
use quinn_proto::{ConnectionHandle, DatagramEvent, TransportError};
use tokio::time::Sleep;

use self::sending::datagrams;
use super::connection::{Due, Inner, State};
use super::endpoint::Shared;
use super::inbox::Inbox;
use crate::clock;

/// Packets that a turn takes, about: half a millisecond. One receive may bring more.
const PACKETS_MAX: usize = 512;
/// Datagrams that a connection sends in a turn, about: it ends with a whole batch.
const DATAGRAMS_MAX: usize = 80;
/// Datagrams that a turn sends, about: half a millisecond.
const TURN_MAX: usize = 480;

/// What the task works on. Of a connection that is on a list here, `queued` or `stuck` says so.
pub(super) struct Core {
    pub(super) proto: quinn_proto::Endpoint,
    socket: Arc<dyn AsyncUdpSocket>,
    /// Read until something comes to the one after it.
    previous: Option<Arc<dyn AsyncUdpSocket>>,
    room: Pin<Box<dyn UdpPoller>>,
    pub(super) is_ipv6: bool,
    /// By their handles.
    connections: Vec<Option<Arc<Inner>>>,
    open: usize,
    /// Peers that asked for a connection and were not looked at.
    pub(super) incoming: VecDeque<quinn_proto::Incoming>,
    /// The code and the reason, once closed.
    pub(super) closed: Option<(VarInt, Bytes)>,
    /// The task is gone.
    pub(super) lost: bool,
    /// Away while it is emptied.
    inbox: Option<Box<Inbox>>,
    /// To be driven in this turn.
    work: VecDeque<Arc<Inner>>,
    /// What is sent, one batch at a time.
    out: Vec<u8>,
    /// Datagrams that left in this turn.
    sent: usize,
    /// What `out` holds, if the socket has no room for it.
    unsent: Option<quinn_proto::Transmit>,
    /// Connections that wait for that.
    stuck: Vec<Arc<Inner>>,
    /// When to try again, if the socket cannot tell when there is room.
    retry: Option<Instant>,
    /// One for each connection that has any.
    timers: BTreeSet<(Instant, usize)>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Core {
    pub(super) fn new(
        config: EndpointConfig,
        server: Option<ServerConfig>,
        socket: Arc<dyn AsyncUdpSocket>,
    ) -> io::Result<Self> {
        let is_ipv6 = socket.local_addr()?.is_ipv6();
        let proto = quinn_proto::Endpoint::new(Arc::new(config), server.map(Arc::new), !socket.may_fragment(), None);
        Ok(Self {
            proto,
            room: Arc::clone(&socket).create_io_poller(),
            socket,
            previous: None,
            is_ipv6,
            connections: Vec::new(),
            open: 0,
            incoming: VecDeque::new(),
            closed: None,
            lost: false,
            inbox: Some(Box::new(Inbox::new())),
            work: VecDeque::new(),
            out: Vec::new(),
            sent: 0,
            unsent: None,
            stuck: Vec::new(),
            retry: None,
            timers: BTreeSet::new(),
            sleep: None,
        })
    }

    /// Whether no connection can begin any more.
    pub(super) fn is_over(&self) -> bool {
        self.lost || self.closed.is_some()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open == 0
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = &Arc<Inner>> {
        self.connections.iter().flatten()
    }

    pub(super) fn enter(
        &mut self,
        ConnectionHandle(index): ConnectionHandle,
        proto: quinn_proto::Connection,
        due: &Arc<Due>,
    ) -> Arc<Inner> {
        let connection = Inner::new(proto, index, Arc::clone(due));
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, || None);
        }
        if let Some(place) = self.connections.get_mut(index) {
            *place = Some(Arc::clone(&connection));
        }
        self.open += 1;
        connection
    }

    /// Answers someone without a connection, if there is room: whoever gets no answer asks again.
    pub(super) fn respond(&self, transmit: &quinn_proto::Transmit, contents: &[u8]) {
        let _ = self.socket.try_send(&datagrams(transmit, contents));
    }

    pub(super) fn refuse(&mut self, incoming: quinn_proto::Incoming) {
        let mut response = Vec::new();
        let transmit = self.proto.refuse(incoming, &mut response);
        self.respond(&transmit, &response);
    }

    pub(super) fn rebind(&mut self, socket: Arc<dyn AsyncUdpSocket>) -> io::Result<()> {
        self.is_ipv6 = socket.local_addr()?.is_ipv6();
        self.room = Arc::clone(&socket).create_io_poller();
        self.previous = Some(std::mem::replace(&mut self.socket, socket));
        Ok(())
    }

    /// One turn. Answers whether work is left.
    fn turn(&mut self, cx: &mut Context<'_>, due: &Due) -> io::Result<bool> {
        due.take(cx.waker(), &mut self.work);
        self.send_unsent(cx);
        self.expire(clock::now());
        let mut left = self.receive(cx)?;
        self.sent = 0;
        // Who has more to do comes after those who have had no turn.
        for _ in 0..self.work.len() {
            if self.sent >= TURN_MAX {
                break;
            }
            let Some(connection) = self.work.pop_front() else { break };
            if self.drive(&connection) {
                self.work.push_back(connection);
            }
        }
        left |= !self.work.is_empty();
        if self.unsent.is_some() {
            // Now that there may be something unsent: who waits for room is registered.
            self.send_unsent(cx);
            left |= self.unsent.is_none();
        }
        Ok(self.sleep(cx) || left)
    }

    /// Connections whose time has come are due.
    fn expire(&mut self, now: Instant) {
        while let Some(&(at, index)) = self.timers.first() {
            if at > now {
                return;
            }
            self.timers.pop_first();
            let Some(connection) = self.connections.get(index).and_then(Option::as_ref) else { continue };
            let state = &mut *connection.lock();
            state.timer = None;
            queue(&mut self.work, connection, state);
        }
    }

    /// Waits for the first timer. Answers whether it has passed already.
    fn sleep(&mut self, cx: &mut Context<'_>) -> bool {
        let first = self.timers.first().map(|&(at, _)| at);
        let Some(at) = first.into_iter().chain(self.retry).min() else { return false };
        let at = at.into();
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx).is_ready()
    }

    /// Reads what came. Answers whether there may be more.
    fn receive(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut before = false;
        if let Some(previous) = self.previous.clone() {
            match self.receive_from(&*previous, cx) {
                Ok((_, left)) => before = left,
                Err(_) => self.previous = None,
            }
        }
        let socket = Arc::clone(&self.socket);
        let (packets, left) = self.receive_from(&*socket, cx)?;
        if packets > 0 {
            self.previous = None;
        }
        Ok(before || left)
    }

    /// How many packets of connections came, and whether there may be more.
    fn receive_from(&mut self, socket: &dyn AsyncUdpSocket, cx: &mut Context<'_>) -> io::Result<(usize, bool)> {
        let (mut packets, mut known) = (0, 0);
        while packets < PACKETS_MAX {
            let Some(mut inbox) = self.inbox.take() else { break };
            let received = inbox.fill(
                |slots, metas| socket.poll_recv(cx, slots, metas),
                |received| match received {
                    Poll::Ready(Ok(count)) => Some(*count),
                    _ => None,
                },
            );
            if let Poll::Ready(Ok(count)) = received {
                let now = clock::now();
                inbox.packets(count, |from, packet| {
                    packets += 1;
                    known += usize::from(self.handle_packet(now, from, packet));
                });
            }
            self.inbox = Some(inbox);
            match received {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok((known, false)),
            }
        }
        Ok((known, true))
    }

    /// Answers whether it was a connection's.
    fn handle_packet(&mut self, now: Instant, from: &RecvMeta, packet: BytesMut) -> bool {
        let mut response = Vec::new();
        let ecn = from.ecn.map(proto_ecn);
        match self.proto.handle(now, from.addr, from.dst_ip, ecn, packet, &mut response) {
            Some(DatagramEvent::ConnectionEvent(ConnectionHandle(index), event)) => {
                let Some(connection) = self.connections.get(index).and_then(Option::as_ref) else { return true };
                let state = &mut *connection.lock();
                state.proto.handle_event(event);
                queue(&mut self.work, connection, state);
                return true;
            }
            Some(DatagramEvent::NewConnection(incoming)) if self.is_over() => self.refuse(incoming),
            Some(DatagramEvent::NewConnection(incoming)) => self.incoming.push_back(incoming),
            Some(DatagramEvent::Response(transmit)) => self.respond(&transmit, &response),
            None => {}
        }
        false
    }

    /// A connection's turn. Answers whether it has more to do.
    fn drive(&mut self, connection: &Arc<Inner>) -> bool {
        let state = &mut *connection.lock();
        if !self.connections.get(connection.index()).is_some_and(|known| is(known, connection)) {
            return false;
        }
        state.queued = false;
        let now = clock::now();
        let expired = state.proto.poll_timeout().is_some_and(|at| at <= now);
        if expired {
            state.proto.handle_timeout(now);
        }
        let mut more = self.transmit(connection, state, now);
        while let Some(event) = state.proto.poll_endpoint_events() {
            let drained = event.is_drained();
            if let Some(event) = self.proto.handle_event(ConnectionHandle(connection.index()), event) {
                state.proto.handle_event(event);
                more = true;
            }
            if drained {
                connection.forward(state);
                self.leave(connection, state);
                return false;
            }
        }
        connection.forward(state);
        if let Some(at) = state.proto.poll_timeout()
            && state.timer.is_none_or(|known| at < known)
        {
            if let Some(known) = state.timer.replace(at) {
                self.timers.remove(&(known, connection.index()));
            }
            self.timers.insert((at, connection.index()));
        }
        state.queued = more;
        more
    }

    /// It is gone: its handle may be another's from now on.
    fn leave(&mut self, connection: &Arc<Inner>, state: &mut State) {
        if let Some(at) = state.timer.take() {
            self.timers.remove(&(at, connection.index()));
        }
        if self.connections.get_mut(connection.index()).is_some_and(|place| place.take().is_some()) {
            self.open -= 1;
        }
        // Whatever is asked of it now is not done: handles find an error.
        state.queued = true;
    }
}

/// Puts it at the end of the work, if it is on no list.
fn queue(work: &mut VecDeque<Arc<Inner>>, connection: &Arc<Inner>, state: &mut State) {
    if !std::mem::replace(&mut state.queued, true) {
        work.push_back(Arc::clone(connection));
    }
}

fn is(known: &Option<Arc<Inner>>, connection: &Arc<Inner>) -> bool {
    known.as_ref().is_some_and(|known| Arc::ptr_eq(known, connection))
}

fn proto_ecn(ecn: EcnCodepoint) -> quinn::EcnCodepoint {
    match ecn {
        EcnCodepoint::Ect0 => quinn::EcnCodepoint::Ect0,
        EcnCodepoint::Ect1 => quinn::EcnCodepoint::Ect1,
        EcnCodepoint::Ce => quinn::EcnCodepoint::Ce,
    }
}

/// The task.
pub(super) struct Driver(pub(super) Arc<Shared>);

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &self.0;
        let core = &mut *shared.core.lock();
        let left = match core.turn(cx, &shared.due) {
            Ok(left) => left,
            Err(error) => {
                tracing::error!(%error, "a QUIC endpoint ends: its socket failed");
                return Poll::Ready(());
            }
        };
        if !core.incoming.is_empty() {
            shared.incoming.notify_waiters();
        }
        if core.is_idle() {
            shared.idle.notify_waiters();
            if shared.handles.load(Ordering::Relaxed) == 0 {
                return Poll::Ready(());
            }
        }
        if left {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Driver {
    /// Nobody drives the connections any more: whoever waits is told.
    fn drop(&mut self) {
        let core = &mut *self.0.core.lock();
        core.lost = true;
        core.open = 0;
        core.stuck.clear();
        core.work.clear();
        for incoming in core.incoming.drain(..) {
            core.proto.ignore(incoming);
        }
        for connection in std::mem::take(&mut core.connections).into_iter().flatten() {
            let state = &mut *connection.lock();
            if state.error.is_none() {
                connection.end(state, lost());
            }
            state.queued = true;
        }
        self.0.due.clear();
        self.0.incoming.notify_waiters();
        self.0.idle.notify_waiters();
    }
}

/// What everyone is told whose endpoint is gone.
pub(super) fn lost() -> ConnectionError {
    TransportError { code: TransportErrorCode::INTERNAL_ERROR, frame: None, reason: "the endpoint is gone".to_owned() }
        .into()
}
