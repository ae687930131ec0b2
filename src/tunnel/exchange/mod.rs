//! Layer 2: the exchange, a resumable pair of byte streams between an edge and an origin, one per request.
//!
//! It rides on one QUIC stream of one link at a time (its *attachment*). When the link dies the edge re-attaches it to
//! a stream of another link between the same two processes and both directions go on at the offsets received: neither
//! the client nor the upstream sees anything. The bookkeeping is in the sans-IO [`sender`] and [`receiver`]; `transfer`,
//! `attach` and `ending` join it to QUIC streams.
//!
//! The preamble of a stream is OPEN (counter, window), or RESUME (counter, generation, received offset), which is answered by
//! RESUMED (generation, received offset). The exchange's id is the edge's instance (from HELLO) and the counter.

mod attach;
pub mod credit;
pub mod ended;
mod ending;
mod half;
pub mod preamble;
pub mod receiver;
pub mod retention;
pub mod sender;
mod state;
mod transfer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use self::credit::Credit;
use self::preamble::Preamble;
use self::receiver::Receiver;
use self::sender::Sender;
use self::state::{Attachment, State};
use super::link::Link;
use super::peer::Peer;
use crate::clock;
use crate::fault::{Fault, Kind, Retry, Side, Stage};
use crate::quic::{RecvStream, SendStream};

pub use self::half::{Event, ExchangeReader, ExchangeWriter};

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

impl Exchange {
    /// At an edge: one for a request on the client connection that has `credit`.
    pub(super) fn open(
        counter: u64,
        link: Arc<Link>,
        streams: (SendStream, RecvStream),
        credit: &Arc<Credit>,
    ) -> Arc<Self> {
        let (peer, settings) = (link.peer().clone(), link.peer().settings());
        let budget = settings.window_budget.clone();
        let recv = Receiver::of_client(credit.clone(), settings.window, settings.window_max, budget);
        let mut lead = BytesMut::new();
        Preamble::Open { counter, window: recv.window() }.encode(&mut lead);
        link.attach();
        let (attachment, window) = (Attachment::new(link, streams, lead.freeze()), peer.credit());
        Self::with(counter, peer, Some(attachment), window, Some(recv))
    }

    /// At a gateway: one that the edge opened on this stream, and of which it takes `window` bytes.
    pub(super) fn accept(counter: u64, link: Arc<Link>, streams: (SendStream, RecvStream), window: u64) -> Arc<Self> {
        link.attach();
        let peer = link.peer().clone();
        Self::with(counter, peer, Some(Attachment::new(link, streams, Bytes::new())), window, None)
    }

    /// At a gateway: an exchange whose RESUME is the first that is heard of it, and says what the edge takes.
    pub(super) fn unattached(counter: u64, peer: Arc<Peer>) -> Arc<Self> {
        Self::with(counter, peer, None, 0, None)
    }

    /// The other end takes `window` bytes. An edge brings the receiver.
    fn with(
        counter: u64,
        peer: Arc<Peer>,
        attachment: Option<Attachment>,
        window: u64,
        recv: Option<Receiver>,
    ) -> Arc<Self> {
        let settings = peer.settings();
        let owner = recv.is_some();
        let at_gateway = || Receiver::new(settings.window, settings.window_max, settings.window_budget.clone());
        Arc::new(Self {
            counter,
            owner,
            resumed_first: attachment.is_none(),
            started: clock::now(),
            state: Mutex::new(State {
                send: Sender::new(window, settings.budget.clone()),
                recv: recv.unwrap_or_else(at_gateway),
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
