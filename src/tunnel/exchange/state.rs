//! What an exchange is at a moment: its attachment, its two directions, who waits for what. Changed by `transfer`, `attach`
//! and `ending` under the exchange's lock; decides nothing.

use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{StoppedError, VarInt};

use super::receiver::Receiver;
use super::sender::Sender;
use super::transfer::PIECES;
use crate::clock;
use crate::fault::Fault;
use crate::observe::event::{Event as Told, What};
use crate::quic::{RecvStream, SendStream, Stopped};
use crate::tunnel::code::ResetCode;
use crate::tunnel::link::Link;

/// The stream an exchange rides on now.
pub(super) struct Attachment {
    pub(super) link: Arc<Link>,
    pub(super) send: SendStream,
    pub(super) recv: RecvStream,
    /// What is left of the preamble that opens the stream; not part of the direction's bytes.
    pub(super) lead: Bytes,
    /// Made when a writer first waits for credit, not for the stream, which would tell it of STOP_SENDING.
    pub(super) stopped: Option<Stopped>,
}

impl Attachment {
    pub(super) fn new(link: Arc<Link>, (send, recv): (SendStream, RecvStream), lead: Bytes) -> Self {
        Self { link, send, recv, lead, stopped: None }
    }

    /// Whether the other end stopped what is sent here, or the link is lost; wakes `cx` when that changes.
    pub(super) fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Option<Result<VarInt, StoppedError>> {
        let send = &self.send;
        let stopped = self.stopped.get_or_insert_with(|| send.stopped());
        let Poll::Ready(outcome) = Pin::new(stopped).poll(cx) else { return None };
        self.stopped = None;
        outcome.transpose()
    }

    /// Gives the streams up with `code`; never a clean end.
    pub(super) fn abandon(mut self, code: ResetCode) {
        let _ = self.send.reset(code.varint());
        let _ = self.recv.stop(code.varint());
    }
}

/// A link that an exchange left.
pub(super) struct Left {
    pub(super) name: Arc<str>,
    /// Links to the same address may share what is wrong with the path.
    pub(super) address: IpAddr,
    pub(super) when: Instant,
}

pub(super) struct State {
    pub(super) send: Sender,
    pub(super) recv: Receiver,
    pub(super) attachment: Option<Attachment>,
    /// What had come on a stream that was left before it was read: counted as received, so never asked for again. At most
    /// one window.
    pub(super) saved: VecDeque<Bytes>,
    /// The last link it left.
    pub(super) left: Option<Left>,
    /// Counts attachments; a stale one is refused.
    pub(super) generation: u64,
    /// The generation asked for last, also where no answer came: the other end may have taken it.
    pub(super) asked: u64,
    /// FIN went to the present attachment.
    pub(super) finished: bool,
    /// The other end needs no more of what this one sends; the rest is dropped, the exchange goes on.
    pub(super) unwanted: bool,
    /// This end needs no more of what the other one sends.
    pub(super) stopped: bool,
    /// See [`ExchangeReader::set_impatient`].
    pub(super) impatient: bool,
    /// Both halves were dropped by their owners; only acknowledgements are awaited.
    pub(super) halves: u8,
    pub(super) failed: Option<Fault>,
    /// Kept bytes are being sent again by a task of their own, which alone polls the send stream meanwhile.
    pub(super) driving: bool,
    pub(super) send_waker: Option<Waker>,
    pub(super) drive_waker: Option<Waker>,
    pub(super) recv_waker: Option<Waker>,
    pub(super) watch_waker: Option<Waker>,
}

impl State {
    pub(super) fn flush_slot(&mut self, driver: bool) -> &mut Option<Waker> {
        if driver { &mut self.drive_waker } else { &mut self.send_waker }
    }

    /// Gives the attachment up, if there is one; another may follow.
    pub(super) fn leave_attachment(&mut self, code: ResetCode) -> bool {
        let Some(mut attachment) = self.attachment.take() else { return false };
        self.save_received(&mut attachment);
        let (name, address) = (attachment.link.name().clone(), attachment.link.remote_address().ip());
        self.left = Some(Left { name, address, when: clock::now() });
        attachment.link.detach();
        attachment.abandon(code);
        true
    }

    /// Takes what has come in order from a stream that is about to be left.
    pub(super) fn save_received(&mut self, attachment: &mut Attachment) {
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
    pub(super) fn take_saved(&mut self, pieces: &mut [Bytes]) -> usize {
        let saved = self.saved.len().min(pieces.len());
        for (piece, saved) in pieces.iter_mut().zip(self.saved.drain(..saved)) {
            *piece = saved;
        }
        saved
    }

    pub(super) fn tell_resumed(&self, link: &Link, bytes_again: u64) {
        let (from, took) = match &self.left {
            Some(left) => (&*left.name, clock::now().saturating_duration_since(left.when)),
            None => ("", Duration::ZERO),
        };
        link.peer().events().emit(&Told { from, to: link.name(), took, bytes_again, ..Told::new(What::Resume) });
    }
}

pub(super) fn park<T>(slot: &mut Option<Waker>, cx: &mut Context<'_>) -> Poll<T> {
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
    Poll::Pending
}

pub(super) fn wake(state: &mut State) {
    let State { send_waker, drive_waker, recv_waker, watch_waker, .. } = state;
    for waker in [send_waker, drive_waker, recv_waker, watch_waker].into_iter().filter_map(Option::take) {
        waker.wake();
    }
}
