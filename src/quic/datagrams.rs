//! One UDP socket as an endpoint sees it. Made by [`endpoint`](super::endpoint) and [`rebind`](super::rebind); owns the socket;
//! knows nothing of QUIC.
//!
//! It differs from quinn's own in four ways, each for a reason:
//! - *It outlives receive errors.* What Linux reports there (ENOMEM, ENETDOWN, an ICMP error) is about a moment or one peer.
//! - *A socket that gave one packet is empty*: it is not read once more to be told so. One that gave many is: more came
//!   meanwhile, and a turn of the event loop for each few packets costs bulk 15 %.
//! - *Short packets to peers whose way loses some leave twice* ([`super::copies`]).
//! - *That packets can be sent is asked only after one could not.* The kernel tells it after every packet that left, and
//!   each time the process wakes up for nothing.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker, ready};

use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::copies::{Copies, Queue};
use super::socket::Ties;
use super::unreachable::ErrorQueue;

/// Receive errors in a row after which the socket counts as broken.
const RECEIVE_ERRORS_MAX: u32 = 64;

/// See the module.
pub(super) struct Datagrams {
    /// Registered for what can be read.
    io: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    /// The last packet found no room, and room has not been seen since.
    full: AtomicBool,
    /// The socket once more, registered for what can be sent, while `full`.
    room: Mutex<Option<Arc<AsyncFd<UdpSocket>>>>,
    waiting: Mutex<Waiting>,
    /// Receive errors in a row.
    failures: AtomicU32,
    errors: Option<ErrorQueue>,
    copies: Option<Arc<Copies>>,
}

impl Datagrams {
    /// # Errors
    /// When the socket cannot be registered with the current runtime.
    pub(super) fn new(socket: UdpSocket, ties: Option<Ties>) -> io::Result<Arc<Self>> {
        let state = UdpSocketState::new((&socket).into())?;
        // Without the hint everything works, only later.
        let (tell, copies) = ties.map(|ties| (ties.unreachable, ties.copies)).unzip();
        let errors = tell.and_then(|tell| ErrorQueue::watch(&socket, tell).ok());
        let io = register(socket, Interest::READABLE)?;
        let (full, room, waiting) = (AtomicBool::new(false), Mutex::new(None), Mutex::default());
        Ok(Arc::new(Self { io, state, full, room, waiting, failures: AtomicU32::new(0), errors, copies }))
    }

    /// The registration that tells when there is room: one for all who wait.
    fn room(&self) -> io::Result<Arc<AsyncFd<UdpSocket>>> {
        let mut room = self.room.lock();
        if let Some(room) = &*room {
            return Ok(room.clone());
        }
        // A descriptor of its own: an epoll takes each only once.
        let registered = Arc::new(register(self.io.get_ref().try_clone()?, Interest::WRITABLE)?);
        Ok(room.insert(registered).clone())
    }

    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let lone = transmit.segment_size.is_none_or(|segment| transmit.contents.len() <= segment);
        let sent = if lone { self.send_lone(transmit) } else { self.state.send(self.io.get_ref().into(), transmit) };
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.full.store(true, Ordering::Relaxed);
        }
        sent
    }

    /// Sends one datagram, a probe of the packet size maybe.
    fn send_lone(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.state.try_send(self.io.get_ref().into(), transmit) {
            // The first hop takes less than the path is probed with.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Ok(()),
            // Once more, in the way that tells of it now and then.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                self.state.send(self.io.get_ref().into(), transmit)
            }
            sent => sent,
        }
    }

    /// Sends the copies that are due.
    fn poll_copies(&self, cx: &mut Context<'_>) {
        let Waiting { copies, endpoint } = &mut *self.waiting.lock();
        if endpoint.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
            *endpoint = Some(cx.waker().clone());
        }
        // One that finds no room is left out.
        copies.poll(cx, |copy| drop(self.send(copy)));
    }

    /// It left.
    fn copy(&self, transmit: &Transmit<'_>) {
        let Some(peers) = self.copies.as_ref().filter(|peers| peers.any()) else { return };
        let Waiting { copies, endpoint } = &mut *self.waiting.lock();
        if copies.handle_transmit(transmit, peers) {
            endpoint.iter().for_each(Waker::wake_by_ref);
        }
    }

    fn handle_room(&self) {
        self.full.store(false, Ordering::Relaxed);
        *self.room.lock() = None;
    }
}

fn register(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: a `UdpSocket` owns its descriptor, always answers the same one and closes it only when dropped; nothing takes
    // it out of the `AsyncFd`.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Datagrams").field(self.io.get_ref()).finish()
    }
}

impl AsyncUdpSocket for Datagrams {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, wait: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.send(transmit)?;
        self.copy(transmit);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if let Some(errors) = &self.errors {
            errors.poll(cx);
        }
        if self.copies.is_some() {
            self.poll_copies(cx);
        }
        loop {
            let mut readable = ready!(self.io.poll_read_ready(cx))?;
            match self.state.recv(self.io.get_ref().into(), bufs, metas) {
                Ok(count) => {
                    self.failures.store(0, Ordering::Relaxed);
                    let alone = count <= 1 && metas.first().is_none_or(|meta| meta.len <= meta.stride);
                    if alone && count < bufs.len() {
                        readable.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => readable.clear_ready(),
                Err(error) if self.failures.fetch_add(1, Ordering::Relaxed) >= RECEIVE_ERRORS_MAX => {
                    return Poll::Ready(Err(error));
                }
                Err(error) => {
                    tracing::warn!(%error, "UDP receive failed, going on");
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Copies of some datagrams that left.
#[derive(Default)]
struct Waiting {
    copies: Queue,
    /// The endpoint's task.
    endpoint: Option<Waker>,
}

/// Waits until the socket takes packets again; each endpoint on it has one.
struct Writable {
    socket: Arc<Datagrams>,
    wait: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").field("waiting", &self.wait.is_some()).finish_non_exhaustive()
    }
}

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, wait } = self.get_mut();
        if !socket.full.load(Ordering::Relaxed) {
            *wait = None;
            return Poll::Ready(Ok(()));
        }
        let waiting = match wait {
            Some(waiting) => waiting,
            None => {
                let room = socket.room()?;
                wait.insert(Box::pin(async move { room.writable().await.map(drop) }))
            }
        };
        let result = ready!(waiting.as_mut().poll(cx));
        *wait = None;
        socket.handle_room();
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::clock;

    #[tokio::test]
    async fn packets_arrive_before_and_after_the_socket_was_empty() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let (address, peer) = (socket.local_addr().unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let datagrams = Datagrams::new(socket, None).unwrap();
        for round in 0..100_u8 {
            for part in 0..round % 3 + 1 {
                peer.send_to(&[round, part], address).unwrap();
            }
            for part in 0..round % 3 + 1 {
                let mut memory = [0; 16];
                let mut meta = [RecvMeta::default()];
                let receive =
                    std::future::poll_fn(|cx| datagrams.poll_recv(cx, &mut [IoSliceMut::new(&mut memory)], &mut meta));
                let deadline = std::time::Duration::from_secs(20);
                assert_eq!(tokio::time::timeout(deadline, receive).await.unwrap().unwrap(), 1);
                assert_eq!(memory[..meta[0].len], [round, part]);
            }
        }
    }

    #[tokio::test]
    async fn who_finds_the_socket_full_is_told_when_there_is_room() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let datagrams = Datagrams::new(socket, None).unwrap();
        let mut pollers: Vec<_> = (0..3).map(|_| datagrams.clone().create_io_poller()).collect();
        let mut wait = async || {
            for poller in &mut pollers {
                let room = std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx));
                tokio::time::timeout(std::time::Duration::from_secs(20), room).await.unwrap().unwrap();
            }
        };
        wait().await;
        for _ in 0..3 {
            // As a send that got EAGAIN leaves it.
            datagrams.full.store(true, Ordering::Relaxed);
            wait().await;
            assert!(!datagrams.full.load(Ordering::Relaxed) && datagrams.room.lock().is_none());
        }
    }

    #[tokio::test]
    async fn what_is_short_leaves_twice_for_a_peer_that_gets_copies() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let copies = Arc::new(Copies::new(Counter::default()));
        let ties = Ties { unreachable: Arc::new(|_| {}), copies: copies.clone() };
        let datagrams = Datagrams::new(socket, Some(ties)).unwrap();
        let (one, other) = (
            tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        );
        copies.begin(one.local_addr().unwrap(), clock::now());
        let endpoint = {
            let datagrams = datagrams.clone();
            std::future::poll_fn(move |cx| {
                let (mut memory, mut meta) = ([0; 16], [RecvMeta::default()]);
                datagrams.poll_recv(cx, &mut [IoSliceMut::new(&mut memory)], &mut meta).map(drop)
            })
        };
        let arrive = async |peer: &tokio::net::UdpSocket| {
            let mut memory = [0; 2_000];
            let length = tokio::time::timeout(std::time::Duration::from_secs(20), peer.recv(&mut memory)).await;
            memory[..length.unwrap().unwrap()].to_vec()
        };
        let turns = async {
            tokio::task::yield_now().await;
            for (number, peer) in [(1, &one), (2, &other), (3, &one), (4, &other)] {
                let (contents, destination) = ([number; 100], peer.local_addr().unwrap());
                let transmit =
                    Transmit { destination, ecn: None, contents: &contents, segment_size: None, src_ip: None };
                datagrams.try_send(&transmit).unwrap();
            }
            let mut numbers = Vec::new();
            for _ in 0..4 {
                numbers.push(arrive(&one).await[0]);
            }
            numbers.sort_unstable();
            assert_eq!(numbers, [1, 1, 3, 3]);
            assert_eq!([arrive(&other).await[0], arrive(&other).await[0]], [2, 4]);
        };
        tokio::select! {
            biased;
            () = endpoint => panic!("nobody sent to it"),
            () = turns => {}
        }
    }
}
