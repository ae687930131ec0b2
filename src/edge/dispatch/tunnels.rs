//! The links to gateways, by service. Called by the acceptor when links come and go and by dispatch for each request;
//! owns the table, reads nothing from sockets.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::balance::{self, SILENCE_MIN, Stats, Strain};
use super::damping::Damping;
use crate::clock;
use crate::observe::event::{Event, What};
use crate::tunnel::control::{Control, Drain, Register, Registered};
use crate::tunnel::exchange::{ExchangeReader, ExchangeWriter};
use crate::tunnel::link::{Link, LinkState, Owner};
use crate::tunnel::load::LOSSY;
use crate::tunnel::peer::Peer;

/// How long after the loss of its last link requests for a service wait for another.
const RETURN_TIMEOUT: Duration = Duration::from_secs(3);

/// Paths that are known; more, and those without links are forgotten.
const PATHS_MAX: usize = 256;

/// Links by the service's place in the configuration.
type Table = Vec<Vec<Arc<Member>>>;

/// A link among those that requests may take, with what its answers tell of it.
pub struct Member {
    /// The link.
    pub link: Arc<Link>,
    stats: Mutex<Stats>,
    path: Path,
}

/// What is known of the path between a gateway and this PoP: of all links between the same two addresses.
type Path = Arc<Mutex<Damping>>;

impl Member {
    /// A request is given to the link. What comes of it is told to the guard.
    pub fn begin(self: &Arc<Self>) -> Waiting {
        let begun = clock::now();
        self.stats.lock().handle_begin(begun);
        Waiting { member: self.clone(), begun, waits: false }
    }

    /// Whether it answers nothing and should get no requests.
    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        let mut stats = self.stats.lock();
        let (before, is) = (stats.ejections(), stats.is_ejected(now));
        let ejects = stats.ejections() > before;
        drop(stats);
        if ejects {
            self.tell_ejection("requests wait and none is answered");
        }
        is
    }

    /// Whether other links should be taken: it answers nothing, or its path loses packets or comes and goes.
    fn is_out(&self, now: Instant) -> bool {
        self.is_ejected(now) || self.link.lost_permille() >= LOSSY || self.path.lock().is_held(now)
    }

    fn tell_ejection(&self, why: &str) {
        self.link.tell(&Event { why, ..Event::new(What::Ejection) });
    }

    fn cost(&self, now: Instant) -> f64 {
        let (in_flight, weight) = (self.link.in_flight(), self.link.weight());
        let strain = Strain { busy: self.link.reported().busy, lost_permille: self.link.lost_permille() };
        self.stats.lock().cost(now, in_flight, weight, strain)
    }
}

/// A request on its way to a head. Dropped untold, it says nothing about the link.
pub struct Waiting {
    member: Arc<Member>,
    /// When it was given to the link, or all of it had gone.
    begun: Instant,
    /// It counts among those that wait.
    waits: bool,
}

impl Waiting {
    /// All of it went.
    pub fn handle_sent(&mut self) {
        if !std::mem::replace(&mut self.waits, true) {
            self.begun = clock::now();
            self.member.stats.lock().handle_sent(self.begun);
        }
    }

    /// The head came, perhaps before all of the request went.
    pub fn handle_head(mut self) {
        let now = clock::now();
        let took = now.saturating_duration_since(self.begun);
        self.handle_sent();
        self.waits = false;
        self.member.stats.lock().handle_head(now, took);
    }

    /// The link or its gateway failed it.
    pub fn handle_failure(mut self) {
        self.handle_sent();
        self.waits = false;
        let ejected = self.member.stats.lock().handle_failure(clock::now());
        if ejected {
            self.member.tell_ejection("failures in a row");
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.waits {
            self.member.stats.lock().handle_cancel();
        }
    }
}

/// What a gateway may serve.
struct Registration {
    link: Arc<Link>,
    member: Arc<Member>,
    sequence: u64,
    services: Vec<usize>,
    /// It sent DRAIN and waits for READY.
    awaits_ready: bool,
    /// It answered this PoP's DRAIN with READY.
    moved: bool,
}

/// See the module.
pub struct Tunnels {
    names: HashMap<String, usize>,
    registrations: Mutex<Vec<Registration>>,
    /// By gateway and its address: known for longer than any link.
    paths: Mutex<HashMap<(Arc<str>, IpAddr), Path>>,
    table: ArcSwap<Table>,
    /// Notified when a link becomes ready.
    changed: Notify,
    /// When each service last lost a link.
    lost: Mutex<Vec<Option<Instant>>>,
    /// What gateways are told once this PoP drains.
    draining: OnceLock<Control>,
    /// Called with whether any link is ready, when that may have changed.
    ready: Box<dyn Fn(bool) + Send + Sync>,
}

impl Tunnels {
    /// No links yet, for these services in the order of the configuration.
    pub fn new<'a>(services: impl Iterator<Item = &'a str>, ready: impl Fn(bool) + Send + Sync + 'static) -> Self {
        let names: HashMap<_, _> = services.enumerate().map(|(index, name)| (name.to_owned(), index)).collect();
        // A PoP that has just started is like one that has just lost its links: its gateways dial it any moment.
        let (table, lost) = (vec![Vec::new(); names.len()], vec![Some(clock::now()); names.len()]);
        Self {
            names,
            registrations: Mutex::default(),
            paths: Mutex::default(),
            table: ArcSwap::from_pointee(table),
            changed: Notify::new(),
            lost: Mutex::new(lost),
            draining: OnceLock::new(),
            ready: Box::new(ready),
        }
    }

    /// A link for a request to the service at `index`, carried by `worker`. Links of the own worker come first, unless a
    /// gateway that has none there costs much less; links to peers of `tried` ones come last, as do ejected ones and those on
    /// flapping or lossy paths unless most are; among equals [`balance`] chooses.
    pub fn choose(&self, index: usize, worker: usize, tried: &[Arc<Link>]) -> Option<Arc<Member>> {
        let table = self.table.load();
        let now = clock::now();
        let members = table.get(index)?;
        let untried = |link: &Arc<Link>| !tried.iter().any(|other| Arc::ptr_eq(other, link));
        let usable = members.iter().filter(|m| m.link.is_usable() && untried(&m.link));
        let usable: Vec<_> = usable.map(|member| (member, member.is_out(now))).collect();
        let fresh = |member: &Member| {
            member.link.weight() > 0 && !tried.iter().any(|other| Arc::ptr_eq(other.peer(), member.link.peer()))
        };
        let heeded = usable.iter().filter(|(_, is_out)| *is_out).count() * 2 <= usable.len();
        let of = |wanted: &dyn Fn(&Member, bool) -> bool| {
            let is_wanted = |(member, is_out): &&(&Arc<Member>, bool)| wanted(member, !heeded || !is_out);
            let candidates = usable.iter().filter(is_wanted).map(|(member, _)| *member);
            let (near, mut far): (Vec<&Arc<Member>>, Vec<_>) =
                candidates.partition(|member| member.link.worker() == worker);
            // Links to the same gateway differ by luck, if they are well; gateways differ.
            let is_near = |member: &Member| near.iter().any(|near| Arc::ptr_eq(near.link.peer(), member.link.peer()));
            far.retain(|member| !is_near(member));
            let random = |below| fastrand::usize(..below);
            balance::choose_near(&near, &far, random, |member| member.cost(now)).copied().cloned()
        };
        of(&|member, is_well| is_well && fresh(member))
            .or_else(|| of(&|member, _| fresh(member)))
            .or_else(|| of(&|_, _| true))
            // A drain never makes an outage: who drains serves on until another gateway is there.
            .or_else(|| members.iter().find(|m| m.link.state() == LinkState::Draining && untried(&m.link)).cloned())
    }

    /// A usable link although it was tried: after a suspicion it works again. Not one of the `full` ones.
    fn choose_again(&self, index: usize, full: &[Arc<Link>]) -> Option<Arc<Member>> {
        let table = self.table.load();
        let is_full = |link: &Arc<Link>| full.iter().any(|other| Arc::ptr_eq(other, link));
        table.get(index)?.iter().find(|member| member.link.is_usable() && !is_full(&member.link)).cloned()
    }

    /// Like [`Self::choose`], but where the service lost its links just now, or all of them are suspect, waits for one
    /// to come back: a gateway that restarts or redials is not seen by clients. With no other link left, one that was
    /// `tried` and works is better than none, unless it is `full`.
    pub async fn choose_or_wait(
        &self,
        index: usize,
        worker: usize,
        tried: &[Arc<Link>],
        full: &[Arc<Link>],
    ) -> Option<Arc<Member>> {
        let mut until = None;
        loop {
            let changed = self.changed.notified();
            if let Some(member) = self.choose(index, worker, tried).or_else(|| self.choose_again(index, full)) {
                return Some(member);
            }
            let until = match until {
                Some(until) => until,
                None => *until.insert(self.may_return_until(index)?),
            };
            tokio::time::timeout_at(until.into(), changed).await.ok()?;
        }
    }

    /// How long a link for the service may be waited for; not at all if it had none lately.
    fn may_return_until(&self, index: usize) -> Option<Instant> {
        if self.table.load().get(index).is_some_and(|links| !links.is_empty()) {
            return Some(clock::now() + RETURN_TIMEOUT);
        }
        let lost = self.lost.lock().get(index).copied().flatten()?;
        Some(lost + RETURN_TIMEOUT).filter(|until| *until > clock::now())
    }

    /// Whether a gateway other than `peer` has the service at `index`.
    pub fn has_other(&self, index: usize, peer: &Arc<Peer>) -> bool {
        let table = self.table.load();
        let mut links = table.get(index).into_iter().flatten();
        links.any(|member| member.link.is_usable() && !Arc::ptr_eq(member.link.peer(), peer))
    }

    /// Whether gateways other than `peer` answered requests for the service after `since`: if they do not either, it is no
    /// matter of links.
    pub fn others_answer(&self, index: usize, peer: &Arc<Peer>, since: Instant) -> bool {
        let table = self.table.load();
        let mut others = table.get(index).into_iter().flatten().filter(|m| !Arc::ptr_eq(m.link.peer(), peer));
        others.any(|member| member.stats.lock().answered().is_some_and(|answered| answered > since))
    }

    /// Notes what a link wants to serve; `granted` are the names its certificate allows.
    pub fn register(&self, link: &Arc<Link>, register: &Register, granted: &[String]) -> Registered {
        let mut answer = Registered { sequence: register.sequence, ..Registered::default() };
        let mut services = Vec::new();
        for name in &register.services {
            match self.names.get(name) {
                Some(index) if granted.contains(name) => {
                    services.push(*index);
                    answer.accepted.push(name.clone());
                }
                Some(_) => answer.refused.push((name.clone(), "not in the gateway's certificate".into())),
                None => answer.refused.push((name.clone(), "no such service at this PoP".into())),
            }
        }
        link.set_weight(register.weight);
        let stats = Mutex::new(Stats::new(clock::now()));
        let member = Arc::new(Member { link: link.clone(), stats, path: self.path(link) });
        let sequence = register.sequence;
        let registration =
            Registration { link: link.clone(), member, sequence, services, awaits_ready: false, moved: false };
        let mut registrations = self.registrations.lock();
        match registrations.iter_mut().find(|known| Arc::ptr_eq(&known.link, link)) {
            Some(known) if known.sequence > register.sequence => {}
            // What is known of the link stays.
            Some(known) => {
                known.sequence = registration.sequence;
                known.services = registration.services;
            }
            None => registrations.push(registration),
        }
        self.rebuild(&registrations);
        answer
    }

    /// Tells every gateway that this PoP drains, those that register later too; their links go on serving its clients.
    pub fn announce_drain(&self, drain: Drain) {
        let registrations = self.registrations.lock();
        let frame = self.draining.get_or_init(|| Control::Drain(drain));
        registrations.iter().for_each(|registration| registration.link.send(frame));
    }

    /// Whether every gateway said that it has other PoPs ready.
    pub fn is_moved(&self) -> bool {
        self.registrations.lock().iter().all(|registration| registration.moved)
    }

    fn handle_moved(&self, link: &Arc<Link>) {
        let mut registrations = self.registrations.lock();
        if let Some(known) = registrations.iter_mut().find(|known| Arc::ptr_eq(&known.link, link)) {
            known.moved = true;
        }
    }

    /// What is known of the path that `link` takes.
    fn path(&self, link: &Link) -> Path {
        let mut paths = self.paths.lock();
        if paths.len() >= PATHS_MAX {
            paths.retain(|_, path| Arc::strong_count(path) > 1);
        }
        paths.entry((link.peer().node().clone(), link.remote_address().ip())).or_default().clone()
    }

    /// The path that `link` takes failed it, or loses packets.
    fn handle_path_failure(&self, link: &Arc<Link>) {
        let registrations = self.registrations.lock();
        if let Some(known) = registrations.iter().find(|known| Arc::ptr_eq(&known.link, link)) {
            known.member.path.lock().handle_failure(clock::now());
        }
    }

    /// Whether there is a service of which some link answers nothing and no other has answered since.
    pub fn is_silent(&self) -> bool {
        let now = clock::now();
        let is_silent = |member: &Arc<Member>| member.is_ejected(now) || member.stats.lock().is_silent(now);
        let answers = |member: &Arc<Member>| member.stats.lock().answered().is_some_and(|at| now < at + SILENCE_MIN);
        self.table.load().iter().any(|members| members.iter().any(is_silent) && !members.iter().any(answers))
    }

    /// A gateway wants no new exchanges on `link`: it hears READY as soon as another one takes its services.
    pub fn drain(&self, link: &Arc<Link>) {
        let mut registrations = self.registrations.lock();
        if let Some(known) = registrations.iter_mut().find(|known| Arc::ptr_eq(&known.link, link)) {
            known.awaits_ready = true;
        }
        drop(registrations);
        self.answer_drains();
    }

    /// Answers the drains of gateways that are replaced. Called when a link became ready.
    pub fn answer_drains(&self) {
        let mut registrations = self.registrations.lock();
        let ready: Vec<_> = registrations
            .iter()
            .filter(|other| other.link.is_usable())
            .map(|other| (other.link.peer().clone(), other.services.clone()))
            .collect();
        for registration in registrations.iter_mut().filter(|registration| registration.awaits_ready) {
            let peer = registration.link.peer();
            let replaced = |index: &usize| {
                ready.iter().any(|(other, services)| !Arc::ptr_eq(other, peer) && services.contains(index))
            };
            if registration.services.iter().all(replaced) {
                registration.awaits_ready = false;
                let handover = Event { why: "another gateway has its services", ..Event::new(What::Handover) };
                registration.link.tell(&handover);
                registration.link.send(&Control::Ready);
            }
        }
    }

    /// Forgets a link that is over.
    pub fn remove(&self, link: &Arc<Link>) {
        let mut registrations = self.registrations.lock();
        let gone = registrations.iter().position(|known| Arc::ptr_eq(&known.link, link));
        if let Some(gone) = gone.map(|index| registrations.remove(index)) {
            let mut lost = self.lost.lock();
            for index in gone.services {
                if let Some(slot) = lost.get_mut(index) {
                    *slot = Some(clock::now());
                }
            }
        }
        self.rebuild(&registrations);
    }

    fn rebuild(&self, registrations: &[Registration]) {
        let mut table: Table = vec![Vec::new(); self.names.len()];
        for registration in registrations {
            for index in &registration.services {
                if let Some(links) = table.get_mut(*index) {
                    links.push(registration.member.clone());
                }
            }
        }
        self.table.store(Arc::new(table));
        (self.ready)(!registrations.is_empty());
    }

    /// All links, in the order in which they came.
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.registrations.lock().iter().map(|registration| registration.link.clone()).collect()
    }

    /// The links for `/status`.
    pub fn status(&self) -> Value {
        let name = |index: &usize| self.names.iter().find(|(_, i)| *i == index).map(|(name, _)| name.clone());
        let registrations = self.registrations.lock();
        let links = registrations.iter().map(|registration| {
            let (link, load) = (&registration.link, registration.link.reported());
            json!({
                "link": &**link.name(),
                "gateway": &**link.peer().node(),
                "address": link.connection().remote_address().to_string(),
                "state": format!("{:?}", link.state()),
                "worker": link.worker(),
                "weight": link.weight(),
                "in_flight": link.in_flight(),
                "busy": load.busy,
                "ejected": registration.member.stats.lock().was_ejected(clock::now()),
                "gateway_in_flight": load.in_flight,
                "upstream_us": load.upstream_micros,
                "lost_permille": link.lost_permille(),
                "rtt_us": u64::try_from(link.rtt().as_micros()).unwrap_or(u64::MAX),
                "services": registration.services.iter().filter_map(name).collect::<Vec<_>>(),
            })
        });
        links.collect()
    }
}

/// One link's owner at an edge: knows what its certificate grants.
pub struct EdgeOwner {
    /// The table.
    pub tunnels: Arc<Tunnels>,
    /// Service names in the gateway's certificate.
    pub granted: Vec<String>,
    /// Other PoPs, for REGISTERED.
    pub pops: Vec<String>,
}

impl Owner for EdgeOwner {
    fn handle_control(&self, link: &Arc<Link>, frame: Control) {
        match frame {
            Control::Register(register) => {
                let mut answer = self.tunnels.register(link, &register, &self.granted);
                answer.pops.clone_from(&self.pops);
                for (service, reason) in &answer.refused {
                    tracing::warn!(gateway = %link.peer().node(), service, reason, "service refused");
                }
                let drain = self.tunnels.draining.get().filter(|_| link.state() == LinkState::Registering);
                if link.state() == LinkState::Registering {
                    link.set_state(LinkState::Ready);
                    self.tunnels.changed.notify_waiters();
                    let services = answer.accepted.join(",");
                    tracing::info!(gateway = %link.peer().node(), worker = link.worker(), services, "tunnel ready");
                }
                link.send(&Control::Registered(answer));
                if let Some(drain) = drain {
                    link.send(drain);
                }
                self.tunnels.answer_drains();
            }
            Control::Drain(drain) => {
                link.tell(&Event { why: &drain.reason, ..Event::new(What::Drain) });
                link.set_state(LinkState::Draining);
                self.tunnels.drain(link);
            }
            Control::Ready => {
                link.tell(&Event { why: "it has other PoPs", ..Event::new(What::Handover) });
                self.tunnels.handle_moved(link);
            }
            other => tracing::debug!(?other, "unexpected control frame"),
        }
    }

    fn handle_state(&self, link: &Arc<Link>) {
        match link.state() {
            LinkState::Closed => self.tunnels.remove(link),
            LinkState::Ready => self.tunnels.changed.notify_waiters(),
            LinkState::Suspect => self.tunnels.handle_path_failure(link),
            _ => {}
        }
    }

    fn handle_loss(&self, link: &Arc<Link>) {
        self.tunnels.handle_path_failure(link);
    }

    fn handle_exchange(&self, _link: &Arc<Link>, writer: ExchangeWriter, _reader: ExchangeReader) {
        // A gateway opens no exchanges; layer 1 refuses them by HELLO already.
        drop(writer);
    }
}
