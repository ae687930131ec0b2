//! Layer 2: the exchange, a resumable pair of byte streams between an edge and an origin, one per request.
//!
//! It rides on one QUIC stream of one link at a time (its *attachment*). When the link dies the edge re-attaches it to
//! a stream of another link between the same two processes and both directions go on at the offsets received: neither
//! the client nor the upstream sees anything. The bookkeeping is in the sans-IO [`sender`] and [`receiver`]; this file
//! joins it to quinn streams.
//!
//! The preamble of a stream is OPEN (counter), or RESUME (counter, generation, received offset), which is answered by
//! RESUMED (generation, received offset). The exchange's id is the edge's instance (from HELLO) and the counter.

pub mod ended;
mod half;
pub mod preamble;
pub mod receiver;
pub mod retention;
pub mod sender;

use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};

use self::preamble::Preamble;
use self::receiver::Receiver;
use self::sender::Sender;
use super::code::ResetCode;
use super::control::Ack;
use super::link::{Link, LinkState};
use super::peer::Peer;
use crate::clock;
use crate::fault::{Fault, Kind, Retry, Side, Stage};
use crate::observe::event::{Event as Told, What};

pub use self::half::{Event, ExchangeReader, ExchangeWriter};

/// Time without an attachment after which an exchange may be better off elsewhere.
const ADRIFT: Duration = Duration::from_millis(200);
/// Pieces taken from or given to a stream in one call.
const PIECES: usize = 32;
/// As long as there are no more: empty slots cost time too.
const PIECES_FEW: usize = 4;
/// What the other end may keep for us until the next heartbeat after all of it came, bytes.
const ACK_LATE_MAX: u64 = 16 << 10;

/// The stream an exchange rides on now.
struct Attachment {
    link: Arc<Link>,
    send: SendStream,
    recv: RecvStream,
    /// What is left of the preamble that opens the stream; not part of the direction's bytes.
    lead: Bytes,
    /// Made when a writer first waits for credit, not for the stream, which would tell it of STOP_SENDING.
    stopped: Option<Stopped>,
}

type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

impl Attachment {
    fn new(link: Arc<Link>, (send, recv): (SendStream, RecvStream), lead: Bytes) -> Self {
        Self { link, send, recv, lead, stopped: None }
    }

    /// Whether the other end stopped what is sent here, or the link is lost; wakes `cx` when that changes.
    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Option<Result<VarInt, StoppedError>> {
        let send = &self.send;
        let stopped = self.stopped.get_or_insert_with(|| Box::pin(send.stopped()));
        let Poll::Ready(outcome) = stopped.as_mut().poll(cx) else { return None };
        self.stopped = None;
        outcome.transpose()
    }

    /// Gives the streams up with `code`; never a clean end.
    fn abandon(mut self, code: ResetCode) {
        let _ = self.send.reset(code.varint());
        let _ = self.recv.stop(code.varint());
    }
}

/// A link that an exchange left.
struct Left {
    name: Arc<str>,
    /// Links to the same address may share what is wrong with the path.
    address: IpAddr,
    when: Instant,
}

struct State {
    send: Sender,
    recv: Receiver,
    attachment: Option<Attachment>,
    /// What had come on a stream that was left before it was read: counted as received, so never asked for again. At most
    /// one window.
    saved: VecDeque<Bytes>,
    /// The last link it left.
    left: Option<Left>,
    /// Counts attachments; a stale one is refused.
    generation: u64,
    /// The generation asked for last, also where no answer came: the other end may have taken it.
    asked: u64,
    /// FIN went to the present attachment.
    finished: bool,
    /// The other end needs no more of what this one sends; the rest is dropped, the exchange goes on.
    unwanted: bool,
    /// This end needs no more of what the other one sends.
    stopped: bool,
    /// See [`ExchangeReader::set_impatient`].
    impatient: bool,
    /// Both halves were dropped by their owners; only acknowledgements are awaited.
    halves: u8,
    failed: Option<Fault>,
    /// Kept bytes are being sent again by a task of their own, which alone polls the send stream meanwhile.
    driving: bool,
    send_waker: Option<Waker>,
    drive_waker: Option<Waker>,
    recv_waker: Option<Waker>,
    watch_waker: Option<Waker>,
}

impl State {
    fn flush_slot(&mut self, driver: bool) -> &mut Option<Waker> {
        if driver { &mut self.drive_waker } else { &mut self.send_waker }
    }

    /// Gives the attachment up, if there is one; another may follow.
    fn leave_attachment(&mut self, code: ResetCode) -> bool {
        let Some(mut attachment) = self.attachment.take() else { return false };
        self.save_received(&mut attachment);
        let (name, address) = (attachment.link.name().clone(), attachment.link.remote_address().ip());
        self.left = Some(Left { name, address, when: clock::now() });
        attachment.link.detach();
        attachment.abandon(code);
        true
    }

    /// Takes what has come in order from a stream that is about to be left.
    fn save_received(&mut self, attachment: &mut Attachment) {
        let mut pieces = [const { Bytes::new() }; PIECES];
        let mut cx = Context::from_waker(Waker::noop());
        while !self.stopped {
            let read = { pin!(attachment.recv.read_chunks(&mut pieces)).poll(&mut cx) };
            let Poll::Ready(Ok(Some(count))) = read else { return };
            let came = || pieces.iter().take(count);
            let bytes: usize = came().map(Bytes::len).sum();
            self.saved.extend(came().cloned());
            if self.recv.handle_received(bytes as u64).is_err() {
                return;
            }
        }
    }

    /// Gives what was saved.
    fn take_saved(&mut self, pieces: &mut [Bytes]) -> usize {
        let saved = self.saved.len().min(pieces.len());
        for (piece, saved) in pieces.iter_mut().zip(self.saved.drain(..saved)) {
            *piece = saved;
        }
        saved
    }

    fn tell_resumed(&self, link: &Link, bytes_again: u64) {
        let (from, took) = match &self.left {
            Some(left) => (&*left.name, clock::now().saturating_duration_since(left.when)),
            None => ("", Duration::ZERO),
        };
        link.peer().events().emit(&Told { from, to: link.name(), took, bytes_again, ..Told::new(What::Resume) });
    }
}

/// One exchange, shared by its two halves and the peer's table.
pub struct Exchange {
    counter: u64,
    peer: Arc<Peer>,
    /// The edge opens and re-attaches; the gateway waits for it.
    owner: bool,
    /// At a gateway: began with RESUME, so its OPEN may still come.
    resumed_first: bool,
    started: Instant,
    state: Mutex<State>,
}

/// What an attachment could do.
enum Polled<T> {
    Ready(T),
    Pending,
    /// The link is gone; the exchange is detached now.
    Lost,
}

impl Exchange {
    pub(super) fn new(
        counter: u64,
        peer: Arc<Peer>,
        owner: bool,
        link: Arc<Link>,
        streams: (SendStream, RecvStream),
    ) -> Arc<Self> {
        link.attach();
        let mut lead = BytesMut::new();
        if owner {
            Preamble::Open { counter }.encode(&mut lead);
        }
        Self::with(counter, peer, owner, Some(Attachment::new(link, streams, lead.freeze())))
    }

    /// At a gateway: an exchange whose RESUME is the first that is heard of it.
    pub(super) fn unattached(counter: u64, peer: Arc<Peer>) -> Arc<Self> {
        Self::with(counter, peer, false, None)
    }

    fn with(counter: u64, peer: Arc<Peer>, owner: bool, attachment: Option<Attachment>) -> Arc<Self> {
        let settings = peer.settings();
        Arc::new(Self {
            counter,
            owner,
            resumed_first: attachment.is_none(),
            started: clock::now(),
            state: Mutex::new(State {
                send: Sender::new(peer.credit(), settings.budget.clone()),
                recv: Receiver::new(settings.window, settings.window_max, settings.window_budget.clone()),
                attachment,
                saved: VecDeque::new(),
                left: None,
                generation: 0,
                asked: 0,
                finished: false,
                unwanted: false,
                stopped: false,
                impatient: false,
                halves: 2,
                failed: None,
                driving: false,
                send_waker: None,
                drive_waker: None,
                recv_waker: None,
                watch_waker: None,
            }),
            peer,
        })
    }

    /// The counter part of the exchange's id; the other part is the edge's instance.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// When this end first saw it.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The process at the other end.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    fn append(&self, bytes: Bytes) {
        let mut state = self.state.lock();
        if state.failed.is_none() && !state.unwanted {
            state.send.append(bytes);
        }
    }

    /// Hands appended bytes to the stream; ready when all went, within the other end's credit.
    ///
    /// After a resume a task of its own (`driver`) sends what was kept, whether or not the writer asks; the writer
    /// waits for it.
    pub(super) fn poll_flush(self: &Arc<Self>, cx: &mut Context<'_>, driver: bool) -> Poll<Result<(), Fault>> {
        let state = &mut *self.state.lock();
        loop {
            if let Some(fault) = state.failed {
                return Poll::Ready(Err(fault));
            }
            if state.unwanted || (self.owner && state.halves == 0) {
                return Poll::Ready(Ok(()));
            }
            if state.driving != driver {
                return park(state.flush_slot(driver), cx);
            }
            let Some(attachment) = &mut state.attachment else {
                return park(state.flush_slot(driver), cx);
            };
            let waiting = state.send.pieces_to_transmit();
            if waiting == 0 {
                if state.send.is_blocked_by_credit() {
                    match attachment.poll_stopped(cx) {
                        None => {
                            self.peer.metrics().credit_waits.inc();
                            return park(state.flush_slot(driver), cx);
                        }
                        Some(Ok(code)) => self.handle_stopped(state, ResetCode::from_varint(code)),
                        Some(Err(_)) => self.detach(state, ResetCode::Stale),
                    }
                    continue;
                }
                if state.send.is_ended() && !state.finished {
                    state.finished = true;
                    let _ = attachment.send.finish();
                }
                if driver {
                    state.driving = false;
                    wake(state);
                }
                return Poll::Ready(Ok(()));
            }
            let written = match waiting <= PIECES_FEW {
                true => self.poll_transmit::<{ PIECES_FEW + 1 }>(state, cx),
                false => self.poll_transmit::<{ PIECES + 1 }>(state, cx),
            };
            match written {
                Polled::Ready(()) | Polled::Lost => {}
                Polled::Pending => return park(state.flush_slot(driver), cx),
            }
        }
    }

    /// Writes up to `N - 1` pieces behind what is left of the preamble.
    fn poll_transmit<const N: usize>(self: &Arc<Self>, state: &mut State, cx: &mut Context<'_>) -> Polled<()> {
        let mut pieces = [const { Bytes::new() }; N];
        let Some(attachment) = &state.attachment else { return Polled::Lost };
        let skip = usize::from(attachment.lead.is_empty());
        let Some((lead, rest)) = pieces.split_first_mut() else { return Polled::Pending };
        lead.clone_from(&attachment.lead);
        let filled = state.send.poll_transmit(rest);
        self.poll_write(state, cx, pieces.get_mut(skip..=filled).unwrap_or_default())
    }

    fn poll_write(self: &Arc<Self>, state: &mut State, cx: &mut Context<'_>, pieces: &mut [Bytes]) -> Polled<()> {
        let Some(attachment) = &mut state.attachment else { return Polled::Lost };
        let written = match pin!(attachment.send.write_chunks(pieces)).poll(cx) {
            Poll::Pending => return Polled::Pending,
            Poll::Ready(written) => written,
        };
        match written {
            Ok(written) => {
                let lead = written.bytes.min(attachment.lead.len());
                attachment.lead.advance(lead);
                state.send.handle_transmitted((written.bytes - lead) as u64);
            }
            Err(WriteError::Stopped(code)) => self.handle_stopped(state, ResetCode::from_varint(code)),
            Err(WriteError::ConnectionLost(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected) => {
                self.detach(state, ResetCode::Stale);
                return Polled::Lost;
            }
        }
        Polled::Ready(())
    }

    fn set_impatient(&self, impatient: bool) {
        self.state.lock().impatient = impatient;
    }

    fn is_waiting(&self) -> bool {
        let state = self.state.lock();
        state.impatient && state.failed.is_none()
    }

    /// Whether neither its own link nor any other could carry it now.
    fn is_stranded(&self, state: &State) -> bool {
        let rides = state.attachment.as_ref().is_some_and(|attachment| attachment.link.is_alive());
        !rides && !self.peer.is_reachable()
    }

    /// Whether no link could carry it now.
    pub fn is_out_of_reach(&self) -> bool {
        let state = self.state.lock();
        state.failed.is_none() && self.is_stranded(&state)
    }

    /// Whether it left its link a while ago and found no other yet.
    pub fn is_adrift(&self, now: Instant) -> bool {
        let state = self.state.lock();
        let left = state.left.as_ref().filter(|_| state.attachment.is_none() && state.failed.is_none());
        left.is_some_and(|left| now.saturating_duration_since(left.when) > ADRIFT)
    }

    /// Makes an impatient reader look again.
    pub(super) fn nudge(&self) {
        let state = &mut *self.state.lock();
        if state.impatient
            && let Some(waker) = state.recv_waker.take()
        {
            waker.wake();
        }
    }

    /// The other end stopped this direction.
    fn handle_stopped(self: &Arc<Self>, state: &mut State, code: ResetCode) {
        if code == ResetCode::Done {
            state.unwanted = true;
            state.driving = false;
            state.send.clear();
            wake(state);
        } else {
            self.handle_reset(state, code);
        }
    }

    /// The other end gave up the attachment, or the exchange.
    fn handle_reset(self: &Arc<Self>, state: &mut State, code: ResetCode) {
        match code {
            // It left this link and goes on on another: nothing is lost.
            ResetCode::Stale => self.detach(state, ResetCode::Stale),
            code => self.fail(state, code.fault()),
        }
    }

    /// Whether the other end needs no more of what this one sends.
    fn is_unwanted(&self) -> bool {
        self.state.lock().unwanted
    }

    /// This end needs no more of what the other one sends; the exchange goes on in the other direction.
    fn stop_reading(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        if let Some(attachment) = &mut state.attachment {
            let _ = attachment.recv.stop(ResetCode::Done.varint());
        }
    }

    /// Resolves when the other end gave the exchange up, or when it cannot be attached anywhere any more. Notices the
    /// loss of its link too, while nothing else is polled.
    pub async fn cancelled(self: &Arc<Self>) -> Fault {
        loop {
            let watched = {
                let state = self.state.lock();
                if let Some(fault) = state.failed {
                    return fault;
                }
                state.attachment.as_ref().map(|attachment| (state.generation, attachment.send.stopped()))
            };
            let Some((generation, stopped)) = watched else {
                self.changed(None).await;
                continue;
            };
            let stopped = stopped.await;
            {
                let state = &mut *self.state.lock();
                if state.generation == generation {
                    match stopped {
                        Ok(Some(code)) => self.handle_stopped(state, ResetCode::from_varint(code)),
                        Ok(None) => {}
                        Err(_) => self.detach(state, ResetCode::Stale),
                    }
                }
            }
            // Everything is acknowledged, or one direction is stopped: only another attachment or the end can follow.
            self.changed(Some(generation)).await;
        }
    }

    /// Resolves when the exchange failed, or has an attachment newer than `generation`.
    async fn changed(&self, generation: Option<u64>) {
        std::future::poll_fn(|cx| {
            let mut state = self.state.lock();
            let newer = state.attachment.is_some() && generation.is_none_or(|known| state.generation > known);
            if newer || state.failed.is_some() { Poll::Ready(()) } else { park(&mut state.watch_waker, cx) }
        })
        .await;
    }

    /// Appends a short note and tries to send it at once, from a place that cannot wait.
    pub fn note(self: &Arc<Self>, write: impl FnOnce(&mut BytesMut)) {
        let mut note = BytesMut::new();
        write(&mut note);
        self.append(note.freeze());
        // The stream may keep the waker used here: who really waits must ask again.
        let waiting = self.state.lock().send_waker.take();
        let _ = self.poll_flush(&mut Context::from_waker(Waker::noop()), false);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Takes received bytes into `pieces`, zero at the stream's clean end.
    fn poll_read(self: &Arc<Self>, cx: &mut Context<'_>, pieces: &mut [Bytes]) -> Poll<Result<usize, Fault>> {
        let state = &mut *self.state.lock();
        if !state.saved.is_empty() {
            let taken = state.take_saved(pieces);
            self.grant(state);
            return Poll::Ready(Ok(taken));
        }
        if let Some(fault) = state.failed {
            return Poll::Ready(Err(fault));
        }
        if state.impatient && self.is_stranded(state) {
            return Poll::Ready(Err(lost(Side::Tunnel)));
        }
        let Some(attachment) = &mut state.attachment else {
            return park(&mut state.recv_waker, cx);
        };
        let read = match pin!(attachment.recv.read_chunks(pieces)).poll(cx) {
            Poll::Pending => return park(&mut state.recv_waker, cx),
            Poll::Ready(read) => read,
        };
        match read {
            Ok(Some(count)) => {
                let bytes: usize = pieces.iter().take(count).map(Bytes::len).sum();
                Poll::Ready(self.handle_received(state, bytes as u64).map(|()| count))
            }
            Ok(None) => Poll::Ready(Ok(0)),
            Err(error) => {
                match error {
                    ReadError::Reset(code) => self.handle_reset(state, ResetCode::from_varint(code)),
                    _ => self.detach(state, ResetCode::Stale),
                }
                match state.failed {
                    Some(fault) => Poll::Ready(Err(fault)),
                    None if state.impatient && self.is_stranded(state) => Poll::Ready(Err(lost(Side::Tunnel))),
                    None => park(&mut state.recv_waker, cx),
                }
            }
        }
    }

    fn handle_received(self: &Arc<Self>, state: &mut State, bytes: u64) -> Result<(), Fault> {
        if state.recv.handle_received(bytes).is_err() {
            let fault = ResetCode::Protocol.fault();
            self.fail(state, fault);
            return Err(fault);
        }
        self.grant(state);
        Ok(())
    }

    /// Lets the other end send more, when the reader has taken what came.
    fn grant(&self, state: &mut State) {
        if state.saved.is_empty()
            && let Some(attachment) = &state.attachment
            && let Some((offset, window)) = state.recv.poll_ack(clock::now(), || attachment.link.rtt())
        {
            attachment.link.ack(Ack { exchange: self.counter, offset, window }, true);
        }
    }

    /// Counts bytes that came with the preamble, before the exchange existed.
    pub(super) fn handle_early(self: &Arc<Self>, bytes: usize) -> Result<(), Fault> {
        self.handle_received(&mut self.state.lock(), bytes as u64)
    }

    /// An acknowledgement came on some link of the peer.
    pub(super) fn handle_ack(self: &Arc<Self>, ack: Ack) {
        let mut state = self.state.lock();
        if ack.offset == Ack::GIVEN_UP {
            return self.fail(&mut state, ResetCode::Cancelled.fault());
        }
        if state.send.handle_ack(ack.offset, ack.window) {
            for waker in [state.send_waker.take(), state.drive_waker.take()].into_iter().flatten() {
                waker.wake();
            }
        }
        if state.halves == 0 && state.send.is_settled() {
            let known = state.send.is_resumable();
            drop(state);
            self.leave_table(known);
        }
    }

    /// Gives the exchange up: the other end gets `fault`'s code, both halves here get `fault`.
    pub(super) fn abort(self: &Arc<Self>, fault: Fault) {
        self.fail(&mut self.state.lock(), fault);
    }

    fn fail(self: &Arc<Self>, state: &mut State, fault: Fault) {
        if state.failed.is_some() {
            return;
        }
        state.failed = Some(fault);
        state.send.clear();
        self.tell_given_up(state);
        if let Some(mut attachment) = state.attachment.take() {
            if fault.retry == Retry::Idempotent {
                state.save_received(&mut attachment);
            }
            attachment.link.detach();
            attachment.abandon(ResetCode::from_fault(&fault));
        }
        wake(state);
        self.leave_table(false);
    }

    /// At an edge. A reset says the same and why, but it reaches neither a gateway that has sent everything and only waits
    /// for acknowledgements, nor one that the exchange is detached from.
    fn tell_given_up(&self, state: &State) {
        let link = match &state.attachment {
            _ if !self.owner => None,
            Some(attachment) => Some(attachment.link.clone()),
            None => self.peer.any_link(None),
        };
        if let Some(link) = link {
            let ack = Ack { exchange: self.counter, offset: Ack::GIVEN_UP, window: 0 };
            link.ack(ack, state.attachment.is_none());
        }
    }

    /// The attachment is of no more use. The edge attaches anew; the gateway waits for that, for a grace time.
    fn detach(self: &Arc<Self>, state: &mut State, code: ResetCode) {
        if !state.leave_attachment(code) {
            return;
        }
        self.peer.metrics().detached.inc();
        if self.owner {
            super::resume::reattach(self.clone());
        } else {
            super::resume::await_resume(self.clone(), state.generation);
        }
    }

    /// Detaches on suspicion of `link`, if the exchange rides on it.
    pub(super) fn leave(self: &Arc<Self>, link: &Arc<Link>) {
        let state = &mut *self.state.lock();
        if state.attachment.as_ref().is_some_and(|attachment| Arc::ptr_eq(&attachment.link, link)) {
            self.detach(state, ResetCode::Stale);
        }
    }

    /// The RESUME to send and its generation, a new one each time, if the exchange is detached and anyone needs it.
    pub(super) fn resume_point(&self) -> Option<(u64, Preamble)> {
        let mut state = self.state.lock();
        if state.failed.is_some() || state.attachment.is_some() || state.halves == 0 {
            return None;
        }
        let (counter, (received, window)) = (self.counter, state.recv.resume_point());
        let generation = state.generation.max(state.asked) + 1;
        state.asked = generation;
        Some((generation, Preamble::Resume { counter, generation, received, window }))
    }

    /// Leaves the peer's table. `settled`: the other end has everything, so that it will not resume.
    pub(super) fn leave_table(self: &Arc<Self>, settled: bool) {
        if !self.owner && (self.resumed_first || !settled) {
            self.peer.remember(self.counter);
        }
        self.peer.remove(self);
    }

    /// At a gateway: it is or was here already; this stream came late and starts nothing.
    pub(super) fn decline(&self) {
        if let Some(attachment) = self.state.lock().attachment.take() {
            attachment.link.detach();
            attachment.abandon(ResetCode::Stale);
        }
    }

    /// The address of the link that it left.
    pub(super) fn left_address(&self) -> Option<IpAddr> {
        self.state.lock().left.as_ref().map(|left| left.address)
    }

    /// How many attachments it has had, the first not counted.
    pub(super) fn generation(&self) -> u64 {
        self.state.lock().generation
    }

    /// Prepares to be taken over by an attachment of `generation`: the RESUMED to answer, or `None` if it is stale.
    pub(super) fn yield_to(self: &Arc<Self>, generation: u64) -> Option<Preamble> {
        let mut state = self.state.lock();
        if generation <= state.generation || state.failed.is_some() {
            return None;
        }
        state.generation = generation;
        state.leave_attachment(ResetCode::Stale);
        let (received, window) = state.recv.resume_point();
        Some(Preamble::Resumed { generation, received, window })
    }

    /// Goes on on new streams; the other end has received `offset` bytes and takes `window` more.
    pub(super) fn attach(
        self: &Arc<Self>,
        generation: u64,
        (offset, window): (u64, u64),
        link: Arc<Link>,
        streams: (SendStream, RecvStream),
    ) -> Result<(), Fault> {
        let state = &mut *self.state.lock();
        let mut attachment = Attachment::new(link, streams, Bytes::new());
        if state.failed.is_some() || generation < state.generation {
            attachment.abandon(ResetCode::Stale);
            return Err(state.failed.unwrap_or(ResetCode::Stale.fault()));
        }
        // What the other end does not want, it may have received any part of.
        let rewound = if state.unwanted { Ok(0) } else { state.send.handle_resume(offset, window) };
        match rewound {
            Ok(again) => {
                state.tell_resumed(&attachment.link, again);
                self.peer.metrics().bytes_again.inc_by(again);
                attachment.link.attach();
                state.generation = generation;
                state.finished = false;
                if state.stopped {
                    let _ = attachment.recv.stop(ResetCode::Done.varint());
                }
                state.attachment = Some(attachment);
                self.grant(state);
                if !state.unwanted && !std::mem::replace(&mut state.driving, true) {
                    super::resume::drive(self.clone());
                }
                wake(state);
                // The point to resume from may be the acknowledgement that was lost with the last link.
                if state.halves == 0 && state.send.is_settled() {
                    self.leave_table(state.send.is_resumable());
                }
                Ok(())
            }
            Err(_) => {
                let fault = ResetCode::NotResumable.fault();
                attachment.abandon(ResetCode::NotResumable);
                self.fail(state, fault);
                Err(fault)
            }
        }
    }

    /// No attachment came in time.
    pub(super) fn give_up(self: &Arc<Self>, generation: u64) {
        let state = &mut *self.state.lock();
        if state.attachment.is_none() && state.generation == generation {
            self.fail(state, lost(Side::Tunnel));
        }
    }

    /// Whether nobody but the acknowledgements is awaited.
    pub(super) fn is_lingering(&self) -> bool {
        self.state.lock().halves == 0
    }

    /// Whether a lingering exchange can be forgotten: all it had to say was taken by the stream, or is not wanted.
    pub(super) fn is_expired(self: &Arc<Self>) -> bool {
        let state = &mut *self.state.lock();
        if let Some(attachment) = &state.attachment
            && let Poll::Ready(Ok(Some(code))) =
                pin!(attachment.send.stopped()).poll(&mut Context::from_waker(Waker::noop()))
        {
            self.handle_stopped(state, ResetCode::from_varint(code));
        }
        state.send.is_flushed()
    }

    /// The reader has the whole message.
    fn complete_read(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let (offset, window) = state.recv.final_ack();
        let ack = Ack { exchange: self.counter, offset, window };
        let much = state.recv.unacknowledged() > ACK_LATE_MAX;
        let Some(attachment) = &mut state.attachment else {
            drop(state);
            // Any link will do: the other end need not keep for a resume what is all here.
            return self.peer.any_link(None).into_iter().for_each(|link| link.ack(ack, true));
        };
        // It goes with the next heartbeat, except where a drain waits for it or the other end keeps much for it.
        attachment.link.ack(ack, much || attachment.link.state() == LinkState::Draining);
        // Take the FIN, if it is there: a stream dropped before its end sends STOP_SENDING.
        let mut none = [const { Bytes::new() }; 1];
        let _ = pin!(attachment.recv.read_chunks(&mut none)).poll(&mut Context::from_waker(Waker::noop()));
    }

    /// One half is done. When both are, the exchange ends here, or lingers until what it sent is acknowledged.
    fn release_half(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.halves = state.halves.saturating_sub(1);
        if state.halves > 0 || state.failed.is_some() {
            return;
        }
        if self.owner || state.send.is_settled() {
            if let Some(attachment) = state.attachment.take() {
                attachment.link.detach();
            }
            // Over its budget nothing was kept: the other end may lack it, and come to resume.
            let known = state.send.is_resumable();
            state.send.clear();
            wake(&mut state);
            drop(state);
            self.leave_table(known);
        } else {
            drop(state);
            self.peer.linger(self.counter);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(attachment) = self.state.get_mut().attachment.take() {
            attachment.link.detach();
        }
    }
}

/// The process at the other end is out of reach (`Side::Tunnel`) or known to be dead (`Side::Gateway`).
pub(super) fn lost(side: Side) -> Fault {
    Fault::new(Stage::Tunnel, side, Kind::ConnectionTerminated).with_retry(Retry::Idempotent)
}

fn park<T>(slot: &mut Option<Waker>, cx: &mut Context<'_>) -> Poll<T> {
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
    Poll::Pending
}

fn wake(state: &mut State) {
    let State { send_waker, drive_waker, recv_waker, watch_waker, .. } = state;
    for waker in [send_waker, drive_waker, recv_waker, watch_waker].into_iter().filter_map(Option::take) {
        waker.wake();
    }
}
