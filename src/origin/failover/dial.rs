//! One task per link: resolve, dial, register, hold, let go when its PoP is not wanted any more, and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::Endpoint;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::backoff::Backoff;
use super::machine::Role;
use super::owner::OriginOwner;
use super::supervisor::Supervisor;
use crate::clock;
use crate::config::PopAddress;
use crate::origin::gateway::Gateway;
use crate::quic::{self, Worker, initial_cid};
use crate::task::Tasks;
use crate::tunnel::code::CloseCode;
use crate::tunnel::control::{Control, Drain, Hello, Register};
use crate::tunnel::endpoint::peer_certificate;
use crate::tunnel::identity::{Identity, POP_SERVER_NAME, identity};
use crate::tunnel::link::{self, Link, LinkError};
use crate::tunnel::peer::Peers;

/// A link that lived this long is dialled again at once. One that did not is dialled with backoff: two processes under one
/// name throw each other out, and would do so without pause.
const LASTING: Duration = Duration::from_secs(2);

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
    /// What each PoP is for.
    pub supervisor: Arc<Supervisor>,
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
    /// How long exchanges on a link that is let go may take.
    pub drain_timeout: Duration,
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

/// One link's task: the `number`-th link of this origin to a PoP.
pub struct Holder {
    /// The PoP's place in the order of preference.
    pub pop: usize,
    /// Its address.
    pub address: PopAddress,
    /// Which of the links to it.
    pub number: usize,
    /// The worker that carries it.
    pub worker: usize,
    /// The PoP's worker that shall carry it, once it is known how many there are: each gets a link of its own.
    pub target: Option<Worker>,
}

impl Dialler {
    /// Holds one link until the process ends, while its PoP is wanted.
    pub async fn hold(self: Arc<Self>, mut holder: Holder) {
        let Some(mut roles) = self.supervisor.pops().get(holder.pop).map(|pop| pop.roles()) else { return };
        let mut backoff = Backoff::new(self.backoff_max);
        loop {
            tokio::select! {
                wanted = roles.wait_for(|role| *role != Role::Off) => if wanted.is_err() { return },
                () = self.links.draining() => return,
            }
            let wait = self.clone().hold_once(&mut holder, &mut roles, &mut backoff).await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.links.draining() => return,
            }
        }
    }

    /// One link from its dial to its end; answers how long to wait before the next.
    async fn hold_once(
        self: Arc<Self>,
        holder: &mut Holder,
        roles: &mut watch::Receiver<Role>,
        backoff: &mut Backoff,
    ) -> Duration {
        let outcome = self.clone().dial_and_run(holder, roles, backoff).await;
        let (pop, port) = (&holder.address.host, holder.address.port);
        match outcome {
            Ok(_) if *roles.borrow() == Role::Off => {
                tracing::info!(pop, port, "tunnel let go");
                Duration::ZERO
            }
            Ok(reason) => {
                let wait = backoff.handle_failure(fastrand::f64());
                tracing::info!(pop, port, %reason, ?wait, "tunnel closed");
                wait
            }
            Err(error) => {
                self.peers.metrics().links_failed.inc();
                self.supervisor.handle(|machine| machine.handle_dial_failed(holder.pop, clock::now()));
                let refused = error.is_refusal();
                let wait = if refused { backoff.handle_refused() } else { backoff.handle_failure(fastrand::f64()) };
                tracing::warn!(pop, port, %error, ?wait, "cannot hold a tunnel");
                wait
            }
        }
    }

    async fn dial_and_run(
        self: Arc<Self>,
        holder: &mut Holder,
        roles: &mut watch::Receiver<Role>,
        backoff: &mut Backoff,
    ) -> Result<LinkError, DialError> {
        let dialled = tokio::time::timeout(self.dial_timeout, self.dial(holder)).await;
        let (link, control, endpoint) = dialled.unwrap_or(Err(DialError::Timeout))?;
        let workers = usize::try_from(link.remote().workers).unwrap_or(1).max(1);
        holder.target = Worker::new(holder.number % workers, workers);
        let owner = Arc::new(OriginOwner::new(self.clone(), holder.pop, endpoint));
        let (mut registered, begun) = (false, clock::now());
        let follow = self.follow(&link, &owner, roles, &mut registered);
        let reason = tokio::select! {
            biased;
            reason = link::run(link.clone(), control, owner.clone(), &self.links) => reason,
            () = follow => return Err(DialError::Timeout),
        };
        if !registered {
            return Err(reason.into());
        }
        if clock::now().saturating_duration_since(begun) >= LASTING {
            backoff.handle_ready();
        }
        Ok(reason)
    }

    /// Registers the link and keeps it at its PoP's role; ends only by closing the link, or if it never registered.
    async fn follow(
        &self,
        link: &Arc<Link>,
        owner: &OriginOwner,
        roles: &mut watch::Receiver<Role>,
        registered: &mut bool,
    ) {
        self.register(link, *roles.borrow_and_update());
        if tokio::time::timeout(self.dial_timeout, owner.registered()).await.is_err() {
            link.close(CloseCode::Timeout, "no REGISTERED in time");
            return std::future::pending().await;
        }
        *registered = true;
        while roles.changed().await.is_ok() {
            match *roles.borrow_and_update() {
                Role::Off => break,
                role => self.register(link, role),
            }
        }
        self.let_go(link, owner).await;
        std::future::pending().await
    }

    fn register(&self, link: &Arc<Link>, role: Role) {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let weight = u64::from(role == Role::Held);
        link.send(&Control::Register(Register { sequence, services: self.services.clone(), weight }));
    }

    /// Ends a link without hurting what rides on it.
    async fn let_go(&self, link: &Arc<Link>, owner: &OriginOwner) {
        let deadline_millis = u64::try_from(self.drain_timeout.as_millis()).unwrap_or(u64::MAX);
        let reason = "the origin moved to a preferred PoP".to_owned();
        link.send(&Control::Drain(Drain { reason, deadline_millis, next: Vec::new() }));
        let idle = async {
            owner.moved().await;
            while link.in_flight() > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let _ = tokio::time::timeout(self.drain_timeout, idle).await;
        link.close(CloseCode::Done, "moved");
    }

    async fn dial(&self, holder: &Holder) -> Result<(Arc<Link>, link::ControlStream, Endpoint), DialError> {
        let (worker, target) = (holder.worker, holder.target);
        let address = resolve(&holder.address).await?;
        let endpoint = quic::endpoint(quinn::EndpointConfig::default(), None, quic::dialling_socket(address)?)?;
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

    /// Tells readiness whether any link is ready.
    pub(super) fn changed(&self) {
        let any = self.held.lock().iter().any(|link| link.is_usable());
        (self.ready)(any);
    }

    /// Closes the link that carries most, without warning; what rode on it goes on on others. Answers its PoP, if there
    /// was a link.
    pub fn close_busiest(&self) -> Option<String> {
        let busiest = self.held.lock().iter().filter(|link| link.is_usable()).max_by_key(|l| l.in_flight()).cloned()?;
        busiest.close(CloseCode::Done, "closed by the operator");
        Some(busiest.peer().node().to_string())
    }

    /// The links for `/status`.
    pub fn status(&self) -> Value {
        let held = self.held.lock();
        held.iter()
            .map(|link| {
                json!({
                    "link": &**link.name(),
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

fn pop_identity(connection: &quinn::Connection) -> Result<String, String> {
    let certificate = peer_certificate(connection).ok_or("no certificate")?;
    match identity(&certificate) {
        Ok(Identity::Pop { name }) => Ok(name),
        Ok(Identity::Gateway { name, .. }) => Err(format!("the certificate is of gateway {name}, not of a PoP")),
        Err(error) => Err(error.to_string()),
    }
}
