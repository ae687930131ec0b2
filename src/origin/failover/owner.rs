//! What a link of an origin tells: control frames of the PoP, exchanges, suspicion.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use quinn::Endpoint;
use tokio::sync::Notify;

use super::dial::Dialler;
use crate::clock;
use crate::observe::event::{Event, What};
use crate::quic;
use crate::tunnel::control::{Control, Drain, Load, Registered};
use crate::tunnel::exchange::{ExchangeReader, ExchangeWriter};
use crate::tunnel::link::{Link, LinkState, Owner};

/// How long a drain waits for the PoPs that take over before it is answered all the same.
const HANDOVER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// One link's owner.
pub struct OriginOwner {
    dialler: Arc<Dialler>,
    /// The PoP's place in the order of preference.
    pop: usize,
    endpoint: Endpoint,
    registered: Notify,
    moved: Notify,
}

impl OriginOwner {
    pub(super) fn new(dialler: Arc<Dialler>, pop: usize, endpoint: Endpoint) -> Self {
        Self { dialler, pop, endpoint, registered: Notify::new(), moved: Notify::new() }
    }

    /// Resolves when REGISTERED came.
    pub(super) fn registered(&self) -> impl Future<Output = ()> + '_ {
        self.registered.notified()
    }

    /// Resolves when the PoP answered DRAIN with READY: it sends nothing new here.
    pub(super) fn moved(&self) -> impl Future<Output = ()> + '_ {
        self.moved.notified()
    }

    fn handle_registered(&self, link: &Arc<Link>, answer: &Registered) {
        for (service, reason) in &answer.refused {
            tracing::error!(pop = %link.peer().node(), service, reason, "the PoP refuses a service");
        }
        if link.state() != LinkState::Registering {
            return;
        }
        let services = answer.accepted.join(",");
        tracing::info!(pop = %link.peer().node(), worker = link.worker(), services, "tunnel ready");
        link.set_state(LinkState::Ready);
        self.dialler.held.lock().push(link.clone());
        self.dialler.supervisor.handle(|machine| machine.handle_ready(self.pop, clock::now()));
        self.dialler.changed();
        self.registered.notify_one();
    }

    /// The PoP drains: others take over first, then it hears READY.
    fn handle_drain(&self, link: &Arc<Link>, drain: &Drain) {
        tracing::info!(pop = %link.peer().node(), reason = drain.reason, "PoP drains");
        link.set_state(LinkState::Draining);
        self.dialler.supervisor.handle(|machine| machine.handle_drain(self.pop, clock::now()));
        self.dialler.changed();
        let (dialler, pop, link) = (self.dialler.clone(), self.pop, link.clone());
        self.dialler.links.spawn(async move {
            let covered = async {
                loop {
                    let changed = dialler.supervisor.changed();
                    if dialler.supervisor.is_covered_without(pop) {
                        return;
                    }
                    changed.await;
                }
            };
            let _ = tokio::time::timeout(HANDOVER_TIMEOUT, covered).await;
            link.send(&Control::Ready);
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
                self.moved.notify_one();
                self.dialler.changed();
            }
            other => tracing::debug!(?other, "unexpected control frame"),
        }
    }

    fn handle_state(&self, link: &Arc<Link>) {
        if link.state() == LinkState::Closed {
            let mut held = self.dialler.held.lock();
            let before = held.len();
            held.retain(|other| !Arc::ptr_eq(other, link));
            let was_held = held.len() < before;
            drop(held);
            if was_held {
                self.dialler.supervisor.handle(|machine| machine.handle_lost(self.pop, clock::now()));
            }
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
        // A fresh source port takes another path through the network: the connection goes on.
        match quic::dialling_socket(link.connection().remote_address())
            .and_then(|socket| quic::rebind(&self.endpoint, socket))
        {
            Ok(()) => {
                let port = self.endpoint.local_addr().map(|address| address.port().to_string()).unwrap_or_default();
                link.tell(&Event { to: &port, ..Event::new(What::Rebind) });
            }
            Err(error) => tracing::warn!(%error, "no other source port"),
        }
    }
}
