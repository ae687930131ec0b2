//! Datagrams that leave twice, because the way to their peer loses some. [`Copies`] is told which peers those are by who has
//! the connections; each [`super::datagrams`] owns a [`Queue`]. Neither knows what is in a datagram.
//!
//! A short request or answer that is lost waits until the other end is missed: a round trip and a half, and as long as
//! acknowledgements may be delayed. Sent again a moment later, it is that moment late. Who gets it twice drops the second by
//! its packet number (RFC 9000 section 12.3). Of bulk nothing is repeated: what is lost of it, what follows betrays; nor are
//! acknowledgements, since the next one says the same.
//!
//! Invariants: a datagram leaves twice at most, the second time [`DELAY`] after the first, since losses come in bursts; copies
//! that wait are at most [`BYTES_MAX`] bytes for each socket, and one that finds no room, here or in the socket, is left out.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use quinn::udp::{EcnCodepoint, Transmit};
use tokio::time::Sleep;

use super::socket::canonical;
use crate::clock;

/// Between a datagram and its copy.
const DELAY: Duration = Duration::from_millis(2);
/// Copies that wait, bytes.
const BYTES_MAX: usize = 256 << 10;
/// Datagrams that are sent together and are not bulk yet.
const TOGETHER_MAX: usize = 3;
/// Shorter ones hold an acknowledgement and little else: 27 bytes are around the frames.
const LENGTH_MIN: usize = 56;
/// How long a peer gets copies after [`Copies::begin`].
const FOR: Duration = Duration::from_secs(3);
/// How long it gets none after [`Copies::pause`].
const PAUSE: Duration = Duration::from_millis(500);

/// The peers that get copies. One for all sockets of the tunnel.
#[derive(Debug)]
pub struct Copies {
    /// Whether there are any: looked at for each datagram.
    any: AtomicBool,
    peers: Mutex<HashMap<SocketAddr, Span>>,
    sent: Counter<u64, AtomicU64>,
}

/// When a peer gets copies.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: Instant,
    until: Instant,
}

impl Copies {
    /// For nobody yet; `sent` counts them.
    pub fn new(sent: Counter<u64, AtomicU64>) -> Self {
        Self { any: AtomicBool::new(false), peers: Mutex::default(), sent }
    }

    /// What goes to `peer` (an IPv4 address as such) loses some, and has room for copies: it gets them for three seconds.
    pub fn begin(&self, peer: SocketAddr, now: Instant) {
        let mut peers = self.peers.lock();
        peers.retain(|_, span| now < span.until);
        peers.entry(peer).or_insert(Span { from: now, until: now }).until = now + FOR;
        self.any.store(true, Ordering::Relaxed);
    }

    /// The way to `peer` is full: copies would take room from what nobody has got yet. For half a second there are none,
    /// whatever others say who share it.
    pub fn pause(&self, peer: SocketAddr, now: Instant) {
        if let Some(span) = self.peers.lock().get_mut(&peer) {
            span.from = now + PAUSE;
        }
    }

    /// Whether anybody gets copies.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    fn include(&self, peer: SocketAddr, now: Instant) -> bool {
        let mut peers = self.peers.lock();
        peers.retain(|_, span| now < span.until);
        self.any.store(!peers.is_empty(), Ordering::Relaxed);
        peers.get(&canonical(peer)).is_some_and(|span| now >= span.from)
    }
}

/// The copies of one socket that wait, the next to leave first.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Again>,
    bytes: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

/// A datagram, or a few that left together.
struct Again {
    due: Instant,
    contents: Vec<u8>,
    segment: Option<usize>,
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    source: Option<IpAddr>,
}

impl Queue {
    /// This left. Answers whether its copy is the first that waits: someone must [`poll`](Self::poll) for it.
    pub(super) fn handle_transmit(&mut self, transmit: &Transmit<'_>, copies: &Copies) -> bool {
        let now = clock::now();
        let room = self.bytes + transmit.contents.len() <= BYTES_MAX;
        if !room || !is_short(transmit) || !copies.include(transmit.destination, now) {
            return false;
        }
        copies.sent.inc();
        self.bytes += transmit.contents.len();
        self.waiting.push_back(Again {
            due: now + DELAY,
            contents: transmit.contents.to_vec(),
            segment: transmit.segment_size,
            destination: transmit.destination,
            ecn: transmit.ecn,
            source: transmit.src_ip,
        });
        self.waiting.len() == 1
    }

    /// Sends what is due; wakes `cx` when the next one is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, mut send: impl FnMut(&Transmit<'_>)) {
        while let Some(next) = self.waiting.front() {
            if clock::now() < next.due {
                let due = next.due.into();
                let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
                if timer.deadline() != due {
                    timer.as_mut().reset(due);
                }
                if timer.as_mut().poll(cx) == Poll::Pending {
                    return;
                }
            }
            let Some(copy) = self.waiting.pop_front() else { return };
            self.bytes -= copy.contents.len();
            send(&copy.transmit());
        }
    }
}

impl Again {
    fn transmit(&self) -> Transmit<'_> {
        Transmit {
            destination: self.destination,
            ecn: self.ecn,
            contents: &self.contents,
            segment_size: self.segment,
            src_ip: self.source,
        }
    }
}

/// Whether nothing follows that would betray a loss, and there is something to lose.
fn is_short(transmit: &Transmit<'_>) -> bool {
    let length = transmit.contents.len();
    length >= LENGTH_MIN && transmit.segment_size.is_none_or(|segment| length <= segment * TOGETHER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transmit(contents: &[u8], segment: Option<usize>, port: u16) -> Transmit<'_> {
        let destination = ([127, 0, 0, 1], port).into();
        Transmit { destination, ecn: None, contents, segment_size: segment, src_ip: None }
    }

    fn peer(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    /// Lengths of what leaves, by waiting until nothing is left.
    async fn leave(queue: &mut Queue) -> Vec<usize> {
        let mut left = Vec::new();
        std::future::poll_fn(|cx| {
            queue.poll(cx, |copy| left.push(copy.contents.len()));
            if queue.waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        left
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_short_leaves_again_a_moment_later_in_order_and_once() {
        let (copies, mut queue, bytes) = (Copies::new(Counter::default()), Queue::default(), [7; 5_000]);
        assert!(!queue.handle_transmit(&transmit(&bytes[..100], None, 1), &copies), "nobody asked for copies");
        copies.begin(peer(1), clock::now());
        let start = clock::now();
        assert!(queue.handle_transmit(&transmit(&bytes[..100], None, 1), &copies));
        assert!(
            !queue.handle_transmit(&transmit(&bytes[..3_500], Some(1_200), 1), &copies),
            "not the first that waits"
        );
        let left = [
            transmit(&bytes[..40], None, 1),
            transmit(&bytes[..4_800], Some(1_200), 1),
            transmit(&bytes[..100], None, 2),
        ];
        for left in &left {
            assert!(!queue.handle_transmit(left, &copies), "an acknowledgement, bulk, another peer");
        }
        assert_eq!((leave(&mut queue).await, queue.bytes, copies.sent.get()), (vec![100, 3_500], 0, 2));
        assert!(clock::now() - start >= DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn copies_end_three_seconds_after_they_were_last_asked_for_and_pause_where_the_way_is_full() {
        let copies = Copies::new(Counter::default());
        let mapped: SocketAddr = "[::ffff:127.0.0.1]:1".parse().unwrap();
        let start = clock::now();
        copies.pause(peer(1), start);
        copies.begin(peer(1), start);
        assert!(copies.include(peer(1), start) && copies.include(mapped, start), "on a socket for both families too");
        copies.pause(peer(1), start);
        copies.begin(peer(1), start);
        assert!(!copies.include(peer(1), start + PAUSE / 2) && copies.include(peer(1), start + PAUSE));
        assert!(!copies.include(peer(1), start + FOR) && !copies.any());
        copies.begin(peer(1), start);
        copies.begin(peer(2), start + FOR);
        assert_eq!(copies.peers.lock().len(), 1, "who is gone is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn copies_that_wait_are_bounded() {
        let (copies, mut queue, bytes) = (Copies::new(Counter::default()), Queue::default(), [7; 1_400]);
        copies.begin(peer(1), clock::now());
        for _ in 0..1_000 {
            queue.handle_transmit(&transmit(&bytes, None, 1), &copies);
        }
        assert_eq!(queue.waiting.len(), BYTES_MAX / bytes.len());
        assert_eq!(leave(&mut queue).await.len(), BYTES_MAX / bytes.len());
        assert_eq!(queue.bytes, 0);
    }
}
