//! One run of a process of either kind: real QUIC endpoints and real links on the virtual network. It can be stopped
//! (nothing of it runs, as under SIGSTOP) and killed (nothing of it is left and nobody is told).

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::{AsyncUdpSocket, EndpointConfig};
use trunkline::config::TunnelLimits;
use trunkline::observe::event::Events;
use trunkline::quic::Endpoint;
use trunkline::task::{Shutdown, Tasks};
use trunkline::tunnel::control::{Control, Hello, Register, Registered};
use trunkline::tunnel::exchange::{ExchangeReader, ExchangeWriter};
use trunkline::tunnel::identity::POP_SERVER_NAME;
use trunkline::tunnel::link::{self, ControlStream, Link, LinkState, Owner};
use trunkline::tunnel::metrics::TunnelMetrics;
use trunkline::tunnel::peer::{Peers, Settings};

use crate::net::Socket;
use crate::world::World;
use crate::{handler, trust};

/// The PoPs' tunnel port.
const PORT: u16 = 4433;
/// From the first packet to REGISTERED.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait between dials.
const BACKOFF_MAX: u64 = 400;

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    Pop(usize),
    Gateway(usize),
}

impl Node {
    pub fn ip(self) -> IpAddr {
        let (kind, index) = match self {
            Self::Pop(index) => (1, index),
            Self::Gateway(index) => (2, index),
        };
        Ipv4Addr::new(10, kind, 0, u8::try_from(index).expect("few nodes")).into()
    }

    pub fn name(self) -> String {
        match self {
            Self::Pop(index) => format!("pop{index}"),
            Self::Gateway(index) => format!("gateway{index}"),
        }
    }
}

/// Whether a process stands still.
#[derive(Default)]
pub struct Stop {
    stopped: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Stop {
    pub fn set(&self, stopped: bool) {
        self.stopped.store(stopped, Ordering::Relaxed);
        if !stopped {
            self.waiting.lock().drain(..).for_each(Waker::wake);
        }
    }
}

/// A future that is not polled while its process is stopped.
struct Stoppable<F> {
    stop: Arc<Stop>,
    inner: Pin<Box<F>>,
}

impl<F: Future<Output = ()>> Future for Stoppable<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.stop.stopped.load(Ordering::Relaxed) {
            self.stop.waiting.lock().push(cx.waker().clone());
            return Poll::Pending;
        }
        self.inner.as_mut().poll(cx)
    }
}

/// One run of a process.
pub struct Host {
    pub node: Node,
    pub instance: u64,
    pub world: Arc<World>,
    pub peers: Arc<Peers>,
    /// Links now, in the order in which they came.
    pub links: Mutex<Vec<Arc<Link>>>,
    /// Every link that ever was.
    pub all_links: Mutex<Vec<Weak<Link>>>,
    /// At a gateway: the source address of each of its links, by PoP and number.
    pub ports: Mutex<Vec<((usize, usize), SocketAddr)>>,
    pub stop: Arc<Stop>,
    shutdown: Shutdown,
    tasks: Tasks,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.node.name())
    }
}

impl Host {
    /// Starts a process.
    pub fn start(world: &Arc<World>, node: Node, instance: u64) -> Arc<Self> {
        let shutdown = Shutdown::default();
        let tasks = Tasks::new(shutdown.clone());
        let limits = TunnelLimits {
            retention_max: world.scenario.retention_max,
            exchange_window_max: world.scenario.window_max,
            ..TunnelLimits::default()
        };
        let peers = Arc::new(Peers::new(
            Arc::new(Settings::new(&limits)),
            tasks.clone(),
            TunnelMetrics::default(),
            Events::default(),
        ));
        let host = Arc::new(Self {
            node,
            instance,
            world: world.clone(),
            peers,
            links: Mutex::default(),
            all_links: Mutex::default(),
            ports: Mutex::default(),
            stop: Arc::default(),
            shutdown,
            tasks,
        });
        match node {
            Node::Pop(_) => host.spawn(accept_links(host.clone(), limits)),
            Node::Gateway(_) => {
                for pop in 0..world.scenario.pops {
                    for number in 0..world.scenario.links {
                        host.spawn(hold_link(host.clone(), limits.clone(), pop, number));
                    }
                }
            }
        }
        host
    }

    /// Runs `future` as part of this process.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(Stoppable { stop: self.stop.clone(), inner: Box::pin(future) });
    }

    /// Ends the process as kill -9 does.
    pub fn kill(&self) {
        self.world.net.crash(self.node.ip());
        self.shutdown.start_force();
    }

    fn hello(&self) -> Hello {
        let pop = matches!(self.node, Node::Pop(_));
        Hello {
            node: self.node.name(),
            instance: self.instance,
            sends: pop,
            serves: !pop,
            window: self.peers.settings().window,
            ..Hello::default()
        }
    }

    fn endpoint(self: &Arc<Self>, config: EndpointConfig, server: Option<quinn::ServerConfig>, port: u16) -> Endpoint {
        let mut config = config;
        config.rng_seed(Some(std::array::from_fn(|_| fastrand::u8(..))));
        let socket: Arc<Socket> = self.world.net.bind(self.node.ip(), port);
        let driven = |task| self.spawn(task);
        Endpoint::new(config, server, socket, driven).expect("endpoint")
    }

    /// Runs a link whose HELLO is done, to its end.
    async fn run(self: &Arc<Self>, link: Arc<Link>, control: ControlStream, owner: Arc<dyn Owner>) {
        self.all_links.lock().push(Arc::downgrade(&link));
        let reason = link::run(link, control, owner, &self.tasks).await;
        self.world.note(|| format!("{}: link closed: {reason}", self.node.name()));
    }
}

async fn accept_links(host: Arc<Host>, limits: TunnelLimits) {
    let trust = trust::get();
    let endpoint = host.endpoint(trust.endpoint_config(host.node), Some(trust.server(&limits)), PORT);
    while let Some(incoming) = endpoint.accept().await {
        let host = host.clone();
        host.clone().spawn(async move {
            let handshake = async { incoming.accept()?.await };
            let Ok(Ok(connection)) = tokio::time::timeout(Duration::from_secs(5), handshake).await else { return };
            let hello = host.hello();
            let established = link::handshake(connection, &host.peers, hello, false, 0, |_| Ok(())).await;
            if let Ok((link, control)) = established {
                let owner = Arc::new(PopOwner { host: host.clone() });
                host.run(link, control, owner).await;
            }
        });
    }
}

struct PopOwner {
    host: Arc<Host>,
}

impl Owner for PopOwner {
    fn handle_control(&self, link: &Arc<Link>, frame: Control) {
        match frame {
            Control::Register(register) => {
                link.set_state(LinkState::Ready);
                self.host.links.lock().push(link.clone());
                link.send(&Control::Registered(Registered { sequence: register.sequence, ..Registered::default() }));
            }
            other => self.host.world.violate(format!("{:?}: unexpected {other:?}", self.host)),
        }
    }

    fn handle_state(&self, link: &Arc<Link>) {
        note_state(&self.host, link);
    }

    fn handle_exchange(&self, _: &Arc<Link>, writer: ExchangeWriter, _: ExchangeReader) {
        self.host.world.violate("a gateway opened an exchange".into());
        drop(writer);
    }
}

fn note_state(host: &Arc<Host>, link: &Arc<Link>) {
    let state = link.state();
    host.world.note(|| format!("{host:?}: link to {} is {state:?}", link.peer().node()));
    if state == LinkState::Closed {
        host.links.lock().retain(|other| !Arc::ptr_eq(other, link));
    }
}

/// Holds one link for ever: dial, register, hold, and again.
async fn hold_link(host: Arc<Host>, limits: TunnelLimits, pop: usize, number: usize) {
    loop {
        match tokio::time::timeout(DIAL_TIMEOUT, dial(&host, &limits, pop, number)).await {
            Ok(Some((link, control, endpoint))) => {
                link.send(&Control::Register(Register {
                    services: vec!["s".into()],
                    weight: 1,
                    ..Register::default()
                }));
                let owner = Arc::new(GatewayOwner { host: host.clone(), endpoint, pop, number });
                host.run(link, control, owner).await;
            }
            _ => host.world.note(|| format!("{host:?}: dial to pop{pop} failed")),
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..BACKOFF_MAX))).await;
    }
}

async fn dial(
    host: &Arc<Host>,
    limits: &TunnelLimits,
    pop: usize,
    number: usize,
) -> Option<(Arc<Link>, ControlStream, Endpoint)> {
    let trust = trust::get();
    let endpoint = host.endpoint(trust.endpoint_config(host.node), None, 0);
    note_port(host, pop, number, endpoint.local_addr().ok()?);
    let target = SocketAddr::new(Node::Pop(pop).ip(), PORT);
    let connection = endpoint.connect_with(trust.client(limits), target, POP_SERVER_NAME).ok()?.await.ok()?;
    let (link, control) = link::handshake(connection, &host.peers, host.hello(), true, 0, |_| Ok(())).await.ok()?;
    Some((link, control, endpoint))
}

fn note_port(host: &Host, pop: usize, number: usize, address: SocketAddr) {
    let mut ports = host.ports.lock();
    ports.retain(|(link, _)| *link != (pop, number));
    ports.push(((pop, number), address));
}

struct GatewayOwner {
    host: Arc<Host>,
    endpoint: Endpoint,
    pop: usize,
    number: usize,
}

impl Owner for GatewayOwner {
    fn handle_control(&self, link: &Arc<Link>, frame: Control) {
        match frame {
            Control::Registered(_) => {
                link.set_state(LinkState::Ready);
                self.host.links.lock().push(link.clone());
            }
            other => self.host.world.violate(format!("{:?}: unexpected {other:?}", self.host)),
        }
    }

    fn handle_state(&self, link: &Arc<Link>) {
        note_state(&self.host, link);
    }

    fn handle_exchange(&self, _: &Arc<Link>, writer: ExchangeWriter, reader: ExchangeReader) {
        self.host.spawn(handler::serve(self.host.clone(), writer, reader));
    }

    fn handle_suspect(&self, _: &Arc<Link>) {
        let socket = self.host.world.net.bind(self.host.node.ip(), 0);
        note_port(&self.host, self.pop, self.number, socket.local_addr().expect("address"));
        self.endpoint.rebind(socket).expect("rebind");
    }
}
