//! A path between gateways and a PoP that can go wrong: a UDP relay on a thread of its own. Gateways dial its address instead
//! of the PoP's; each of their source ports is forwarded from a port of its own, on an address of the relay's own, so that
//! the PoP sees as many paths as there are links, and another address for each relay.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trunkline::clock;

/// Datagrams on their way; more are lost.
const QUEUE_MAX: usize = 16_384;
/// Asked of the kernel for each socket.
const BUFFER_LEN: usize = 4 << 20;
/// Largest datagram.
const DATAGRAM_MAX: usize = 65_535;

/// What happens to datagrams in one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// Lost, thousandths.
    pub loss: u32,
    /// How long they take.
    pub delay: Duration,
}

/// What happens to all datagrams, or to those of one source port.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    /// From gateways to the PoP.
    pub up: Way,
    /// From the PoP to gateways.
    pub down: Way,
}

impl Path {
    /// Loses everything.
    pub const DARK: Self = Self::lossy(1_000, 1_000);

    /// Loses `up` and `down` thousandths.
    pub const fn lossy(up: u32, down: u32) -> Self {
        Self { up: Way { loss: up, delay: Duration::ZERO }, down: Way { loss: down, delay: Duration::ZERO } }
    }

    /// The same with a delay each way.
    pub const fn slow(mut self, delay: Duration) -> Self {
        self.up.delay = delay;
        self.down.delay = delay;
        self
    }
}

#[derive(Default)]
struct State {
    all: Path,
    ports: HashMap<u16, Path>,
    /// Bytes by source port, both ways.
    carried: BTreeMap<u16, u64>,
}

impl State {
    fn path(&self, port: u16) -> Path {
        self.ports.get(&port).copied().unwrap_or(self.all)
    }
}

/// See the module. Ends when dropped.
pub struct Relay {
    /// Where gateways dial it.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    end: CancellationToken,
}

impl Relay {
    /// A faultless relay to `pop`.
    pub fn start(pop: SocketAddr) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(10);
        let own = IpAddr::V4(Ipv4Addr::new(127, 0, 7, NEXT.fetch_add(1, Ordering::Relaxed)));
        let front = roomy(SocketAddr::new(own, 0));
        let address = front.local_addr().expect("address");
        let (state, end) = (Arc::<Mutex<State>>::default(), CancellationToken::new());
        let (shared, ended) = (state.clone(), end.clone());
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let front = Arc::new(UdpSocket::from_std(front).expect("socket"));
                tokio::select! {
                    () = forward(front, SocketAddr::new(own, 0), pop, shared) => {}
                    () = ended.cancelled() => {}
                }
            });
        });
        Self { address, state, end }
    }

    /// What happens to datagrams of all ports that have no path of their own.
    pub fn set(&self, path: Path) {
        self.state.lock().all = path;
    }

    /// What happens to those of one source port of a gateway.
    pub fn set_port(&self, port: u16, path: Path) {
        self.state.lock().ports.insert(port, path);
    }

    /// The source port that carried most since this was asked last.
    pub fn busiest(&self) -> u16 {
        let mut state = self.state.lock();
        let busiest = state.carried.iter().max_by_key(|(_, bytes)| **bytes).map(|(port, _)| *port);
        state.carried.clear();
        busiest.expect("something was carried")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// A socket that a burst does not overflow, as far as the kernel gives room: what is lost shall be lost on purpose.
fn roomy(address: SocketAddr) -> std::net::UdpSocket {
    let socket = std::net::UdpSocket::bind(address).expect("a relay's socket");
    socket.set_nonblocking(true).expect("non-blocking");
    SockRef::from(&socket).set_recv_buffer_size(BUFFER_LEN).expect("a buffer");
    socket
}

/// Until the future is dropped.
async fn forward(front: Arc<UdpSocket>, own: SocketAddr, pop: SocketAddr, state: Arc<Mutex<State>>) {
    let mut tasks = JoinSet::new();
    let mut backs: HashMap<SocketAddr, Late> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        // A port that a gateway has left is answered by an ICMP error.
        let Ok((length, from)) = front.recv_from(&mut buffer).await else { continue };
        let back = match backs.entry(from) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let back = Arc::new(UdpSocket::from_std(roomy(own)).expect("a socket"));
                let late = Late::start(&mut tasks, front.clone(), from);
                tasks.spawn(give_back(late, back.clone(), from, state.clone()));
                new.insert(Late::start(&mut tasks, back, pop))
            }
        };
        let way = { state.lock().path(from.port()).up };
        back.pass(&buffer[..length], way);
        count(&state, from, length);
    }
}

/// From the PoP to the gateway's port `to`.
async fn give_back(late: Late, back: Arc<UdpSocket>, to: SocketAddr, state: Arc<Mutex<State>>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let Ok((length, _)) = back.recv_from(&mut buffer).await else { continue };
        let way = { state.lock().path(to.port()).down };
        late.pass(&buffer[..length], way);
        count(&state, to, length);
    }
}

/// Sends datagrams to one address, late and in order.
struct Late {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    queue: mpsc::Sender<(Instant, Vec<u8>)>,
}

impl Late {
    fn start(tasks: &mut JoinSet<()>, socket: Arc<UdpSocket>, to: SocketAddr) -> Self {
        let (queue, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(QUEUE_MAX);
        let sender = socket.clone();
        tasks.spawn(async move {
            while let Some((when, datagram)) = due.recv().await {
                tokio::time::sleep_until(when.into()).await;
                let _ = sender.try_send_to(&datagram, to);
            }
        });
        Self { socket, to, queue }
    }

    /// A full buffer or queue loses it, as anywhere.
    fn pass(&self, datagram: &[u8], way: Way) {
        if fastrand::u32(..1_000) < way.loss {
            return;
        }
        match way.delay.is_zero() {
            true => drop(self.socket.try_send_to(datagram, self.to)),
            false => drop(self.queue.try_send((clock::now() + way.delay, datagram.to_vec()))),
        }
    }
}

fn count(state: &Mutex<State>, port: SocketAddr, bytes: usize) {
    *state.lock().carried.entry(port.port()).or_default() += bytes as u64;
}
