//! What leaves: batches of datagrams, and what finds no room in the socket. A part of the driver's turn.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::udp::{EcnCodepoint, Transmit};

use super::super::connection::{Inner, State};
use super::{Core, DATAGRAMS_MAX, queue};
use crate::clock;

/// Datagrams in a batch; the kernel takes 64 and 64 KiB.
const SEGMENTS_MAX: usize = 45;
/// Bytes in a batch: a UDP payload.
const BATCH_LEN: usize = 65_507;
/// When a full socket is tried again that cannot tell when there is room.
const RETRY: Duration = Duration::from_millis(2);

impl Core {
    /// Sends what the connection has to, in batches. Answers whether there may be more.
    pub(super) fn transmit(&mut self, connection: &Arc<Inner>, state: &mut State, now: Instant) -> bool {
        let enough = self.sent + DATAGRAMS_MAX;
        while self.sent < enough {
            if self.unsent.is_some() {
                if !std::mem::replace(&mut state.stuck, true) {
                    self.stuck.push(Arc::clone(connection));
                }
                return false;
            }
            self.out.clear();
            let datagrams_max = self.datagrams_max(state.proto.current_mtu());
            match state.proto.poll_transmit(now, datagrams_max, &mut self.out) {
                Some(transmit) => {
                    self.sent += transmit.segment_size.map_or(1, |segment| transmit.size.div_ceil(segment.max(1)));
                    self.send(transmit);
                }
                None => return false,
            }
        }
        true
    }

    fn datagrams_max(&self, mtu: u16) -> usize {
        let fit = BATCH_LEN / usize::from(mtu.max(1));
        self.socket.max_transmit_segments().min(SEGMENTS_MAX).min(fit).max(1)
    }

    /// Sends what `out` holds. Of errors only a full socket is worth another attempt.
    fn send(&mut self, transmit: quinn_proto::Transmit) {
        match self.socket.try_send(&datagrams(&transmit, &self.out)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.unsent = Some(transmit),
            Err(error) => tracing::debug!(%error, "UDP send failed"),
            Ok(()) => {}
        }
    }

    /// Tries again what found no room; who waited for that is due then.
    pub(super) fn send_unsent(&mut self, cx: &mut Context<'_>) {
        self.retry = None;
        while let Some(transmit) = self.unsent.take() {
            match self.room.as_mut().poll_writable(cx) {
                Poll::Pending => {
                    self.unsent = Some(transmit);
                    return;
                }
                // No descriptor is left to ask with, or no memory.
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "a full UDP socket cannot be watched");
                    self.unsent = Some(transmit);
                    self.retry = Some(clock::now() + RETRY);
                    return;
                }
                Poll::Ready(Ok(())) => self.send(transmit),
            }
        }
        for connection in self.stuck.drain(..) {
            let state = &mut *connection.lock();
            state.stuck = false;
            queue(&mut self.work, &connection, state);
        }
    }
}

pub(super) fn datagrams<'a>(transmit: &quinn_proto::Transmit, contents: &'a [u8]) -> Transmit<'a> {
    Transmit {
        destination: transmit.destination,
        ecn: transmit.ecn.map(udp_ecn),
        contents: contents.get(..transmit.size).unwrap_or(contents),
        segment_size: transmit.segment_size,
        src_ip: transmit.src_ip,
    }
}

fn udp_ecn(ecn: quinn::EcnCodepoint) -> EcnCodepoint {
    match ecn {
        quinn::EcnCodepoint::Ect0 => EcnCodepoint::Ect0,
        quinn::EcnCodepoint::Ect1 => EcnCodepoint::Ect1,
        quinn::EcnCodepoint::Ce => EcnCodepoint::Ce,
    }
}
