//! Bytes of an exchange: appended ones into its stream within the other end's credit, received ones out of it, and the
//! acknowledgements of both. Called by the two halves, by the task that sends kept bytes again, and for each ACK frame.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use quinn::{ReadError, WriteError};

use super::state::{State, park, wake};
use super::{Exchange, lost};
use crate::clock;
use crate::fault::{Fault, Side};
use crate::tunnel::code::ResetCode;
use crate::tunnel::control::Ack;

/// Pieces taken from or given to a stream in one call.
pub(super) const PIECES: usize = 48;
/// As long as there are no more: empty slots cost time too.
pub(super) const PIECES_FEW: usize = 4;
/// What an attachment could do.
enum Polled<T> {
    Ready(T),
    Pending,
    /// The link is gone; the exchange is detached now.
    Lost,
}

impl Exchange {
    pub(super) fn append(&self, bytes: Bytes) {
        let mut state = self.state.lock();
        if state.failed.is_none() && !state.unwanted {
            state.send.append(bytes);
        }
    }

    /// Hands appended bytes to the stream; ready when all went, within the other end's credit.
    ///
    /// After a resume a task of its own (`driver`) sends what was kept, whether or not the writer asks; the writer
    /// waits for it.
    pub(in crate::tunnel) fn poll_flush(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        driver: bool,
    ) -> Poll<Result<(), Fault>> {
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
    pub(super) fn poll_read(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
    ) -> Poll<Result<usize, Fault>> {
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

    pub(super) fn handle_received(self: &Arc<Self>, state: &mut State, bytes: u64) -> Result<(), Fault> {
        if state.recv.handle_received(bytes).is_err() {
            let fault = ResetCode::Protocol.fault();
            self.fail(state, fault);
            return Err(fault);
        }
        self.grant(state);
        Ok(())
    }

    /// Lets the other end send more, when the reader has taken what came.
    pub(super) fn grant(&self, state: &mut State) {
        if state.saved.is_empty()
            && let Some(attachment) = &state.attachment
            && let Some((offset, window)) = state.recv.poll_ack(clock::now(), || attachment.link.rtt())
        {
            attachment.link.ack(Ack { exchange: self.counter, offset, window }, true);
        }
    }

    /// Counts bytes that came with the preamble, before the exchange existed.
    pub(in crate::tunnel) fn handle_early(self: &Arc<Self>, bytes: usize) -> Result<(), Fault> {
        self.handle_received(&mut self.state.lock(), bytes as u64)
    }

    /// An acknowledgement came on some link of the peer.
    pub(in crate::tunnel) fn handle_ack(self: &Arc<Self>, ack: Ack) {
        let mut state = self.state.lock();
        if ack.offset == Ack::GIVEN_UP {
            return self.fail(&mut state, ResetCode::Cancelled.fault());
        }
        if state.send.handle_ack(ack.offset, ack.window) {
            for waker in [state.send_waker.take(), state.drive_waker.take()].into_iter().flatten() {
                waker.wake();
            }
        }
        self.settle(&state);
    }
}
