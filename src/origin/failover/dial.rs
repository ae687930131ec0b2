//! One task per link: resolve, dial, register, hold, and again.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::Endpoint;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::backoff::Backoff;
use crate::config::PopAddress;
use crate::origin::gateway::Gateway;
use crate::quic::{self, Worker, initial_cid};
use crate::task::Tasks;
use crate::tunnel::code::CloseCode;
use crate::tunnel::control::{Control, Hello, Register};
use crate::tunnel::endpoint::peer_certificate;
use crate::tunnel::exchange::{ExchangeReader, ExchangeWriter};
use crate::tunnel::identity::{Identity, POP_SERVER_NAME, identity};
use crate::tunnel::link::{self, Link, LinkError, LinkState, Owner};
use crate::tunnel::peer::Peers;

/// Everything that all links of this origin share.
pub struct Dialler {
    /// What this origin says of itself.
    pub hello: Hello,
    /// Names it registers.
    pub services: Vec<String>,
    /// Processes at the other end.
    pub peers: Arc<Peers>,
    /// TLS and transport.
    pub client: quinn::ClientConfig,
    /// Where exchanges go.
    pub gateway: Arc<Gateway>,
    /// Owner of the exchanges' tasks: a drain waits for them.
    pub exchanges: Tasks,
    /// Owner of the links.
    pub links: Tasks,
    /// From the first packet to REGISTERED.
    pub dial_timeout: Duration,
    /// Longest wait between dials.
    pub backoff_max: Duration,
    /// Links now, for readiness and status.
    pub held: Mutex<Vec<Arc<Link>>>,
    /// Called when links come or go, with whether any is ready.
    pub ready: Box<dyn Fn(bool) + Send + Sync>,
    /// Rises with each REGISTER.
    pub sequence: AtomicU64,
}

/// Why a dial came to nothing.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot resolve {0}")]
    Resolve(String),
    #[error("{0}")]
    Socket(#[from] std::io::Error),
    #[error("{0}")]
    Connect(#[from] quinn::ConnectError),
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("not registered in time")]
    Timeout,
}

impl DialError {
    /// Whether trying soon again is useless.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Link(LinkError::Identity(_) | LinkError::Refused(_) | LinkError::Wire(_)) => true,
            // A TLS alert: certificates do not fit.
            Self::Link(LinkError::Connection(quinn::ConnectionError::TransportError(error))) => {
                (0x100..0x200).contains(&u64::from(error.code))
            }
            _ => false,
        }
    }
}

impl Dialler {
    /// Holds one link to `pop` until the process ends: the `number`-th of this origin to it.
    pub async fn hold(self: Arc<Self>, pop: PopAddress, number: usize, worker: usize) {
        let mut backoff = Backoff::new(self.backoff_max);
        let mut target = None;
        loop {
            let outcome = self.clone().dial_and_run(&pop, number, worker, &mut target, &mut backoff).await;
            let wait = match &outcome {
                Err(error) if error.is_refusal() => backoff.handle_refused(),
                _ => backoff.handle_failure(fastrand::f64()),
            };
            match outcome {
                Ok(reason) => tracing::info!(pop = pop.host, port = pop.port, %reason, ?wait, "tunnel closed"),
                Err(error) => {
                    self.peers.metrics().links_failed.inc();
                    tracing::warn!(pop = pop.host, port = pop.port, %error, ?wait, "cannot hold a tunnel");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.links.draining() => return,
            }
        }
    }

    async fn dial_and_run(
        self: Arc<Self>,
        pop: &PopAddress,
        number: usize,
        worker: usize,
        target: &mut Option<Worker>,
        backoff: &mut Backoff,
    ) -> Result<LinkError, DialError> {
        let dialled = tokio::time::timeout(self.dial_timeout, self.dial(pop, worker, *target)).await;
        let (link, control, endpoint) = dialled.unwrap_or(Err(DialError::Timeout))?;
        // The next dial goes to the PoP's worker whose turn it is, so that each has a link of its own.
        let workers = usize::try_from(link.remote().workers).unwrap_or(1).max(1);
        *target = Worker::new(number % workers, workers);
        let owner = Arc::new(OriginOwner { dialler: self.clone(), endpoint, registered: Notify::new() });
        let registered = self.register_in_time(&link, owner.clone());
        let (registered, reason) =
            tokio::join!(registered, link::run(link.clone(), control, owner.clone(), &self.links));
        if registered {
            backoff.handle_ready();
            Ok(reason)
        } else {
            Err(reason.into())
        }
    }

    async fn dial(
        &self,
        pop: &PopAddress,
        worker: usize,
        target: Option<Worker>,
    ) -> Result<(Arc<Link>, link::ControlStream, Endpoint), DialError> {
        let address = resolve(pop).await?;
        let endpoint = quic::endpoint(quinn::EndpointConfig::default(), None, socket_towards(address)?)?;
        let mut config = self.client.clone();
        if let Some(target) = target {
            config.initial_dst_cid_provider(Arc::new(move || initial_cid(target)));
        }
        let connection =
            endpoint.connect_with(config, address, POP_SERVER_NAME)?.await.map_err(LinkError::Connection)?;
        let name = match pop_identity(&connection) {
            Ok(name) => name,
            Err(reason) => {
                connection.close(CloseCode::Identity.varint(), reason.as_bytes());
                return Err(LinkError::Identity(reason).into());
            }
        };
        let check = |hello: &Hello| match hello.node == name && hello.sends {
            true => Ok(()),
            false => Err(format!("a certificate for PoP {name}, but HELLO says {}", hello.node)),
        };
        let hello = Hello { worker: worker as u64, ..self.hello.clone() };
        let (link, control) = link::handshake(connection, &self.peers, hello, true, worker, check).await?;
        Ok((link, control, endpoint))
    }

    /// Sends REGISTER and waits for its answer; closes the link if none comes.
    async fn register_in_time(&self, link: &Arc<Link>, owner: Arc<OriginOwner>) -> bool {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        link.send(&Control::Register(Register { sequence, services: self.services.clone(), weight: 1 }));
        let registered = tokio::time::timeout(self.dial_timeout, owner.registered.notified()).await.is_ok();
        if !registered {
            link.close(CloseCode::Timeout, "no REGISTERED in time");
        }
        registered
    }

    fn changed(&self) {
        let any = self.held.lock().iter().any(|link| link.is_usable());
        (self.ready)(any);
    }

    /// The links for `/status`.
    pub fn status(&self) -> Value {
        let held = self.held.lock();
        held.iter()
            .map(|link| {
                json!({
                    "pop": &**link.peer().node(),
                    "address": link.connection().remote_address().to_string(),
                    "state": format!("{:?}", link.state()),
                    "worker": link.worker(),
                    "in_flight": link.in_flight(),
                    "rtt_us": u64::try_from(link.rtt().as_micros()).unwrap_or(u64::MAX),
                })
            })
            .collect()
    }
}

async fn resolve(pop: &PopAddress) -> Result<SocketAddr, DialError> {
    let mut addresses: Vec<_> = tokio::net::lookup_host((pop.host.as_str(), pop.port))
        .await
        .map_err(|error| DialError::Resolve(format!("{}: {error}", pop.host)))?
        .collect();
    // Another address each time: a name may have some that do not answer.
    fastrand::shuffle(&mut addresses);
    addresses.pop().ok_or_else(|| DialError::Resolve(format!("{}: no address", pop.host)))
}

/// A socket of its own for each link: another source port takes another path.
fn socket_towards(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    UdpSocket::bind(any)
}

fn pop_identity(connection: &quinn::Connection) -> Result<String, String> {
    let certificate = peer_certificate(connection).ok_or("no certificate")?;
    match identity(&certificate) {
        Ok(Identity::Pop { name }) => Ok(name),
        Ok(Identity::Gateway { name, .. }) => Err(format!("the certificate is of gateway {name}, not of a PoP")),
        Err(error) => Err(error.to_string()),
    }
}

/// One link's owner at an origin.
pub struct OriginOwner {
    dialler: Arc<Dialler>,
    endpoint: Endpoint,
    registered: Notify,
}

impl Owner for OriginOwner {
    fn handle_control(&self, link: &Arc<Link>, frame: Control) {
        match frame {
            Control::Registered(answer) => {
                for (service, reason) in &answer.refused {
                    tracing::error!(pop = %link.peer().node(), service, reason, "the PoP refuses a service");
                }
                let services = answer.accepted.join(",");
                tracing::info!(pop = %link.peer().node(), worker = link.worker(), services, "tunnel ready");
                link.set_state(LinkState::Ready);
                self.dialler.held.lock().push(link.clone());
                self.dialler.changed();
                self.registered.notify_one();
            }
            Control::Drain(drain) => {
                tracing::info!(pop = %link.peer().node(), reason = drain.reason, "PoP drains");
                link.set_state(LinkState::Draining);
                link.send(&Control::Ready);
                self.dialler.changed();
            }
            Control::Load(_) | Control::Ready => {}
            other => tracing::debug!(?other, "unexpected control frame"),
        }
    }

    fn handle_state(&self, link: &Arc<Link>) {
        if link.state() == LinkState::Closed {
            self.dialler.held.lock().retain(|held| !Arc::ptr_eq(held, link));
        }
        self.dialler.changed();
    }

    fn handle_exchange(&self, _link: &Arc<Link>, writer: ExchangeWriter, reader: ExchangeReader) {
        let gateway = self.dialler.gateway.clone();
        self.dialler.exchanges.spawn(async move { gateway.serve(writer, reader).await });
    }

    fn handle_suspect(&self, link: &Arc<Link>) {
        // A fresh source port takes another path through the network: the connection goes on.
        match socket_towards(link.connection().remote_address()).and_then(|socket| self.endpoint.rebind(socket)) {
            Ok(()) => {
                link.peer().metrics().rebinds.inc();
            }
            Err(error) => tracing::warn!(%error, "no other source port"),
        }
    }
}
