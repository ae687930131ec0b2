//! Puts an edge together, runs it and ends it. Called by the binary; owns the worker threads.
//!
//! One thread per worker, each with a current-thread runtime, its own client UDP socket and TCP accept, and its own
//! links. The main thread has a runtime for signals and the admin listener.

use std::cell::Cell;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use super::acceptor::{Acceptor, accept_links};
use super::crowd::Crowd;
use super::dispatch::allowance::Allowance;
use super::dispatch::tunnels::Tunnels;
use super::dispatch::{Dispatch, DispatchMetrics, REPLAY_BYTES_MAX};
use super::filter::{FilterMetrics, FilterState};
use super::http3;
use super::listener::admission::Admission;
use super::listener::alt_svc::AltSvc;
use super::listener::h3;
use super::listener::metrics::ListenerMetrics;
use super::listener::parting::Parting;
use super::listener::quic::{self, QuicListener, serve_quic};
use super::listener::socket::{ClientSockets, bind_client};
use super::listener::tcp::{self, serve_tcp};
use super::listener::tls::{self, Certificates, Resumption};
use super::route::Routes;
use super::serve::{Edge, Spine};
use crate::admin::{self, Admin, AdminSocket, Readiness};
use crate::clock;
use crate::config::EdgeConfig;
use crate::exit::Exit;
use crate::fields::Via;
use crate::observe::access::AccessLog;
use crate::observe::event::{Event, Events, What};
use crate::observe::log::{self, Log};
use crate::observe::metrics::{self as process_metrics, RequestMetrics};
use crate::observe::ready::Ready;
use crate::observe::record::Observer;
use crate::quic::{BindError, KeysError, QuicKeys, Worker, bind_udp, endpoint, listen};
use crate::signal::{Ended, Signals};
use crate::task::{Shutdown, Tasks};
use crate::tls::TlsError;
use crate::tunnel::code::CloseCode;
use crate::tunnel::control::{Drain, Hello};
use crate::tunnel::endpoint::{Credentials, EndpointError, transport};
use crate::tunnel::exchange::retention::Budget;
use crate::tunnel::metrics::TunnelMetrics;
use crate::tunnel::peer::{Peers, Settings};

/// How long a drain waits for the gateways to have other PoPs ready.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of answers on their way to HTTP/3 clients, beyond what every connection starts with.
const SEND_BYTES_MAX: u64 = 256 << 20;

/// Why an edge could not start or go on. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin listener cannot be bound.
    #[error("cannot listen for admin on {0}: {1}")]
    Admin(String, io::Error),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The tunnel's certificate, key or CA cannot be used.
    #[error("tunnel: {0}")]
    Tunnel(#[from] EndpointError),
    /// The keys in `state_dir` cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
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
            Self::Bind(_) | Self::Admin(..) => Exit::Bind,
            Self::Tls(_) | Self::Tunnel(_) | Self::Log(_) => Exit::Config,
            Self::Keys(_) | Self::System(_) => Exit::Failed,
        }
    }
}

/// Runs an edge until a signal ends it.
///
/// # Errors
/// When something it needs cannot be had; nothing runs then.
pub fn run(config: EdgeConfig) -> Result<Ended, RunError> {
    let log = log::init(&config.log)?;
    let ended = Builder::new_current_thread().enable_all().build()?.block_on(async {
        let process = Process::start(config, &log).await?;
        Ok::<_, RunError>(process.supervise().await)
    });
    log.lines().close(Duration::from_secs(1));
    ended
}

/// Everything that the workers share.
struct Shared {
    config: EdgeConfig,
    edge: Arc<Edge>,
    keys: QuicKeys,
    certificates: Arc<Certificates>,
    credentials: Credentials,
    admission: Admission,
    listener_metrics: ListenerMetrics,
    h3_metrics: Arc<h3::H3Metrics>,
    peers: Arc<Peers>,
    tunnels: Arc<Tunnels>,
    dispatch_metrics: DispatchMetrics,
    replay_budget: Arc<Budget>,
    send_budget: Arc<Budget>,
    hello: Hello,
    crowd: Arc<Crowd>,
    /// Listeners with their connections, and requests: a drain waits for them.
    clients: Tasks,
    /// Links: they live until the clients are done.
    links: Tasks,
    /// Ends the workers.
    end: CancellationToken,
}

/// A running edge.
struct Process {
    shared: Arc<Shared>,
    shutdown: Shutdown,
    signals: Signals,
    workers: Vec<thread::JoinHandle<()>>,
}

/// The sockets of one worker.
struct Sockets {
    udp: Vec<(UdpSocket, AltSvc)>,
    tcp: Vec<(TcpListener, AltSvc)>,
    tunnel: UdpSocket,
}

impl Process {
    async fn start(config: EdgeConfig, log: &Log) -> Result<Self, RunError> {
        let shutdown = Shutdown::default();
        let signals = Signals::new()?;
        let mut registry = process_metrics::registry("edge");
        log.lines().register(&mut registry);
        let readiness = Readiness::new(shutdown.clone(), &["no_tunnel"]);
        readiness.register(&mut registry);
        let (sockets, mut ready) = bind(&config)?;
        let shared = Arc::new(Shared::new(config, log, &mut registry, &shutdown, &readiness)?);
        let tunnels = shared.tunnels.clone();
        readiness.check("tunnels_silent", move || tunnels.is_silent());
        let status = shared.clone();
        if let Some(listen) = &shared.config.admin {
            let socket = AdminSocket::bind(listen).await.map_err(|e| RunError::Admin(format!("{listen:?}"), e))?;
            ready.admin.push(socket.address());
            let status = Box::new(move || status.status());
            let admin = Admin { registry, readiness, status, shutdown: shutdown.clone(), commands: Vec::new() };
            admin::start(socket, admin, &Tasks::new(shutdown.clone()));
        }
        let workers = start_workers(&shared, sockets)?;
        ready.announce();
        tracing::info!(pop = shared.config.name, workers = workers.len(), "edge ready");
        Ok(Self { shared, shutdown, signals, workers })
    }

    async fn supervise(self) -> Ended {
        let shared = self.shared;
        let timeout = shared.config.drain.timeout;
        let (events, name) = (shared.peers.events().clone(), shared.config.name.clone());
        let begun = Cell::new(clock::now());
        let drained = async {
            self.shutdown.draining().await;
            begun.set(clock::now());
            let to = &shared.next().join(",");
            events.emit(&Event { from: &name, to, why: "asked to end", ..Event::new(What::Drain) });
            let deadline_millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            shared.tunnels.announce_drain(Drain { reason: "shutdown".into(), deadline_millis, next: shared.next() });
            let handover = tokio::time::timeout(HANDOVER_TIMEOUT.min(timeout), handed_over(&shared.tunnels));
            // Clients first, tunnels last: these serve what is in flight.
            let tell = |what| {
                let took = clock::now().saturating_duration_since(begun.get());
                events.emit(&Event { from: &name, took, ..Event::new(what) });
            };
            let handover = async { handover.await.map(|()| tell(What::Handover)) };
            let _ = tokio::join!(handover, shared.clients.wait());
        };
        let ended = self.signals.supervise(&self.shutdown, timeout, drained).await;
        events.emit(&ended.event(&name, begun.get()));
        for link in shared.tunnels.links() {
            link.close(CloseCode::Done, "the PoP ends");
        }
        shared.end.cancel();
        let joined = tokio::task::spawn_blocking(move || self.workers.into_iter().for_each(|w| drop(w.join())));
        let _ = joined.await;
        ended
    }
}

/// Waits until every gateway has other PoPs ready.
async fn handed_over(tunnels: &Tunnels) {
    while !tunnels.is_moved() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Shared {
    fn new(
        config: EdgeConfig,
        log: &Log,
        registry: &mut Registry,
        shutdown: &Shutdown,
        readiness: &Readiness,
    ) -> Result<Self, RunError> {
        let services = || config.services.iter().map(|service| service.name.as_str());
        let access = config.log.access.then(|| AccessLog::edge(log.lines().clone(), log.form(), &config.name));
        let requests = RequestMetrics::register(registry, "edge", services());
        let limits = Arc::new(config.limits.clone());
        let filter = Arc::new(FilterState::new(&config.name, &limits, FilterMetrics::register(registry)));
        let edge = Edge {
            name: config.name.as_str().into(),
            limits: limits.clone(),
            trusted: config.trusted.clone(),
            routes: Routes::new(&config.services),
            filter: filter.clone(),
            observer: Observer::new(access, requests, shutdown.clone()),
            via: Via::new(&config.name),
        };
        let settings = Arc::new(Settings::new(&config.tunnel.limits));
        let hello = Hello {
            node: config.name.clone(),
            instance: fastrand::u64(..1 << 62),
            build: env!("CARGO_PKG_VERSION").into(),
            sends: true,
            window: settings.window,
            ..Hello::default()
        };
        let readiness = readiness.clone();
        let tunnels = Arc::new(Tunnels::new(services(), move |any| readiness.set("no_tunnel", !any)));
        let links = Tasks::new(shutdown.clone());
        Ok(Self {
            edge: Arc::new(edge),
            keys: QuicKeys::load(config.state_dir.as_deref())?,
            certificates: Certificates::load(&config.certificates)?,
            credentials: Credentials::load(&config.tunnel.identity)?,
            admission: Admission::new(&limits, filter),
            listener_metrics: ListenerMetrics::register(registry),
            h3_metrics: Arc::new(h3::H3Metrics::register(registry)),
            peers: Arc::new(Peers::new(
                settings,
                links.clone(),
                TunnelMetrics::register(registry),
                Events::register(registry),
            )),
            tunnels,
            dispatch_metrics: DispatchMetrics::register(registry),
            replay_budget: Arc::new(Budget::new(REPLAY_BYTES_MAX)),
            send_budget: Arc::new(Budget::new(SEND_BYTES_MAX)),
            hello,
            crowd: Arc::default(),
            clients: Tasks::new(shutdown.clone()),
            links,
            end: CancellationToken::new(),
            config,
        })
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "pop": self.config.name,
            "version": env!("CARGO_PKG_VERSION"),
            "draining": self.clients.shutdown().is_draining(),
            "retained_bytes": self.peers.settings().budget.used(),
            "tunnels": self.tunnels.status(),
            "events": self.peers.events().status(),
        })
    }

    /// Where origins dial the other PoPs.
    fn next(&self) -> Vec<String> {
        self.config.pops.iter().map(|pop| pop.tunnel.to_string()).collect()
    }

    fn spine(&self, worker: usize) -> Spine {
        let dispatch = Dispatch {
            tunnels: self.tunnels.clone(),
            worker,
            tasks: self.clients.clone(),
            budget: self.replay_budget.clone(),
            allowance: Mutex::new(Allowance::new(clock::now())),
            metrics: self.dispatch_metrics.clone(),
            events: self.peers.events().clone(),
        };
        Spine { edge: self.edge.clone(), dispatch: Arc::new(dispatch) }
    }
}

/// Binds everything before anything runs, so that an error leaves nothing behind.
fn bind(config: &EdgeConfig) -> Result<(Vec<Sockets>, Ready), RunError> {
    let mut ready = Ready::default();
    let tunnel = bind_udp(config.tunnel.listen, config.workers)?;
    ready.tunnel.extend(tunnel.first().and_then(|socket| socket.local_addr().ok()).map(|a| a.to_string()));
    let mut sockets: Vec<_> =
        tunnel.into_iter().map(|tunnel| Sockets { udp: Vec::new(), tcp: Vec::new(), tunnel }).collect();
    let next: Vec<_> = config.pops.iter().filter_map(|pop| pop.http3.clone()).collect();
    for address in &config.listen {
        let ClientSockets { address, udp, tcp } = bind_client(*address, config.workers, config.http3.enabled)?;
        let alt_svc = AltSvc::new(&config.http3, address.port(), &next);
        if !udp.is_empty() {
            ready.http3.push(address.to_string());
        }
        ready.http2.push(address.to_string());
        let mut udp = udp.into_iter();
        for (worker, tcp) in sockets.iter_mut().zip(tcp) {
            worker.udp.extend(udp.next().map(|socket| (socket, alt_svc.clone())));
            worker.tcp.push((tcp, alt_svc.clone()));
        }
    }
    Ok((sockets, ready))
}

fn start_workers(shared: &Arc<Shared>, sockets: Vec<Sockets>) -> Result<Vec<thread::JoinHandle<()>>, RunError> {
    let count = sockets.len();
    let all_servers = Servers::new(shared)?;
    let mut threads = Vec::with_capacity(count);
    for (index, sockets) in sockets.into_iter().enumerate() {
        let worker = Worker::new(index, count).ok_or_else(|| io::Error::other("more than 256 workers"))?;
        let servers = all_servers.clone();
        let shared = shared.clone();
        let body = move || match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(async {
                if let Err(error) = work(&shared, worker, servers, sockets).await {
                    tracing::error!(%error, worker = worker.index(), "worker failed");
                    shared.clients.shutdown().start_force();
                }
            }),
            Err(error) => {
                // Its sockets would take their share of the clients and answer none.
                tracing::error!(%error, "worker cannot start");
                shared.clients.shutdown().start_force();
            }
        };
        threads.push(thread::Builder::new().name(format!("worker-{index}")).spawn(body)?);
    }
    Ok(threads)
}

/// The TLS and QUIC configurations of all workers: tickets of one are good at the others.
#[derive(Clone)]
struct Servers {
    client: quinn::ServerConfig,
    tunnel: quinn::ServerConfig,
    tcp: Arc<rustls::ServerConfig>,
}

impl Servers {
    fn new(shared: &Shared) -> Result<Self, RunError> {
        let tickets = tls::tickets(shared.config.ticket_keys.as_deref())?;
        let resumption = Resumption::new(shared.config.early_data, tickets.clone());
        let client_tls = tls::quic_config(http3::tls(&shared.config, shared.certificates.clone(), resumption)?)?;
        let transport = Arc::new(transport(&shared.config.tunnel.limits));
        Ok(Self {
            client: quic::server_config(client_tls, &shared.keys, &shared.config.limits),
            tunnel: shared.credentials.server_config(transport, shared.keys.token_key())?,
            tcp: tls::tcp_config(shared.certificates.clone(), tickets)?,
        })
    }
}

/// The life of one worker: its listeners and its links, until the process ends.
async fn work(shared: &Arc<Shared>, worker: Worker, servers: Servers, sockets: Sockets) -> io::Result<()> {
    let (limits, spine) = (shared.edge.limits.clone(), shared.spine(worker.index()));
    let admission = if worker.index() == 0 { shared.admission.clone() } else { shared.admission.for_worker() };
    let parting = Parting::new(&admission, shared.config.drain.timeout);
    // A listener ends when its last connection does: a drain waits for the clients through it.
    let listeners = shared.clients.clone();
    for (socket, alt_svc) in sockets.udp {
        let config = shared.keys.endpoint_config(worker);
        let endpoint = listen(config, servers.client.clone(), socket, shared.config.http3.preferred_address)?;
        let listener = QuicListener {
            limits: limits.clone(),
            admission: admission.clone(),
            metrics: shared.listener_metrics.clone(),
            tasks: shared.clients.clone(),
            alt_svc: alt_svc.clone(),
            early_data: shared.config.early_data,
            #[cfg(feature = "interop")]
            qlog: http3::qlog(&shared.config, &servers.client),
        };
        let context = h3_context(shared, alt_svc, parting.clone());
        let connections = http3::Connections::new(&shared.config, spine.clone(), context)?;
        let connection = move |connection, client| connections.clone().run(connection, client);
        listeners.spawn(async move {
            if let Err(error) = serve_quic(endpoint, listener, connection).await {
                tracing::error!(%error, "HTTP/3 is gone on this worker");
            }
        });
    }
    for (socket, alt_svc) in sockets.tcp {
        let listener = tcp::TcpListener {
            name: shared.edge.name.clone(),
            limits: limits.clone(),
            admission: admission.clone(),
            metrics: shared.listener_metrics.clone(),
            tasks: shared.clients.clone(),
            alt_svc,
            parting: parting.clone(),
            tls: servers.tcp.clone(),
        };
        let spine = spine.clone();
        listeners.spawn(async move {
            if let Err(error) = serve_tcp(socket, listener, spine).await {
                tracing::error!(%error, "TCP listener failed");
            }
        });
    }
    let ties = shared.peers.clone().ties();
    let tunnel = endpoint(shared.keys.endpoint_config(worker), Some(servers.tunnel), sockets.tunnel, Some(ties))?;
    let acceptor = Acceptor {
        worker: worker.index(),
        hello: shared.hello.clone(),
        peers: shared.peers.clone(),
        tunnels: shared.tunnels.clone(),
        crowd: shared.crowd.clone(),
        pops: shared.next(),
        tasks: shared.links.clone(),
    };
    tokio::select! {
        () = accept_links(tunnel.clone(), acceptor) => {}
        () = shared.end.cancelled() => {}
    }
    tunnel.close(CloseCode::Done.varint(), b"the PoP ends");
    let _ = tokio::time::timeout(Duration::from_millis(500), tunnel.wait_idle()).await;
    Ok(())
}

fn h3_context(shared: &Shared, alt_svc: AltSvc, parting: Parting) -> h3::Context {
    h3::Context {
        limits: shared.edge.limits.clone(),
        name: shared.edge.name.clone(),
        metrics: shared.h3_metrics.clone(),
        send_budget: shared.send_budget.clone(),
        tasks: shared.clients.clone(),
        alt_svc,
        parting,
    }
}
