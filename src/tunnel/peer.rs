//! The process at the other end: its links and the exchanges that live between it and this process.
//!
//! Exchanges belong to the peer, not to a link: that is why they survive links. A peer is one *instance* (one run) of a
//! process; a new instance under the same name ends the exchanges of the old one at once.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::code::CloseCode;
use super::control::{Ack, Hello};
use super::exchange::ended::Ended;
use super::exchange::retention::Budget;
use super::exchange::{Exchange, lost};
use super::link::Link;
use super::metrics::TunnelMetrics;
use crate::clock;
use crate::config::TunnelLimits;
use crate::fault::Side;
use crate::observe::event::Events;
use crate::quic::{Copies, Ties};
use crate::task::Tasks;

/// Credit every exchange starts with in each direction, bytes.
pub const INITIAL_WINDOW: u64 = 128 << 10;
/// How long an exchange without an attachment is held.
const GRACE: Duration = Duration::from_secs(10);

/// How long a gateway keeps what it sent whole for an edge that is slow to take it, at most.
const LINGER: Duration = Duration::from_secs(60);

/// What all exchanges of a process share.
#[derive(Debug)]
pub struct Settings {
    /// Credit an exchange starts with.
    pub window: u64,
    /// What it may grow to.
    pub window_max: u64,
    /// How long an exchange without an attachment is held.
    pub grace: Duration,
    /// Memory for unacknowledged bytes.
    pub budget: Arc<Budget>,
    /// Memory for bytes that readers have not taken, beyond the window every exchange starts with.
    pub window_budget: Arc<Budget>,
    /// The next exchange's counter; the other half of its id is this process's instance.
    counter: AtomicU64,
    /// Links that there were, for their names.
    links: AtomicU64,
}

impl Settings {
    /// Settings from configured limits.
    pub fn new(limits: &TunnelLimits) -> Self {
        Self {
            window: INITIAL_WINDOW.min(limits.exchange_window_max),
            window_max: limits.exchange_window_max,
            grace: GRACE,
            budget: Arc::new(Budget::new(limits.retention_max)),
            window_budget: Arc::new(Budget::new(limits.retention_max)),
            counter: AtomicU64::new(0),
            links: AtomicU64::new(0),
        }
    }

    pub(super) fn next_counter(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of a new link, from 1.
    pub(super) fn next_link(&self) -> u64 {
        self.links.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// See the module.
pub struct Peer {
    node: Arc<str>,
    instance: u64,
    credit: u64,
    settings: Arc<Settings>,
    tasks: Tasks,
    metrics: TunnelMetrics,
    events: Events,
    copies: Arc<Copies>,
    exchanges: Mutex<HashMap<u64, Arc<Exchange>>>,
    lingering: Mutex<VecDeque<(Instant, u64)>>,
    ended: Mutex<Ended>,
    links: Mutex<Vec<Arc<Link>>>,
    changed: Notify,
    /// The run of the same process before this one, until this one can take over.
    predecessor: Mutex<Option<Arc<Peer>>>,
}

impl Peer {
    /// The other end's name.
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// The run of the other end's process.
    pub fn instance(&self) -> u64 {
        self.instance
    }

    /// Credit the other end gives an exchange at its start.
    pub(super) fn credit(&self) -> u64 {
        self.credit
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The counters of this layer.
    pub fn metrics(&self) -> &TunnelMetrics {
        &self.metrics
    }

    /// Where to tell what happens.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Whose datagrams leave twice.
    pub(super) fn copies(&self) -> &Copies {
        &self.copies
    }

    /// At an edge: enters an exchange that it opens.
    pub(super) fn insert(&self, exchange: Arc<Exchange>) {
        self.exchanges.lock().insert(exchange.counter(), exchange);
    }

    /// At a gateway: enters an exchange that came, unless it is or was here.
    pub(super) fn admit(&self, exchange: &Arc<Exchange>) -> bool {
        let mut exchanges = self.exchanges.lock();
        let counter = exchange.counter();
        let new = !exchanges.contains_key(&counter) && !self.ended.lock().knows(counter);
        if new {
            exchanges.insert(counter, exchange.clone());
        }
        new
    }

    /// An exchange failed here, or began with RESUME, and is over: a preamble that comes late must not start it again.
    pub(super) fn remember(&self, counter: u64) {
        self.ended.lock().handle_end(clock::now(), counter);
    }

    pub(super) fn find(&self, counter: u64) -> Option<Arc<Exchange>> {
        self.exchanges.lock().get(&counter).cloned()
    }

    pub(super) fn remove(&self, exchange: &Arc<Exchange>) {
        let removed = match self.exchanges.lock().entry(exchange.counter()) {
            Entry::Occupied(known) if Arc::ptr_eq(known.get(), exchange) => Some(known.remove()),
            _ => None,
        };
        // Dropped after the table's lock is released: an exchange may hold the last reference to a link.
        drop(removed);
    }

    /// Exchanges that live between this process and the peer, those that only await acknowledgement included.
    pub fn exchanges(&self) -> usize {
        self.exchanges.lock().len()
    }

    pub(super) fn handle_acks(&self, acks: &[Ack]) {
        for ack in acks {
            if let Some(exchange) = self.find(ack.exchange) {
                exchange.handle_ack(*ack);
            }
        }
    }

    /// Holds an exchange whose halves are done until its bytes are acknowledged, so that it can still be resumed.
    pub(super) fn linger(&self, counter: u64) {
        let now = clock::now();
        self.lingering.lock().push_back((now + LINGER, counter));
        self.sweep(now);
    }

    /// Drops exchanges that lingered for too long. Those that still send, because their reader is slow, stay.
    pub(super) fn sweep(&self, now: Instant) {
        loop {
            let counter = match self.lingering.lock() {
                mut queue if queue.front().is_some_and(|(deadline, _)| *deadline <= now) => queue.pop_front(),
                _ => None,
            };
            let Some((_, counter)) = counter else { return };
            let Some(exchange) = self.find(counter).filter(|exchange| exchange.is_lingering()) else { continue };
            if exchange.is_expired() {
                exchange.leave_table(false);
            } else {
                self.lingering.lock().push_back((now + self.settings.grace, counter));
            }
        }
    }

    pub(super) fn add_link(&self, link: Arc<Link>) {
        self.links.lock().push(link);
        self.changed.notify_waiters();
    }

    pub(super) fn remove_link(&self, link: &Arc<Link>) {
        self.links.lock().retain(|other| !Arc::ptr_eq(other, link));
    }

    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
    }

    /// Links of this peer now, in any state.
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.links.lock().clone()
    }

    /// Whether a link other than `link` could carry its exchanges.
    pub(super) fn has_other(&self, link: &Arc<Link>) -> bool {
        self.links.lock().iter().any(|other| !Arc::ptr_eq(other, link) && other.is_usable())
    }

    /// Whether any link could carry an exchange now.
    pub(super) fn is_reachable(&self) -> bool {
        self.links.lock().iter().any(|link| link.is_usable())
    }

    /// Makes exchanges that would rather be elsewhere look again.
    pub(super) fn nudge(&self) {
        self.in_order().iter().for_each(|exchange| exchange.nudge());
    }

    /// All exchanges, the oldest first: who waits longest moves first, and the same way in each run of a simulation.
    fn in_order(&self) -> Vec<Arc<Exchange>> {
        let mut exchanges: Vec<_> = self.exchanges.lock().values().cloned().collect();
        exchanges.sort_unstable_by_key(|exchange| exchange.counter());
        exchanges
    }

    /// A usable link with little to do, rather not to the address to `avoid`.
    pub(super) fn any_link(&self, avoid: Option<IpAddr>) -> Option<Arc<Link>> {
        let dear = |link: &&Arc<Link>| (avoid == Some(link.remote_address().ip()), link.in_flight());
        self.links.lock().iter().filter(|link| link.is_usable()).min_by_key(dear).cloned()
    }

    /// The same; waits for one if there is none.
    pub(super) async fn link(&self, avoid: Option<IpAddr>) -> Arc<Link> {
        loop {
            let changed = self.changed.notified();
            match self.any_link(avoid) {
                Some(link) => return link,
                None => changed.await,
            }
        }
    }

    /// Detaches everything from a link that is suspected or over.
    pub(super) fn evacuate(&self, link: &Arc<Link>) {
        self.in_order().iter().for_each(|exchange| exchange.leave(link));
    }

    /// A link is ready: what lived with the process's last run is over, and may be begun again here.
    pub(super) fn retire_predecessor(&self) {
        let predecessor = self.predecessor.lock().take();
        if let Some(predecessor) = predecessor {
            predecessor.retire_predecessor();
            predecessor.abort_all();
            // Nobody is at their other end: work sent there would wait for a verdict.
            predecessor.links().iter().for_each(|link| link.close(CloseCode::Done, "a new instance came"));
        }
    }

    fn abort_all(&self) {
        let exchanges = self.in_order();
        let fault = lost(Side::Gateway);
        exchanges.iter().for_each(|exchange| exchange.abort(fault));
    }
}

/// All peers of this process, by name.
pub struct Peers {
    settings: Arc<Settings>,
    tasks: Tasks,
    metrics: TunnelMetrics,
    events: Events,
    copies: Arc<Copies>,
    by_node: Mutex<HashMap<Arc<str>, Arc<Peer>>>,
}

impl Peers {
    /// No peers yet.
    pub fn new(settings: Arc<Settings>, tasks: Tasks, metrics: TunnelMetrics, events: Events) -> Self {
        let copies = Arc::new(Copies::new(metrics.copies.clone()));
        Self { settings, tasks, metrics, events, copies, by_node: Mutex::new(HashMap::new()) }
    }

    /// What all exchanges share.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// The counters of this layer.
    pub fn metrics(&self) -> &TunnelMetrics {
        &self.metrics
    }

    /// Where to tell what happens.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The peer that `hello` speaks for. A new instance ends the old one's exchanges as soon as it has a ready link.
    pub fn admit(&self, hello: &Hello) -> Arc<Peer> {
        let mut by_node = self.by_node.lock();
        if let Some(peer) = by_node.get(hello.node.as_str())
            && peer.instance == hello.instance
        {
            return peer.clone();
        }
        let peer = Arc::new(Peer {
            node: Arc::from(hello.node.as_str()),
            instance: hello.instance,
            credit: hello.window,
            settings: self.settings.clone(),
            tasks: self.tasks.clone(),
            metrics: self.metrics.clone(),
            events: self.events.clone(),
            copies: self.copies.clone(),
            exchanges: Mutex::default(),
            lingering: Mutex::default(),
            ended: Mutex::default(),
            links: Mutex::default(),
            changed: Notify::new(),
            predecessor: Mutex::default(),
        });
        let old = by_node.insert(peer.node.clone(), peer.clone());
        *peer.predecessor.lock() = old;
        peer
    }

    /// What the sockets of links have to do with them: links to addresses that ICMP calls unreachable are probed, and those that
    /// lose packets have short ones sent twice.
    pub fn ties(self: Arc<Self>) -> Ties {
        let copies = self.copies.clone();
        let unreachable = Arc::new(move |address| {
            let peers = self.all();
            let links = peers.iter().flat_map(|peer| peer.links());
            links.filter(|link| link.remote_address() == address).for_each(|link| link.hint());
        });
        Ties { unreachable, copies }
    }

    /// All peers now.
    pub fn all(&self) -> Vec<Arc<Peer>> {
        self.by_node.lock().values().cloned().collect()
    }
}

impl Drop for Peers {
    /// A peer, its links and its exchanges hold each other, and whoever would have parted them is gone.
    fn drop(&mut self) {
        let mut left: Vec<_> = self.by_node.get_mut().drain().map(|(_, peer)| peer).collect();
        while let Some(peer) = left.pop() {
            peer.links.lock().clear();
            let exchanges = std::mem::take(&mut *peer.exchanges.lock());
            drop(exchanges);
            left.extend(peer.predecessor.lock().take());
        }
    }
}
