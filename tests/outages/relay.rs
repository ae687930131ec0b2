//! A path between gateways and a PoP that can go wrong: a UDP relay on a thread of its own. Gateways dial its address instead
//! of the PoP's; each of their source ports is forwarded from a port of its own, on an address of the relay's own, so that
//! the PoP sees as many paths as there are links, and another address for each relay.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

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
        let front = std::net::UdpSocket::bind((own, 0)).expect("a relay's socket");
        front.set_nonblocking(true).expect("non-blocking");
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

/// Until the future is dropped.
async fn forward(front: Arc<UdpSocket>, own: SocketAddr, pop: SocketAddr, state: Arc<Mutex<State>>) {
    let mut tasks = JoinSet::new();
    let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        // A port that a gateway has left is answered by an ICMP error.
        let Ok((length, from)) = front.recv_from(&mut buffer).await else { continue };
        while tasks.try_join_next().is_some() {}
        let back = match backs.get(&from) {
            Some(back) => back.clone(),
            None => {
                let back = Arc::new(UdpSocket::bind(own).await.expect("a socket"));
                backs.insert(from, back.clone());
                tasks.spawn(give_back(front.clone(), back.clone(), from, state.clone()));
                back
            }
        };
        let way = { state.lock().path(from.port()).up };
        pass(&mut tasks, back, &buffer[..length], pop, way);
        count(&state, from, length);
    }
}

/// From the PoP to the gateway's port `to`.
async fn give_back(front: Arc<UdpSocket>, back: Arc<UdpSocket>, to: SocketAddr, state: Arc<Mutex<State>>) {
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let Ok((length, _)) = back.recv_from(&mut buffer).await else { continue };
        while tasks.try_join_next().is_some() {}
        let way = { state.lock().path(to.port()).down };
        pass(&mut tasks, front.clone(), &buffer[..length], to, way);
        count(&state, to, length);
    }
}

fn pass(tasks: &mut JoinSet<()>, socket: Arc<UdpSocket>, datagram: &[u8], to: SocketAddr, way: Way) {
    if fastrand::u32(..1_000) < way.loss {
        return;
    }
    if way.delay.is_zero() {
        // A full buffer loses it, as anywhere.
        let _ = socket.try_send_to(datagram, to);
        return;
    }
    let datagram = datagram.to_vec();
    tasks.spawn(async move {
        tokio::time::sleep(way.delay).await;
        let _ = socket.try_send_to(&datagram, to);
    });
}

fn count(state: &Mutex<State>, port: SocketAddr, bytes: usize) {
    *state.lock().carried.entry(port.port()).or_default() += bytes as u64;
}
