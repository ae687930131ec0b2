//! From one attachment to the next: when an exchange leaves its stream, and how it goes on on another. Called by
//! `tunnel::resume` and by the links' owners on suspicion; never gives an exchange up by itself, but where no byte fits.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::preamble::Preamble;
use super::state::{Attachment, State, wake};
use super::{Exchange, lost};
use crate::fault::{Fault, Side};
use crate::quic::{RecvStream, SendStream};
use crate::tunnel::code::ResetCode;
use crate::tunnel::link::Link;
use crate::tunnel::resume;

/// Time without an attachment after which an exchange may be better off elsewhere.
const ADRIFT: Duration = Duration::from_millis(200);
impl Exchange {
    pub(super) fn set_impatient(&self, impatient: bool) {
        self.state.lock().impatient = impatient;
    }

    pub(super) fn is_waiting(&self) -> bool {
        let state = self.state.lock();
        state.impatient && state.failed.is_none()
    }

    /// Whether neither its own link nor any other could carry it now.
    pub(super) fn is_stranded(&self, state: &State) -> bool {
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
    pub(in crate::tunnel) fn nudge(&self) {
        let state = &mut *self.state.lock();
        if state.impatient
            && let Some(waker) = state.recv_waker.take()
        {
            waker.wake();
        }
    }

    /// The attachment is of no more use. The edge attaches anew; the gateway waits for that, for a grace time.
    pub(super) fn detach(self: &Arc<Self>, state: &mut State, code: ResetCode) {
        if !state.leave_attachment(code) {
            return;
        }
        self.peer.metrics().detached.inc();
        if self.owner {
            resume::reattach(self.clone());
        } else {
            resume::await_resume(self.clone(), state.generation);
        }
    }

    /// Detaches on suspicion of `link`, if the exchange rides on it.
    pub(in crate::tunnel) fn leave(self: &Arc<Self>, link: &Arc<Link>) {
        let state = &mut *self.state.lock();
        if state.attachment.as_ref().is_some_and(|attachment| Arc::ptr_eq(&attachment.link, link)) {
            self.detach(state, ResetCode::Stale);
        }
    }

    /// The RESUME to send and its generation, a new one each time, if the exchange is detached and anyone needs it.
    pub(in crate::tunnel) fn resume_point(&self) -> Option<(u64, Preamble)> {
        let mut state = self.state.lock();
        if state.failed.is_some() || state.attachment.is_some() || state.halves == 0 {
            return None;
        }
        let (counter, (received, window)) = (self.counter, state.recv.resume_point());
        let generation = state.generation.max(state.asked) + 1;
        state.asked = generation;
        Some((generation, Preamble::Resume { counter, generation, received, window }))
    }

    /// At a gateway: it is or was here already; this stream came late and starts nothing.
    pub(in crate::tunnel) fn decline(&self) {
        if let Some(attachment) = self.state.lock().attachment.take() {
            attachment.link.detach();
            attachment.abandon(ResetCode::Stale);
        }
    }

    /// The address of the link that it left.
    pub(in crate::tunnel) fn left_address(&self) -> Option<IpAddr> {
        self.state.lock().left.as_ref().map(|left| left.address)
    }

    /// How many attachments it has had, the first not counted.
    pub(in crate::tunnel) fn generation(&self) -> u64 {
        self.state.lock().generation
    }

    /// Prepares to be taken over by an attachment of `generation`: the RESUMED to answer, or `None` if it is stale.
    pub(in crate::tunnel) fn yield_to(self: &Arc<Self>, generation: u64) -> Option<Preamble> {
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
    pub(in crate::tunnel) fn attach(
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
                    resume::drive(self.clone());
                }
                wake(state);
                // The point to resume from may be the acknowledgement that was lost with the last link.
                self.settle(state);
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
    pub(in crate::tunnel) fn give_up(self: &Arc<Self>, generation: u64) {
        let state = &mut *self.state.lock();
        if state.attachment.is_none() && state.generation == generation {
            self.fail(state, lost(Side::Tunnel));
        }
    }
}
