//! One task per link: dial, register, hold, let go when its PoP is not wanted any more, and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::backoff::Backoff;
use super::connect::{DialError, Dialled};
use super::machine::Role;
use super::owner::OriginOwner;
use super::route::{Route, local_towards};
use super::supervisor::Supervisor;
use crate::clock;
use crate::config::PopAddress;
use crate::origin::gateway::Gateway;
use crate::task::Tasks;
use crate::tunnel::code::CloseCode;
use crate::tunnel::control::{Control, Drain, Hello, Register};
use crate::tunnel::link::{self, ControlStream, Link, LinkError};
use crate::tunnel::peer::Peers;

/// A link that lived this long is dialled again at once. One that did not is dialled with backoff: two processes under one
/// name throw each other out, and would do so without pause.
const LASTING: Duration = Duration::from_secs(2);
/// Between looks at which local address leads to the PoP.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

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

/// One link's task: one of the links of this origin to a PoP.
pub struct Holder {
    /// The PoP's place in the order of preference.
    pub pop: usize,
    /// Its address.
    pub address: PopAddress,
    /// The worker that carries it.
    pub worker: usize,
    /// Which of the PoP's workers shall carry it, modulo their number: links in a row lie on different ones.
    pub seat: u8,
    /// What its name last resolved to.
    pub known: Vec<SocketAddr>,
}

/// How a registered link ended.
enum Ended {
    /// Its PoP is not wanted any more; it goes when what rides on it is done.
    LetGo,
    Lost(LinkError),
}

fn reason_of(end: Result<LinkError, oneshot::error::RecvError>) -> LinkError {
    end.unwrap_or_else(|_| LinkError::Control("the process ends".into()))
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
                () = self.supervisor.asked() => {}
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
            Ok(Ended::LetGo) => {
                tracing::info!(pop, port, "tunnel let go");
                Duration::ZERO
            }
            Ok(Ended::Lost(reason)) => {
                let wait = backoff.handle_failure(fastrand::f64());
                tracing::info!(pop, port, %reason, ?wait, "tunnel closed");
                wait
            }
            Err(error) => {
                self.peers.metrics().links_failed.inc();
                self.supervisor
                    .handle("cannot be reached", |machine| machine.handle_dial_failed(holder.pop, clock::now()));
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
    ) -> Result<Ended, DialError> {
        let dialled = tokio::time::timeout(self.dial_timeout, self.dial(holder)).await;
        let Dialled { link, control, endpoint } = dialled.unwrap_or(Err(DialError::Timeout))?;
        let owner = Arc::new(OriginOwner::new(self.clone(), holder.pop, endpoint));
        let begun = clock::now();
        let mut end = self.run(link.clone(), control, owner.clone());
        self.register(&link, *roles.borrow_and_update());
        tokio::select! {
            biased;
            reason = &mut end => return Err(reason_of(reason).into()),
            registered = tokio::time::timeout(self.dial_timeout, owner.registered()) => if registered.is_err() {
                link.close(CloseCode::Timeout, "no REGISTERED in time");
                return Err(DialError::Timeout);
            },
        }
        let ended = tokio::select! {
            biased;
            reason = &mut end => Ended::Lost(reason_of(reason)),
            () = self.follow(&link, &owner, roles) => Ended::LetGo,
        };
        if matches!(ended, Ended::LetGo) {
            owner.discount();
            // By a task of its own: the PoP may be wanted again before what rides on this link is done.
            self.links.spawn(self.clone().let_go(link, owner));
        }
        if clock::now().saturating_duration_since(begun) >= LASTING {
            backoff.handle_ready();
        }
        Ok(ended)
    }

    /// Runs the link in a task of its own; resolves with how it ended.
    fn run(&self, link: Arc<Link>, control: ControlStream, owner: Arc<OriginOwner>) -> oneshot::Receiver<LinkError> {
        let (tell, end) = oneshot::channel();
        let tasks = self.links.clone();
        self.links.spawn(async move {
            // Nobody listens any more to the end of a link that was let go.
            let _ = tell.send(link::run(link, control, owner, &tasks).await);
        });
        end
    }

    /// Keeps a registered link at its PoP's role and on the way that leads there; ends when the PoP is not wanted any more.
    async fn follow(&self, link: &Arc<Link>, owner: &OriginOwner, roles: &mut watch::Receiver<Role>) {
        let remote = link.connection().remote_address();
        let mut route = Route::new(local_towards(remote));
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = roles.changed() => match *roles.borrow_and_update() {
                    role if changed.is_ok() && role != Role::Off => self.register(link, role),
                    _ => return,
                },
                _ = look.tick() => if route.handle_look(local_towards(remote)) {
                    owner.rebind(link, "another local address leads there");
                },
            }
        }
    }

    fn register(&self, link: &Arc<Link>, role: Role) {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let weight = u64::from(role == Role::Held);
        link.send(&Control::Register(Register { sequence, services: self.services.clone(), weight }));
    }

    /// Ends a link without hurting what rides on it.
    async fn let_go(self: Arc<Self>, link: Arc<Link>, owner: Arc<OriginOwner>) {
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
