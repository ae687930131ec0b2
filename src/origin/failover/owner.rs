//! What a link of an origin tells: control frames of the PoP, exchanges, suspicion.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::dial::Dialler;
use crate::clock;
use crate::observe::event::{Event, What};
use crate::quic;
use crate::quic::Endpoint;
use crate::tunnel::control::{Control, Drain, Load, Registered};
use crate::tunnel::exchange::{ExchangeReader, ExchangeWriter};
use crate::tunnel::link::{Link, LinkState, Owner};

/// Longest that a draining PoP is waited for, whatever it says.
const DRAIN_MAX: Duration = Duration::from_secs(3_600);

/// One link's owner.
pub struct OriginOwner {
    dialler: Arc<Dialler>,
    /// The PoP's place in the order of preference.
    pop: usize,
    endpoint: Endpoint,
    registered: Notify,
    moved: Notify,
    /// Whether the link counts as one that is ready.
    counted: AtomicBool,
}

impl OriginOwner {
    pub(super) fn new(dialler: Arc<Dialler>, pop: usize, endpoint: Endpoint) -> Self {
        Self {
            dialler,
            pop,
            endpoint,
            registered: Notify::new(),
            moved: Notify::new(),
            counted: AtomicBool::new(false),
        }
    }

    /// Resolves when REGISTERED came.
    pub(super) fn registered(&self) -> impl Future<Output = ()> + '_ {
        self.registered.notified()
    }

    /// Resolves when the PoP answered DRAIN with READY: it sends nothing new here.
    pub(super) fn moved(&self) -> impl Future<Output = ()> + '_ {
        self.moved.notified()
    }

    /// The link does not count as ready any more: it is over, or let go.
    pub(super) fn discount(&self) {
        if self.counted.swap(false, Ordering::AcqRel) {
            self.dialler.supervisor.handle("links lost", |machine| machine.handle_lost(self.pop, clock::now()));
        }
    }

    /// Moves the link to a fresh source port, and to the local address that leads to the PoP now: the connection goes on,
    /// and quinn probes the new way at once.
    pub(super) fn rebind(&self, link: &Link, why: &str) {
        match quic::dialling_socket(link.connection().remote_address())
            .and_then(|socket| quic::rebind(&self.endpoint, socket, Some(self.dialler.peers.clone().ties())))
        {
            Ok(()) => {
                let port = self.endpoint.local_addr().map(|address| address.port().to_string()).unwrap_or_default();
                link.tell(&Event { to: &port, why, ..Event::new(What::Rebind) });
            }
            Err(error) => tracing::warn!(%error, "no other source port"),
        }
    }

    fn handle_registered(&self, link: &Arc<Link>, answer: &Registered) {
        for (service, reason) in &answer.refused {
            tracing::error!(pop = %link.peer().node(), service, reason, "the PoP refuses a service");
        }
        if link.state() != LinkState::Registering {
            return;
        }
        let (services, pops) = (answer.accepted.join(","), answer.pops.join(","));
        tracing::info!(pop = %link.peer().node(), worker = link.worker(), services, pops, "tunnel ready");
        link.set_state(LinkState::Ready);
        self.dialler.held.lock().push(link.clone());
        if let Some(pop) = self.dialler.supervisor.pops().get(self.pop) {
            pop.set_name(link.peer().node());
        }
        self.counted.store(true, Ordering::Release);
        self.dialler.supervisor.handle("a link is ready", |machine| machine.handle_ready(self.pop, clock::now()));
        self.dialler.changed();
        self.registered.notify_one();
    }

    /// The PoP drains: others take over first, those that it named before all, then it hears READY. If none can, it does
    /// not, and ends when it must.
    fn handle_drain(&self, link: &Arc<Link>, drain: &Drain) {
        let next = self.dialler.supervisor.places(&drain.next);
        let to = &drain.next.join(",");
        link.tell(&Event { to, why: &drain.reason, ..Event::new(What::Drain) });
        link.set_state(LinkState::Draining);
        self.dialler.supervisor.handle("it drains", |machine| machine.handle_drain(self.pop, next, clock::now()));
        self.dialler.changed();
        let (dialler, pop, link) = (self.dialler.clone(), self.pop, link.clone());
        let (timeout, begun) = (Duration::from_millis(drain.deadline_millis).min(DRAIN_MAX), clock::now());
        self.dialler.links.spawn(async move {
            let covered = async {
                loop {
                    let changed = dialler.supervisor.changed();
                    if dialler.supervisor.is_covered_without(pop) || link.state() == LinkState::Closed {
                        return;
                    }
                    changed.await;
                }
            };
            if tokio::time::timeout(timeout, covered).await.is_ok() {
                let took = clock::now().saturating_duration_since(begun);
                link.tell(&Event { took, why: "others are ready", ..Event::new(What::Handover) });
                link.send(&Control::Ready);
            }
        });
    }
}

impl Owner for OriginOwner {
    fn handle_control(&self, link: &Arc<Link>, frame: Control) {
        match frame {
            Control::Registered(answer) => self.handle_registered(link, &answer),
            Control::Drain(drain) => self.handle_drain(link, &drain),
            Control::Ready => {
                link.set_state(LinkState::Draining);
                link.tell(&Event { why: "another gateway has its services", ..Event::new(What::Handover) });
                self.moved.notify_one();
                self.dialler.changed();
            }
            other => tracing::debug!(?other, "unexpected control frame"),
        }
    }

    fn handle_state(&self, link: &Arc<Link>) {
        if link.state() == LinkState::Closed {
            self.dialler.held.lock().retain(|other| !Arc::ptr_eq(other, link));
            self.discount();
        }
        self.dialler.changed();
    }

    fn load(&self) -> Option<Load> {
        let in_flight = self.dialler.exchanges.len() as u64;
        Some(Load { in_flight, ..self.dialler.gateway.load() })
    }

    fn handle_exchange(&self, _link: &Arc<Link>, writer: ExchangeWriter, reader: ExchangeReader) {
        let gateway = self.dialler.gateway.clone();
        self.dialler.exchanges.spawn(async move { pin!(gateway.serve(writer, reader)).await });
    }

    fn handle_suspect(&self, link: &Arc<Link>) {
        // A fresh source port takes another path through the network.
        self.rebind(link, "silence");
    }
}
