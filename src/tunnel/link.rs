//! Layer 1: one QUIC connection with its control stream.
//!
//! [`handshake`] exchanges HELLO; [`run`] then owns the link until it ends: reads and writes the control stream, sends
//! heartbeats, judges liveness. It knows nothing of HTTP and decides nothing about services: what concerns the owner
//! (edge or origin) goes to its [`Owner`].

mod pulse;
mod spare;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::pulse::Pulse;
use super::code::{CloseCode, ResetCode};
use super::control::{Ack, Control, ControlDecoder, Hello, Load, grease};
use super::exchange::credit::Credit;
use super::exchange::preamble::{PREAMBLE_MAX, Preamble};
use super::exchange::{Exchange, ExchangeReader, ExchangeWriter};
use super::load::LossAlarm;
use super::peer::{Peer, Peers};
use super::resume;
use super::wire::WireError;
use crate::clock;
use crate::observe::event::{Event, What};
use crate::quic::canonical;
use crate::quic::{Connection, RecvStream, SendStream};
use crate::task::Tasks;

/// Time for HELLO, and for the preamble of a stream.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Control bytes that may wait for the other end to read; more, and it is not reading: the link is closed.
const OUTBOX_MAX: usize = 256 << 10;
/// Acknowledgements that need no hurry go out in batches of this many, or with the next heartbeat.
const ACK_BATCH: usize = 32;
/// Acknowledgements in one frame: three varints each, so well below the largest frame.
const ACK_FRAME: usize = 1_024;
/// Acknowledgements that may wait, like [`OUTBOX_MAX`].
const ACKS_MAX: usize = 64 << 10;

/// Where a link stands; the words of logs, metrics and documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LinkState {
    /// HELLO is done, services are not.
    Registering,
    /// Takes exchanges.
    Ready,
    /// Nothing was heard for a while; takes none, may recover.
    Suspect,
    /// The other end or this one wants no new exchanges.
    Draining,
    /// Over.
    Closed,
}

impl LinkState {
    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Registering,
            1 => Self::Ready,
            2 => Self::Suspect,
            3 => Self::Draining,
            _ => Self::Closed,
        }
    }
}

/// Why a link ended or did not come to be.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// QUIC or TLS failed, or the other end closed.
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    /// A control stream operation failed.
    #[error("control stream: {0}")]
    Control(String),
    /// The other end does not follow the protocol.
    #[error("protocol: {0}")]
    Wire(#[from] WireError),
    /// It took too long.
    #[error("no HELLO in time")]
    Timeout,
    /// Silence convicted it.
    #[error("nothing heard for too long")]
    Dead,
    /// The other end said why it closes.
    #[error("closed by the other end: {0}")]
    Refused(String),
    /// The certificate does not fit.
    #[error("identity: {0}")]
    Identity(String),
}

/// What a link tells the side that holds it. Called from the link's task: must not block.
pub trait Owner: Send + Sync + 'static {
    /// A control frame that layer 1 does not handle itself.
    fn handle_control(&self, link: &Arc<Link>, frame: Control);
    /// The link's state changed.
    fn handle_state(&self, link: &Arc<Link>);
    /// A new exchange came (at a gateway). Must hand it to a task.
    fn handle_exchange(&self, link: &Arc<Link>, writer: ExchangeWriter, reader: ExchangeReader);
    /// How busy this end is, if the other end should know: it chooses among gateways.
    fn load(&self) -> Option<Load> {
        None
    }
    /// The link began to lose packets, in either direction.
    fn handle_loss(&self, _link: &Arc<Link>) {}
    /// The link turned suspect: a dialler moves it to another source port.
    fn handle_suspect(&self, _link: &Arc<Link>) {}
}

#[derive(Default)]
struct Outbox {
    frames: BytesMut,
    acks: Vec<Ack>,
}

/// One link. Shared by its own task, the exchanges that ride on it and whoever chooses among links.
pub struct Link {
    name: Arc<str>,
    connection: Connection,
    peer: Arc<Peer>,
    remote: Hello,
    worker: usize,
    weight: AtomicU64,
    state: AtomicU8,
    in_flight: AtomicUsize,
    outbox: Mutex<Outbox>,
    wake: Notify,
    /// What waits in the outbox is to go now.
    hurry: AtomicBool,
    overflow: AtomicBool,
    /// Probes sent.
    probes: AtomicU64,
    /// The path is said to be broken; the control task has not heard of it yet.
    hinted: AtomicBool,
    /// What the other end reported last.
    reported: Mutex<(Load, LossAlarm)>,
    /// Packets lost lately on the way to the other end, thousandths.
    lost: AtomicU64,
    /// On the way from it, as it reports.
    lost_from: AtomicU64,
}

impl Link {
    /// The other end's name and a number that no other link of this process has: `gw-1#3`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Tells of an event that concerns this link; it was left, unless the event says otherwise.
    pub fn tell(&self, event: &Event<'_>) {
        let from = if event.from.is_empty() { &self.name } else { event.from };
        self.peer.events().emit(&Event { from, ..*event });
    }

    /// The QUIC connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The process at the other end.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// What the other end said in HELLO.
    pub fn remote(&self) -> &Hello {
        &self.remote
    }

    /// The worker thread of this process that carries the link.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// The share of work it wants, relative to others.
    pub fn weight(&self) -> u64 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Sets the share of work.
    pub fn set_weight(&self, weight: u64) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// Where it stands.
    pub fn state(&self) -> LinkState {
        LinkState::from_u8(self.state.load(Ordering::Acquire))
    }

    /// Sets where it stands. Closed is final.
    pub fn set_state(&self, state: LinkState) {
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            (now != LinkState::Closed as u8).then_some(state as u8)
        });
        if state == LinkState::Ready {
            self.peer.retire_predecessor();
        }
        self.peer.notify();
    }

    /// Whether exchanges may be opened on it or move to it.
    pub fn is_usable(&self) -> bool {
        self.state() == LinkState::Ready
    }

    /// Whether it is heard, so that what rides on it will be answered.
    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.state(), LinkState::Suspect | LinkState::Closed)
    }

    /// Exchanges that ride on it.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The other end's address as it is now, IPv4 as such.
    pub fn remote_address(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    /// Something outside says that the path is broken. It is probed; only silence makes it suspect.
    pub(super) fn hint(&self) {
        if !self.hinted.swap(true, Ordering::Relaxed) {
            self.flush();
        }
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// What the other end reported last.
    pub fn reported(&self) -> Load {
        self.reported.lock().0
    }

    /// Packets lost lately, both directions added, thousandths.
    pub fn lost_permille(&self) -> u64 {
        self.lost.load(Ordering::Relaxed) + self.lost_from.load(Ordering::Relaxed)
    }

    /// What the other end reports; answers whether it is news of loss.
    fn handle_load(&self, load: Load) -> bool {
        self.lost_from.store(load.lost_permille, Ordering::Relaxed);
        let mut reported = self.reported.lock();
        reported.0 = load;
        let lossy = reported.1.handle_loss(load.lost_permille);
        drop(reported);
        if lossy {
            self.tell_loss("from", load.lost_permille);
        }
        lossy
    }

    fn tell_loss(&self, direction: &str, permille: u64) {
        let why = format!("{}.{} % of packets {direction} it", permille / 10, permille % 10);
        self.tell(&Event { why: &why, ..Event::new(What::Loss) });
    }

    pub(super) fn attach(&self) {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            // An idle link ticks slowly: heartbeats begin now. What waits in the outbox is no reason for a packet.
            self.wake.notify_one();
        }
    }

    pub(super) fn detach(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Queues an acknowledgement; `urgent` if the other end may be waiting for its credit.
    pub(super) fn ack(&self, ack: Ack, urgent: bool) {
        let mut outbox = self.outbox.lock();
        if outbox.acks.len() == ACKS_MAX {
            self.overflow.store(true, Ordering::Relaxed);
        } else {
            outbox.acks.push(ack);
        }
        if urgent || outbox.acks.len() >= ACK_BATCH {
            drop(outbox);
            self.flush();
        }
    }

    fn flush(&self) {
        self.hurry.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Queues a control frame.
    pub fn send(&self, frame: &Control) {
        let mut outbox = self.outbox.lock();
        if outbox.frames.len() > OUTBOX_MAX {
            self.overflow.store(true, Ordering::Relaxed);
        } else {
            frame.encode(&mut outbox.frames);
        }
        drop(outbox);
        self.flush();
    }

    fn take_outbox(&self) -> Bytes {
        let Outbox { frames, acks } = &mut *self.outbox.lock();
        for some in acks.chunks(ACK_FRAME) {
            Control::Ack(some.to_vec()).encode(frames);
        }
        acks.clear();
        frames.split().freeze()
    }

    /// Suspicion from what an exchange met: no new work until a probe came back. That packets are heard says nothing
    /// about the other direction.
    pub(super) fn doubt(&self, why: &str) {
        if self.change_state(LinkState::Ready, LinkState::Suspect) {
            self.tell(&Event { why, ..Event::new(What::Suspicion) });
            self.send(&Control::Probe(self.probes.fetch_add(1, Ordering::Relaxed)));
        }
    }

    /// An answer to a probe: both directions pass.
    fn handle_probed(&self, number: u64) {
        if number + 1 == self.probes.load(Ordering::Relaxed) && self.change_state(LinkState::Suspect, LinkState::Ready)
        {
            self.tell(&Event { why: "a probe came back", ..Event::new(What::Recovery) });
            self.peer.notify();
        }
    }

    fn change_state(&self, from: LinkState, to: LinkState) -> bool {
        let (from, to) = (from as u8, to as u8);
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Opens an exchange (at an edge) for a request on the client connection that has `credit`: nothing is on the wire yet
    /// when this returns.
    ///
    /// # Errors
    /// `None` if the link is gone or has no room for another stream now: nothing was sent, another link may be tried.
    pub fn open(self: &Arc<Self>, credit: &Arc<Credit>) -> Option<(ExchangeWriter, ExchangeReader)> {
        let opened = std::pin::pin!(self.connection.open_bi())
            .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        let std::task::Poll::Ready(Ok(streams)) = opened else { return None };
        let counter = self.peer.settings().next_counter();
        let exchange = Exchange::open(counter, self.clone(), streams, credit);
        self.peer.insert(exchange.clone());
        self.peer.metrics().exchanges.inc();
        Some((ExchangeWriter::new(exchange.clone()), ExchangeReader::new(exchange, Bytes::new())))
    }

    /// Closes it with a reason for the other end's log.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.set_state(LinkState::Closed);
        self.connection.close(code.varint(), reason.as_bytes());
    }
}

/// The control stream's two halves.
pub struct ControlStream {
    send: SendStream,
    recv: RecvStream,
    decoder: ControlDecoder,
}

impl ControlStream {
    /// The next frame; waits for it.
    async fn read(&mut self) -> Result<Control, LinkError> {
        read_frame(&mut self.recv, &mut self.decoder).await
    }

    /// Writes all of it. Has no deadline of its own.
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), LinkError> {
        while !bytes.is_empty() {
            write_some(&mut self.send, &mut bytes).await?;
        }
        Ok(())
    }
}

async fn read_frame(recv: &mut RecvStream, decoder: &mut ControlDecoder) -> Result<Control, LinkError> {
    loop {
        if let Some(frame) = decoder.poll_frame()? {
            return Ok(frame);
        }
        match recv.read_chunk(64 << 10, true).await {
            Ok(Some(chunk)) => decoder.push(&chunk.bytes),
            Ok(None) => return Err(LinkError::Control("ended".into())),
            Err(quinn::ReadError::ConnectionLost(error)) => return Err(error.into()),
            Err(error) => return Err(LinkError::Control(error.to_string())),
        }
    }
}

/// Writes what the stream takes off the front of `bytes`; when dropped before it is ready, nothing was written.
async fn write_some(send: &mut SendStream, bytes: &mut Bytes) -> Result<(), LinkError> {
    match send.write_chunks(std::slice::from_mut(bytes)).await {
        Ok(_) => Ok(()),
        Err(quinn::WriteError::ConnectionLost(error)) => Err(error.into()),
        Err(error) => Err(LinkError::Control(error.to_string())),
    }
}

/// Exchanges HELLO on the connection's first bidirectional stream, which the dialler opens.
///
/// # Errors
/// If the other end is not who its certificate says (`check`), speaks wrongly or not in time. The connection is closed
/// with the reason then.
pub async fn handshake(
    connection: Connection,
    peers: &Peers,
    hello: Hello,
    dialler: bool,
    worker: usize,
    check: impl FnOnce(&Hello) -> Result<(), String>,
) -> Result<(Arc<Link>, ControlStream), LinkError> {
    let outcome = tokio::time::timeout(HELLO_TIMEOUT, exchange_hello(&connection, &hello, dialler)).await;
    let (remote, control) = match outcome.unwrap_or(Err(LinkError::Timeout)) {
        Ok(done) => done,
        Err(error) => {
            connection.close(CloseCode::Protocol.varint(), error.to_string().as_bytes());
            return Err(error);
        }
    };
    if let Err(reason) = check(&remote) {
        connection.close(CloseCode::Identity.varint(), reason.as_bytes());
        return Err(LinkError::Identity(reason));
    }
    let peer = peers.admit(&remote);
    let link = Arc::new(Link {
        name: format!("{}#{}", remote.node, peers.settings().next_link()).into(),
        connection,
        peer,
        remote,
        worker,
        weight: AtomicU64::new(1),
        state: AtomicU8::new(LinkState::Registering as u8),
        in_flight: AtomicUsize::new(0),
        outbox: Mutex::default(),
        wake: Notify::new(),
        hurry: AtomicBool::new(false),
        overflow: AtomicBool::new(false),
        probes: AtomicU64::new(0),
        hinted: AtomicBool::new(false),
        reported: Mutex::default(),
        lost: AtomicU64::new(0),
        lost_from: AtomicU64::new(0),
    });
    link.peer.add_link(link.clone());
    Ok((link, control))
}

async fn exchange_hello(
    connection: &Connection,
    hello: &Hello,
    dialler: bool,
) -> Result<(Hello, ControlStream), LinkError> {
    let (send, recv) = if dialler { connection.open_bi().await? } else { connection.accept_bi().await? };
    let _ = send.set_priority(i32::MAX);
    let mut control = ControlStream { send, recv, decoder: ControlDecoder::default() };
    let mut out = BytesMut::new();
    Control::Hello(hello.clone()).encode(&mut out);
    grease(&mut out, fastrand::u64(..));
    control.write(out.freeze()).await?;
    match control.read().await? {
        Control::Hello(remote) => Ok((remote, control)),
        Control::Error { reason, .. } => Err(LinkError::Refused(reason)),
        _ => Err(WireError::Unexpected("frame before HELLO").into()),
    }
}

/// Runs the link to its end. Spawns, through `tasks`, a task for each stream the other end opens.
pub async fn run(link: Arc<Link>, mut control: ControlStream, owner: Arc<dyn Owner>, tasks: &Tasks) -> LinkError {
    let metrics = link.peer.metrics().clone();
    metrics.links.inc();
    metrics.links_opened.inc();
    let error = tokio::select! {
        biased;
        error = drive_control(&link, &mut control, &*owner) => error,
        error = accept_streams(&link, &owner, tasks) => error,
    };
    tell_end(&link, &error);
    let code = match &error {
        LinkError::Dead => CloseCode::Dead,
        LinkError::Wire(_) | LinkError::Control(_) => CloseCode::Protocol,
        _ => CloseCode::Done,
    };
    link.close(code, &error.to_string());
    link.peer.remove_link(&link);
    metrics.links.dec();
    owner.handle_state(&link);
    link.peer.evacuate(&link);
    link.peer.nudge();
    error
}

/// A peer that does not know the link any more is as much a verdict as silence is, which its judge has told of.
fn tell_end(link: &Link, error: &LinkError) {
    let what = match error {
        LinkError::Dead => return,
        LinkError::Connection(quinn::ConnectionError::Reset | quinn::ConnectionError::TimedOut) => What::Verdict,
        _ => What::Close,
    };
    link.tell(&Event { why: &error.to_string(), ..Event::new(what) });
}

/// Each turn does one thing. What must not wait comes first: a heartbeat and its judgement are late for nothing, not even
/// for a control stream that the path does not take; received frames come before more is sent, as they may end a wait.
async fn drive_control(link: &Arc<Link>, control: &mut ControlStream, owner: &dyn Owner) -> LinkError {
    let mut pulse = Pulse::new(link.clone());
    let (mut out, mut progress) = (Bytes::new(), clock::now());
    // Set by what is worth a packet. A received frame is not: its acknowledgements would answer each other for ever.
    let mut due = false;
    loop {
        let ControlStream { send, recv, decoder } = &mut *control;
        let step = tokio::select! {
            biased;
            () = tokio::time::sleep_until(pulse.due()) => { due = true; pulse.tick(owner) }
            written = write_some(send, &mut out), if !out.is_empty() => written,
            frame = read_frame(recv, decoder) => frame.map(|frame| handle(link, owner, frame)),
            () = link.wake.notified(), if out.is_empty() => { due |= link.hurry.swap(false, Ordering::Relaxed); Ok(()) }
        };
        if link.hinted.swap(false, Ordering::Relaxed) {
            pulse.handle_hint();
        }
        if due && out.is_empty() {
            (out, progress) = (link.take_outbox(), clock::now());
            due = false;
        }
        if link.overflow.load(Ordering::Relaxed) || is_overdue(&out, progress) {
            return LinkError::Control("the other end does not read".into());
        }
        if let Err(error) = step {
            return error;
        }
    }
}

/// Whether the other end took none of `out` for too long.
fn is_overdue(out: &Bytes, since: std::time::Instant) -> bool {
    !out.is_empty() && clock::now().saturating_duration_since(since) > HELLO_TIMEOUT
}

fn handle(link: &Arc<Link>, owner: &dyn Owner, frame: Control) {
    match frame {
        Control::Ack(acks) => link.peer.handle_acks(&acks),
        Control::Heartbeat(_) => {}
        Control::Probed(number) => link.handle_probed(number),
        Control::Load(load) => {
            if link.handle_load(load) {
                owner.handle_loss(link);
            }
        }
        Control::Probe(number) => link.send(&Control::Probed(number)),
        other => owner.handle_control(link, other),
    }
}

impl Link {
    /// Queues a frame without waking the control task: it is the caller.
    fn send_quietly(&self, frame: &Control) {
        frame.encode(&mut self.outbox.lock().frames);
    }
}

async fn accept_streams(link: &Arc<Link>, owner: &Arc<dyn Owner>, tasks: &Tasks) -> LinkError {
    loop {
        match link.connection.accept_bi().await {
            Ok(streams) => tasks.spawn(accept_stream(link.clone(), owner.clone(), streams)),
            Err(error) => return error.into(),
        }
    }
}

async fn accept_stream(link: Arc<Link>, owner: Arc<dyn Owner>, mut streams: (SendStream, RecvStream)) {
    let preamble = tokio::time::timeout(HELLO_TIMEOUT, read_preamble(&mut streams.1)).await;
    match preamble {
        Ok(Some((Preamble::Open { counter, window }, early))) if link.remote.sends => {
            let exchange = Exchange::accept(counter, link.clone(), streams, window);
            if !link.peer.admit(&exchange) {
                return exchange.decline();
            }
            if exchange.handle_early(early.len()).is_err() {
                return exchange.abort(ResetCode::Protocol.fault());
            }
            start_exchange(&link, &*owner, exchange, early);
        }
        Ok(Some((Preamble::Resume { counter, generation, received, window }, early))) if link.remote.sends => {
            if received == 0 && link.peer.find(counter).is_none() {
                // Its OPEN was lost with another link, or is still to come.
                let exchange = Exchange::unattached(counter, link.peer.clone());
                if link.peer.admit(&exchange) {
                    start_exchange(&link, &*owner, exchange, Bytes::new());
                }
            }
            resume::accept_resume(&link, counter, generation, (received, window), &early, streams).await;
        }
        _ => resume::refuse(&mut streams.0, &mut streams.1, ResetCode::Protocol),
    }
}

fn start_exchange(link: &Arc<Link>, owner: &dyn Owner, exchange: Arc<Exchange>, early: Bytes) {
    link.peer.metrics().exchanges.inc();
    owner.handle_exchange(link, ExchangeWriter::new(exchange.clone()), ExchangeReader::new(exchange, early));
}

/// The preamble and whatever came with it.
async fn read_preamble(recv: &mut RecvStream) -> Option<(Preamble, Bytes)> {
    let mut bytes = recv.read_chunk(64 << 10, true).await.ok()??.bytes;
    loop {
        if let Some(preamble) = Preamble::try_decode(&mut bytes).ok()? {
            return Some((preamble, bytes));
        }
        if bytes.len() > PREAMBLE_MAX {
            return None;
        }
        let more = recv.read_chunk(64 << 10, true).await.ok()??.bytes;
        bytes = [&bytes[..], &more[..]].concat().into();
    }
}
