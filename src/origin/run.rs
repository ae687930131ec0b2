//! Puts an origin together, runs it and ends it. Called by the binary; owns the worker threads, each with a
//! current-thread runtime and its own links.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::ready;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use super::failover::{Dialler, Holder, Supervisor};
use super::gateway::{Gateway, Service};
use super::upstream::{UpstreamMetrics, UpstreamSetupError, Upstreams};
use crate::admin::{self, Admin, AdminSocket, Command, Readiness, Report};
use crate::clock;
use crate::config::{OriginConfig, OriginPop};
use crate::exit::Exit;
use crate::observe::access::AccessLog;
use crate::observe::event::{Event, Events, What};
use crate::observe::log::{self, Log};
use crate::observe::metrics::{self as process_metrics, RequestMetrics};
use crate::observe::ready::Ready;
use crate::observe::record::Observer;
use crate::signal::{Ended, Signals};
use crate::task::{Shutdown, Tasks};
use crate::tunnel::code::CloseCode;
use crate::tunnel::control::{Control, Drain, Hello};
use crate::tunnel::endpoint::{Credentials, EndpointError, transport};
use crate::tunnel::metrics::TunnelMetrics;
use crate::tunnel::peer::{Peers, Settings};

/// How long a drain waits for other gateways to take over; the only gateway of a service serves on meanwhile.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an origin could not start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The admin listener cannot be bound.
    #[error("cannot listen for admin on {0}: {1}")]
    Admin(String, io::Error),
    /// The tunnel's certificate, key or CA cannot be used.
    #[error("tunnel: {0}")]
    Tunnel(#[from] EndpointError),
    /// An upstream cannot be set up.
    #[error("service {0}: {1}")]
    Upstream(String, UpstreamSetupError),
    /// The log cannot be set up.
    #[error(transparent)]
    Log(#[from] log::LogError),
    /// The system refuses something a process needs.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl RunError {
    /// The exit code that tells of it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Admin(..) => Exit::Bind,
            Self::Tunnel(_) | Self::Upstream(..) | Self::Log(_) => Exit::Config,
            Self::System(_) => Exit::Failed,
        }
    }
}

/// Runs an origin until a signal ends it.
///
/// # Errors
/// When something it needs cannot be had; nothing runs then.
pub fn run(config: OriginConfig) -> Result<Ended, RunError> {
    let log = log::init(&config.log)?;
    let ended = Builder::new_current_thread().enable_all().build()?.block_on(async {
        let process = Process::start(config, &log).await?;
        Ok::<_, RunError>(process.supervise().await)
    });
    log.lines().close(Duration::from_secs(1));
    ended
}

/// A running origin.
struct Process {
    config: OriginConfig,
    dialler: Arc<Dialler>,
    shutdown: Shutdown,
    signals: Signals,
    end: CancellationToken,
    workers: Vec<thread::JoinHandle<()>>,
}

impl Process {
    async fn start(config: OriginConfig, log: &Log) -> Result<Self, RunError> {
        let shutdown = Shutdown::default();
        let signals = Signals::new()?;
        let mut registry = process_metrics::registry("origin");
        log.lines().register(&mut registry);
        let readiness = Readiness::new(shutdown.clone(), &["no_tunnel"]);
        readiness.register(&mut registry);
        let dialler = Arc::new(dialler(&config, log, &mut registry, &shutdown, &readiness)?);
        let mut ready = Ready::default();
        if let Some(listen) = &config.admin {
            let socket = AdminSocket::bind(listen).await.map_err(|e| RunError::Admin(format!("{listen:?}"), e))?;
            ready.admin.push(socket.address());
            let status = status_of(&config.name, &dialler);
            let commands = commands(&dialler);
            let admin = Admin { registry, readiness, status, shutdown: shutdown.clone(), commands };
            admin::start(socket, admin, &Tasks::new(shutdown.clone()));
        }
        let end = CancellationToken::new();
        let workers = start_workers(&config, &dialler, &end)?;
        ready.announce();
        tracing::info!(gateway = config.name, workers = workers.len(), "origin ready");
        Ok(Self { config, dialler, shutdown, signals, end, workers })
    }

    async fn supervise(self) -> Ended {
        let dialler = self.dialler;
        let timeout = self.config.drain.timeout;
        let shutdown = self.shutdown.clone();
        let (events, name) = (dialler.peers.events().clone(), self.config.name.clone());
        let begun = Cell::new(clock::now());
        let drained = async {
            shutdown.draining().await;
            begun.set(clock::now());
            events.emit(&Event { from: &name, why: "asked to end", ..Event::new(What::Drain) });
            tell_drain(&dialler, timeout);
            if tokio::time::timeout(HANDOVER_TIMEOUT.min(timeout), handed_over(&dialler)).await.is_ok() {
                let took = clock::now().saturating_duration_since(begun.get());
                events.emit(&Event { from: &name, took, ..Event::new(What::Handover) });
            }
            dialler.gateway.closed.store(true, Ordering::Relaxed);
            dialler.exchanges.wait().await;
            settle(&dialler).await;
        };
        let ended = self.signals.supervise(&self.shutdown, timeout, drained).await;
        events.emit(&ended.event(&name, begun.get()));
        for link in dialler.held.lock().drain(..) {
            link.close(CloseCode::Done, "the origin ends");
        }
        self.end.cancel();
        let _ = tokio::task::spawn_blocking(move || self.workers.into_iter().for_each(|w| drop(w.join()))).await;
        ended
    }
}

fn tell_drain(dialler: &Dialler, timeout: Duration) {
    let deadline_millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let drain = Control::Drain(Drain { reason: "shutdown".into(), deadline_millis, next: Vec::new() });
    for link in dialler.held.lock().iter() {
        link.send(&drain);
    }
}

/// Waits until every PoP has another gateway for what this one serves.
async fn handed_over(dialler: &Dialler) {
    while dialler.held.lock().iter().any(|link| link.is_usable()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the PoPs have acknowledged what was sent.
async fn settle(dialler: &Dialler) {
    while dialler.peers.all().iter().any(|peer| peer.exchanges() > 0 && !peer.links().is_empty()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What an operator can ask of an origin: `POST /links/close` closes the link that carries most, and it is dialled again;
/// `POST /migrate?to=POP` moves the tunnels to a PoP, `POST /migrate/auto` back to the order of the configuration.
fn commands(dialler: &Arc<Dialler>) -> Vec<(&'static str, Command)> {
    let (closing, moving, back) = (dialler.clone(), dialler.clone(), dialler.clone());
    vec![
        ("/links/close", Box::new(move |_| Box::pin(ready(Ok(json!({ "closed": closing.close_busiest() })))))),
        ("/migrate", Box::new(move |query| Box::pin(migrate(moving.clone(), query.to_owned())))),
        ("/migrate/auto", Box::new(move |_| Box::pin(ready(Ok(back.supervisor.forget_choice()))))),
    ]
}

async fn migrate(dialler: Arc<Dialler>, query: String) -> Result<Value, String> {
    let to = query.strip_prefix("to=").filter(|to| !to.is_empty()).ok_or("say where: POST /migrate?to=POP")?;
    let to = to.replace("%5B", "[").replace("%5D", "]").replace("%3A", ":");
    dialler.supervisor.migrate(&to).await.map_err(|error| error.to_string())
}

fn status_of(name: &str, dialler: &Arc<Dialler>) -> Report {
    let (name, dialler) = (name.to_owned(), dialler.clone());
    Box::new(move || {
        json!({
            "gateway": name,
            "version": env!("CARGO_PKG_VERSION"),
            "draining": dialler.links.shutdown().is_draining(),
            "retained_bytes": dialler.peers.settings().budget.used(),
            "pops": dialler.supervisor.status(),
            "tunnels": dialler.status(),
            "events": dialler.peers.events().status(),
        })
    })
}

fn dialler(
    config: &OriginConfig,
    log: &Log,
    registry: &mut Registry,
    shutdown: &Shutdown,
    readiness: &Readiness,
) -> Result<Dialler, RunError> {
    let settings = Arc::new(Settings::new(&config.tunnel.limits));
    let (links, exchanges) = (Tasks::new(shutdown.clone()), Tasks::new(shutdown.clone()));
    let credentials = Credentials::load(&config.tunnel.identity)?;
    let (readiness, events) = (readiness.clone(), Events::register(registry));
    Ok(Dialler {
        hello: Hello {
            node: config.name.clone(),
            instance: fastrand::u64(..1 << 62),
            build: env!("CARGO_PKG_VERSION").into(),
            serves: true,
            window: settings.window,
            ..Hello::default()
        },
        services: config.services.iter().map(|service| service.name.clone()).collect(),
        client: credentials.client_config(Arc::new(transport(&config.tunnel.limits)))?,
        gateway: Arc::new(gateway(config, log, registry, &exchanges)?),
        peers: Arc::new(Peers::new(settings, links.clone(), TunnelMetrics::register(registry), events.clone())),
        exchanges,
        links,
        dial_timeout: config.tunnel.dial_timeout,
        backoff_max: config.tunnel.backoff_max,
        drain_timeout: config.drain.timeout,
        supervisor: Supervisor::new(&config.pops, config.pops_wanted, events),
        held: Default::default(),
        ready: Box::new(move |any| readiness.set("no_tunnel", !any)),
        sequence: AtomicU64::new(1),
    })
}

fn gateway(config: &OriginConfig, log: &Log, registry: &mut Registry, tasks: &Tasks) -> Result<Gateway, RunError> {
    let access = config.log.access.then(|| AccessLog::origin(log.lines().clone(), log.form(), &config.name));
    let names = config.services.iter().map(|service| service.name.as_str());
    let requests = RequestMetrics::register(registry, "gateway", names);
    let metrics = Arc::new(UpstreamMetrics::register(registry));
    let connections = Tasks::new(tasks.shutdown().clone());
    let mut services = HashMap::new();
    for (index, service) in config.services.iter().enumerate() {
        let upstreams = Upstreams::new(service, metrics.clone(), &connections)
            .map_err(|error| RunError::Upstream(service.name.clone(), error))?;
        services.insert(service.name.clone(), Service { upstreams, index });
    }
    let observer = Observer::new(access, requests, tasks.shutdown().clone());
    Ok(Gateway {
        services,
        observer,
        closed: AtomicBool::new(false),
        upstream_metrics: metrics,
        upstream_micros: AtomicU64::new(0),
    })
}

fn start_workers(
    config: &OriginConfig,
    dialler: &Arc<Dialler>,
    end: &CancellationToken,
) -> Result<Vec<thread::JoinHandle<()>>, RunError> {
    let count = config.workers.min(config.tunnel.links.max(1) * config.pops_wanted.max(1)).max(1);
    let mut threads = Vec::with_capacity(count);
    // Another one in each origin: with few links each, they do not all end at the first workers of a PoP.
    let first = fastrand::u8(..);
    for worker in 0..count {
        let holders = holders(config, worker, count, first);
        let (dialler, end) = (dialler.clone(), end.clone());
        let body = move || match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(work(worker, holders, dialler, end)),
            Err(error) => tracing::error!(%error, "worker cannot start"),
        };
        threads.push(thread::Builder::new().name(format!("worker-{worker}")).spawn(body)?);
    }
    Ok(threads)
}

/// The links that `worker` of `count` carries: those of one PoP lie on different workers, here and, from seat `first` on, there.
fn holders(config: &OriginConfig, worker: usize, count: usize, first: u8) -> Vec<Holder> {
    let all = config.pops.iter().enumerate().flat_map(|(pop, OriginPop { address, .. })| {
        let seats = (0..config.tunnel.links).zip((0..=u8::MAX).cycle().skip(first.into()));
        seats.map(move |(number, seat)| {
            (pop + number, Holder { pop, address: address.clone(), worker, seat, known: Vec::new() })
        })
    });
    all.filter(|(place, _)| place % count == worker).map(|(_, holder)| holder).collect()
}

/// The life of one worker: its links, until the process ends.
async fn work(worker: usize, holders: Vec<Holder>, dialler: Arc<Dialler>, end: CancellationToken) {
    if worker == 0 {
        let supervisor = dialler.supervisor.clone();
        dialler.links.spawn(async move { supervisor.run().await });
    }
    for holder in holders {
        dialler.links.spawn(dialler.clone().hold(holder));
    }
    end.cancelled().await;
    // The last CONNECTION_CLOSE frames.
    tokio::time::sleep(Duration::from_millis(20)).await;
}
