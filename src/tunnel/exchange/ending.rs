//! How an exchange ends: both halves done and everything acknowledged, given up by either end, or failed. The one place
//! where it leaves the peer's table.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::Exchange;
use super::state::{State, park, wake};
use crate::fault::{Fault, Retry};
use crate::tunnel::code::ResetCode;
use crate::tunnel::control::Ack;
use crate::tunnel::link::LinkState;

/// What the other end may keep for us until the next heartbeat after all of it came, bytes.
const ACK_LATE_MAX: u64 = 16 << 10;
impl Exchange {
    /// The other end stopped this direction.
    pub(super) fn handle_stopped(self: &Arc<Self>, state: &mut State, code: ResetCode) {
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
    pub(super) fn handle_reset(self: &Arc<Self>, state: &mut State, code: ResetCode) {
        match code {
            // It left this link and goes on on another: nothing is lost.
            ResetCode::Stale => self.detach(state, ResetCode::Stale),
            code => self.fail(state, code.fault()),
        }
    }

    /// Whether the other end needs no more of what this one sends.
    pub(super) fn is_unwanted(&self) -> bool {
        self.state.lock().unwanted
    }

    /// This end needs no more of what the other one sends; the exchange goes on in the other direction.
    pub(super) fn stop_reading(&self) {
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

    /// Gives the exchange up: the other end gets `fault`'s code, both halves here get `fault`.
    pub(in crate::tunnel) fn abort(self: &Arc<Self>, fault: Fault) {
        self.fail(&mut self.state.lock(), fault);
    }

    pub(super) fn fail(self: &Arc<Self>, state: &mut State, fault: Fault) {
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

    /// Ends it if both halves are done and the other end has everything.
    pub(super) fn settle(self: &Arc<Self>, state: &State) {
        if state.halves == 0 && state.send.is_settled() {
            // Over its budget nothing was kept: the other end may lack it, and come to resume.
            self.leave_table(state.send.is_resumable());
        }
    }

    /// Leaves the peer's table. `settled`: the other end has everything, so that it will not resume.
    pub(in crate::tunnel) fn leave_table(self: &Arc<Self>, settled: bool) {
        if !self.owner && (self.resumed_first || !settled) {
            self.peer.remember(self.counter);
        }
        self.peer.remove(self);
    }

    /// Whether nobody but the acknowledgements is awaited.
    pub(in crate::tunnel) fn is_lingering(&self) -> bool {
        self.state.lock().halves == 0
    }

    /// Whether a lingering exchange can be forgotten: all it had to say was taken by the stream, or is not wanted.
    pub(in crate::tunnel) fn is_expired(self: &Arc<Self>) -> bool {
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
    pub(super) fn complete_read(self: &Arc<Self>) {
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
    pub(super) fn release_half(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.halves = state.halves.saturating_sub(1);
        if state.halves > 0 || state.failed.is_some() {
            return;
        }
        if self.owner || state.send.is_settled() {
            if let Some(attachment) = state.attachment.take() {
                attachment.link.detach();
            }
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
