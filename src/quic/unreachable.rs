//! ICMP errors that a UDP socket drew: who cannot be reached. Linux keeps them in the socket's error queue if it is asked to;
//! quinn never looks there.
//!
//! Called by [`super::datagrams`] at each receive. A hint and nothing more: whoever can guess a port can forge them. A flood of
//! them turns the queue off for a while, because each one also makes one send or receive of the socket fail.

use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::Socket;
use tokio::io::unix::AsyncFd;

use super::socket::canonical;
use crate::clock;

/// Hears of each address that is said to be unreachable. Must not block.
pub type Unreachable = Arc<dyn Fn(SocketAddr) + Send + Sync>;

/// Errors within [`FLOOD_TIME`] that are a flood: fewer than make a socket count as broken.
const FLOOD: u32 = 50;
const FLOOD_TIME: Duration = Duration::from_secs(1);
/// How long the queue stays off then.
const DEAF_TIME: Duration = Duration::from_secs(10);

/// The error queue of one socket.
pub(super) struct ErrorQueue {
    socket: Socket,
    /// An epoll instance that reports nothing but errors of the socket: the runtime's own would wake for each datagram.
    errors: AsyncFd<OwnedFd>,
    tell: Unreachable,
    flood: Mutex<Flood>,
    /// The queue is off.
    deaf: AtomicBool,
}

/// When errors came lately.
#[derive(Debug, Default)]
struct Flood {
    since: Option<Instant>,
    count: u32,
    deaf_until: Option<Instant>,
}

impl Flood {
    /// One error came; whether it was one too many.
    fn handle_error(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now > since + FLOOD_TIME) {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count += 1;
        let flooded = self.count > FLOOD;
        if flooded {
            self.deaf_until = Some(now + DEAF_TIME);
        }
        flooded
    }

    /// Whether it is time to listen again.
    fn poll_recovered(&mut self, now: Instant) -> bool {
        self.deaf_until.take_if(|until| now >= *until).is_some()
    }
}

impl ErrorQueue {
    /// Watches `socket`, of which it keeps a handle. Must be called in a runtime.
    pub(super) fn watch(socket: &UdpSocket, tell: Unreachable) -> io::Result<Self> {
        let socket = Socket::from(socket.try_clone()?);
        set_queue(&socket, true)?;
        // SAFETY: an `OwnedFd` always answers the same descriptor and closes it only when dropped; nothing takes it out of the
        // `AsyncFd`.
        let errors = unsafe { AsyncFd::register(errors_of(socket.as_raw_fd())?) }?;
        Ok(Self { socket, errors, tell, flood: Mutex::default(), deaf: AtomicBool::new(false) })
    }

    /// Tells of what came; wakes `cx` when more comes.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        while let Poll::Ready(Ok(mut guard)) = self.errors.poll_read_ready(cx) {
            self.drain();
            guard.clear_ready();
        }
        if self.deaf.load(Ordering::Relaxed) && self.flood.lock().poll_recovered(clock::now()) {
            self.set_deaf(false);
        }
    }

    fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::Relaxed);
        let _ = set_queue(&self.socket, !deaf);
    }

    fn drain(&self) {
        // Of the datagram that drew the error only the address is of use.
        let mut none = [MaybeUninit::uninit(); 1];
        while let Ok((_, to)) = self.socket.recv_from_with_flags(&mut none, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) {
            let flooded = self.flood.lock().handle_error(clock::now());
            if flooded && !self.deaf.load(Ordering::Relaxed) {
                tracing::warn!(
                    seconds = DEAF_TIME.as_secs(),
                    "a flood of ICMP errors: not listening to them for a while"
                );
                self.set_deaf(true);
            }
            if let Some(to) = to.as_socket() {
                (self.tell)(canonical(to));
            }
        }
    }
}

/// Turns the queue on or off; an IPv6 socket may carry IPv4 too.
fn set_queue(socket: &Socket, on: bool) -> io::Result<()> {
    if socket.local_addr()?.is_ipv6() {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, on)?;
        // Not there if the socket takes IPv6 only.
        let _ = set_option(socket, libc::IPPROTO_IP, libc::IP_RECVERR, on);
        return Ok(());
    }
    set_option(socket, libc::IPPROTO_IP, libc::IP_RECVERR, on)
}

fn set_option(socket: &Socket, level: libc::c_int, option: libc::c_int, on: bool) -> io::Result<()> {
    let value = libc::c_int::from(on);
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the length of the call; the kernel reads `length` bytes of `value`, which lives.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An epoll instance that is readable when `socket` has an error, which epoll reports although nothing is asked for.
fn errors_of(socket: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    let mut nothing = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: both descriptors are open, `nothing` lives for the length of the call.
    let added = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket, &raw mut nothing) };
    if added == 0 { Ok(epoll) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_told_of_and_datagrams_are_not() {
        for any in ["127.0.0.1:0", "[::]:0"] {
            let socket = UdpSocket::bind(any).unwrap();
            let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let told: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
            let heard = told.clone();
            let queue = ErrorQueue::watch(&socket, Arc::new(move |address| heard.lock().push(address))).unwrap();
            let other = UdpSocket::bind("127.0.0.1:0").unwrap();
            other.send_to(b"datagram", ("127.0.0.1", socket.local_addr().unwrap().port())).unwrap();
            queue.poll(&mut Context::from_waker(std::task::Waker::noop()));
            assert!(told.lock().is_empty());
            let to = match any.starts_with('[') {
                true => SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), closed.port()),
                false => closed,
            };
            socket.send_to(b"anyone?", to).unwrap();
            let heard = std::future::poll_fn(|cx| {
                queue.poll(cx);
                if told.lock().is_empty() { Poll::Pending } else { Poll::Ready(()) }
            });
            tokio::time::timeout(Duration::from_secs(10), heard).await.unwrap();
            assert_eq!(*told.lock(), [closed]);
        }
    }

    #[test]
    fn a_flood_is_not_listened_to_for_ten_seconds() {
        let (mut flood, start) = (Flood::default(), clock::now());
        let spread = (0..1_000).map(|n| flood.handle_error(start + Duration::from_millis(n * 22)));
        assert!(spread.filter(|flooded| *flooded).count() == 0, "45 a second are none");
        let later = start + Duration::from_secs(60);
        let flooded = (0..1_000).position(|n| flood.handle_error(later + Duration::from_millis(n))).unwrap();
        assert_eq!(flooded, FLOOD as usize);
        assert!(!flood.poll_recovered(later + Duration::from_secs(5)));
        assert!(flood.poll_recovered(later + Duration::from_secs(12)));
        assert!(!flood.poll_recovered(later + Duration::from_secs(13)), "once");
    }
}
