//! The network: datagrams between in-memory sockets, with delay, loss, duplication, reordering and black holes, all in
//! the runtime's paused time. One task ([`Net::run`]) delivers; everything random comes from the scenario's seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::scenario::Path;

/// Datagrams that wait for a process to read them; a kernel's receive buffer is as bounded.
const QUEUE_MAX: usize = 2_000;

/// A datagram under way.
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    ecn: Option<EcnCodepoint>,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Port {
    /// Its socket: one of a process that was killed may be dropped later than the next process binds the same port.
    owner: u64,
    queue: VecDeque<Datagram>,
    waker: Option<Waker>,
}

struct State {
    random: fastrand::Rng,
    start: Instant,
    ports: BTreeMap<SocketAddr, Port>,
    under_way: BTreeMap<(Instant, u64), Datagram>,
    sequence: u64,
    /// By the sender's and the receiver's address.
    paths: BTreeMap<(IpAddr, IpAddr), Path>,
    black_ports: BTreeSet<SocketAddr>,
    next_port: u16,
    sockets: u64,
    digest: u64,
    sent: u64,
}

/// See the module.
#[derive(Clone)]
pub struct Net {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Net {
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: fastrand::Rng::with_seed(seed),
            start: Instant::now(),
            ports: BTreeMap::new(),
            under_way: BTreeMap::new(),
            sequence: 0,
            paths: BTreeMap::new(),
            black_ports: BTreeSet::new(),
            next_port: 10_000,
            sockets: 0,
            digest: 0xcbf2_9ce4_8422_2325,
            sent: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::default() }
    }

    /// Changes how datagrams from `from` to `to` fare.
    pub fn path(&self, from: IpAddr, to: IpAddr, change: impl FnOnce(&mut Path)) {
        change(self.state.lock().paths.entry((from, to)).or_default());
    }

    /// Whatever comes from or goes to this address vanishes from now on.
    pub fn black_hole(&self, address: SocketAddr) {
        self.state.lock().black_ports.insert(address);
    }

    /// A socket at `ip`; port 0 takes a fresh one.
    pub fn bind(&self, ip: IpAddr, port: u16) -> Arc<Socket> {
        let mut state = self.state.lock();
        let port = if port == 0 {
            state.next_port += 1;
            state.next_port
        } else {
            port
        };
        let address = SocketAddr::new(ip, port);
        state.sockets += 1;
        let id = state.sockets;
        state.ports.insert(address, Port { owner: id, ..Port::default() });
        Arc::new(Socket { net: self.clone(), address, id })
    }

    /// The process at `ip` is gone with all its sockets.
    pub fn crash(&self, ip: IpAddr) {
        self.state.lock().ports.retain(|address, _| address.ip() != ip);
    }

    /// A digest of every datagram's time, addresses, size and fate: equal for equal runs.
    pub fn digest(&self) -> u64 {
        self.state.lock().digest
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.state.lock().sent
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, ecn: Option<EcnCodepoint>, bytes: &[u8]) {
        let mut state = self.state.lock();
        if !state.ports.contains_key(&from) {
            return;
        }
        state.send(from, to, ecn, bytes);
        drop(state);
        self.changed.notify_one();
    }

    /// Delivers until it is dropped.
    pub async fn run(self) {
        loop {
            let next = self.state.lock().under_way.keys().next().map(|(due, _)| *due);
            match next {
                None => self.changed.notified().await,
                Some(due) => tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(due) => self.deliver(),
                    () = self.changed.notified() => {}
                },
            }
        }
    }

    fn deliver(&self) {
        let (now, mut state) = (Instant::now(), self.state.lock());
        while let Some(entry) = state.under_way.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let datagram = entry.remove();
            let Some(port) = state.ports.get_mut(&datagram.to) else { continue };
            if port.queue.len() < QUEUE_MAX {
                port.queue.push_back(datagram);
            }
            if let Some(waker) = port.waker.take() {
                waker.wake();
            }
        }
    }
}

impl State {
    fn send(&mut self, from: SocketAddr, to: SocketAddr, ecn: Option<EcnCodepoint>, bytes: &[u8]) {
        let path = self.paths.get(&(from.ip(), to.ip())).cloned().unwrap_or_default();
        let black = self.black_ports.contains(&from) || self.black_ports.contains(&to);
        let lost = black || path.blocked || self.random.f64() < path.loss;
        let copies = if lost { 0 } else { 1 + u64::from(self.random.f64() < path.duplicate) };
        self.sent += 1;
        for what in [elapsed(self.start), u64::from(from.port()), u64::from(to.port()), bytes.len() as u64, copies] {
            self.digest = (self.digest ^ what).wrapping_mul(0x0100_0000_01b3);
        }
        for _ in 0..copies {
            let late = if path.jitter_ms == 0 { 0 } else { self.random.u64(0..=path.jitter_ms) };
            let due = Instant::now() + Duration::from_millis(path.delay_ms + late);
            self.sequence += 1;
            self.under_way.insert((due, self.sequence), Datagram { from, to, ecn, bytes: bytes.to_vec() });
        }
    }
}

fn elapsed(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// One socket; closed when dropped.
pub struct Socket {
    net: Net,
    address: SocketAddr,
    id: u64,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Socket({})", self.address)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.net.state.lock().ports.retain(|_, port| port.owner != self.id);
    }
}

/// There is always room to send.
#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for segment in transmit.contents.chunks(size) {
            self.net.send(self.address, transmit.destination, transmit.ecn, segment);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.net.state.lock();
        let Some(port) = state.ports.get_mut(&self.address) else { return Poll::Pending };
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some(datagram) = port.queue.pop_front() else { break };
            let len = datagram.bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&datagram.bytes[..len]);
            *meta = RecvMeta { addr: datagram.from, len, stride: len, ecn: datagram.ecn, dst_ip: None };
            count += 1;
        }
        if count == 0 {
            port.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn max_transmit_segments(&self) -> usize {
        10
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
