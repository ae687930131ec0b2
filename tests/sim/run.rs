//! One run of a scenario: starts the processes, lets things go wrong, waits for every exchange's end and for rest, and
//! judges.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use trunkline::observe::event;

use crate::host::{Host, Node};
use crate::scenario::{Fault, Mode, Path, Scenario, Towards, What};
use crate::world::{Ended, Seen, World};
use crate::{client, trust};

/// After the last fault every exchange must end within the grace time of a detached one, and this for its own length.
const END_MS: u64 = 10_000 + 15_000;
/// After that everything must come to rest: grace time and two heartbeats of idle links.
const REST_MS: u64 = 16_000;
/// Bytes per millisecond that the links of a PoP carry on its worst paths.
const RATE: u64 = 25;
/// How often budgets are looked at.
const WATCH: Duration = Duration::from_millis(50);
/// A path that was shut for longer excuses exchanges that ended with a fault: nothing is held for ever.
const EXCUSE_MS: u64 = 6_000;

/// A dead process is known to be dead after so long.
const NOTICE_MS: u64 = 3_000;

thread_local! {
    /// The seed that this thread runs, for panics outside the simulation's own code.
    static RUNNING: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Names the seed in every panic: one inside quinn ends the process.
pub fn name_seed_in_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        eprintln!("in a run of seed {}:", RUNNING.get());
        default(info);
    }));
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Report {
    pub violations: Vec<String>,
    /// Equal for equal runs.
    pub digest: u64,
    pub datagrams: u64,
    pub complete: u64,
    pub faults: u64,
    pub resumed: u64,
    pub simulated_ms: u64,
}

/// Runs a scenario in paused time.
pub fn run(scenario: &Scenario, verbose: bool) -> Report {
    RUNNING.set(scenario.seed);
    // Made before the seed is set: it takes random numbers too.
    trust::get();
    fastrand::seed(scenario.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("runtime").block_on(simulate(scenario.clone(), verbose))
}

async fn simulate(scenario: Scenario, verbose: bool) -> Report {
    let world = World::new(scenario, verbose);
    let mut background = tokio::task::JoinSet::new();
    background.spawn(world.net.clone().run());
    background.spawn(watch(world.clone()));
    set_paths(&world);
    for node in nodes(&world) {
        world.hosts.lock().push(Host::start(&world, node, 1));
    }
    for id in 0..world.scenario.requests.len() {
        background.spawn(client::call(world.clone(), id));
    }
    for fault in world.scenario.faults.clone() {
        background.spawn(go_wrong(world.clone(), fault));
    }
    await_ends(&world).await;
    await_rest(&world).await;
    judge_exchanges(&world);
    let report = report(&world);
    world.hosts.lock().drain(..).for_each(|host| host.kill());
    // Everything that was killed is dropped at its next turn.
    tokio::task::yield_now().await;
    report
}

fn nodes(world: &World) -> impl Iterator<Item = Node> + use<> {
    (0..world.scenario.pops).map(Node::Pop).chain((0..world.scenario.gateways).map(Node::Gateway))
}

fn set_paths(world: &World) {
    for pop in 0..world.scenario.pops {
        for gateway in 0..world.scenario.gateways {
            for (from, to) in directions(pop, gateway, Towards::Both) {
                world.net.path(from, to, |path| *path = world.scenario.path(pop, gateway));
            }
        }
    }
}

fn directions(pop: usize, gateway: usize, towards: Towards) -> Vec<(IpAddr, IpAddr)> {
    let (pop, gateway) = (Node::Pop(pop).ip(), Node::Gateway(gateway).ip());
    match towards {
        Towards::Both => vec![(pop, gateway), (gateway, pop)],
        Towards::Pop => vec![(gateway, pop)],
        Towards::Gateway => vec![(pop, gateway)],
    }
}

async fn watch(world: Arc<World>) {
    loop {
        tokio::time::sleep(WATCH).await;
        for host in world.hosts.lock().iter() {
            let used = host.peers.settings().budget.used();
            if used > world.scenario.retention_max {
                world.violate(format!("{host:?} keeps {used} bytes, more than its budget"));
            }
        }
    }
}

async fn go_wrong(world: Arc<World>, fault: Fault) {
    tokio::time::sleep(Duration::from_millis(fault.at_ms)).await;
    world.note(|| format!("{:?} for {} ms", fault.what, fault.for_ms));
    let over = Duration::from_millis(fault.for_ms);
    match fault.what {
        What::Block { pop, gateway, towards } => {
            change(&world, directions(pop, gateway, towards), over, |path| path.blocked = true).await;
        }
        What::Loss { pop, gateway, towards, share } => {
            change(&world, directions(pop, gateway, towards), over, |path| path.loss = share).await;
        }
        What::BlackPort { pop, gateway, link } => {
            let host = world.host(Node::Gateway(gateway));
            let ports = host.map(|host| host.ports.lock().clone()).unwrap_or_default();
            for (_, address) in ports.iter().filter(|(which, _)| *which == (pop, link)) {
                world.net.black_hole(*address);
            }
        }
        What::Cut { pop, gateway, link } => {
            let name = Node::Gateway(gateway).name();
            let host = world.host(Node::Pop(pop));
            let links = host.map(|host| host.links.lock().clone()).unwrap_or_default();
            if let Some(link) = links.iter().filter(|link| &**link.peer().node() == name.as_str()).nth(link) {
                link.connection().close(9u32.into(), b"cut");
            }
        }
        What::CrashPop { pop } => crash(&world, Node::Pop(pop), over).await,
        What::CrashGateway { gateway } => crash(&world, Node::Gateway(gateway), over).await,
        What::StopPop { pop } => stop(&world, Node::Pop(pop), over).await,
        What::StopGateway { gateway } => stop(&world, Node::Gateway(gateway), over).await,
    }
    world.note(|| format!("{:?} is over", fault.what));
}

async fn change(world: &World, which: Vec<(IpAddr, IpAddr)>, over: Duration, change: impl Fn(&mut Path)) {
    for (from, to) in &which {
        world.net.path(*from, *to, &change);
    }
    tokio::time::sleep(over).await;
    let healthy = |ip: IpAddr| nodes(world).find(|node| node.ip() == ip);
    for (from, to) in which {
        if let (Some(Node::Pop(pop)), Some(Node::Gateway(gateway)))
        | (Some(Node::Gateway(gateway)), Some(Node::Pop(pop))) = (healthy(from), healthy(to))
        {
            world.net.path(from, to, |path| *path = world.scenario.path(pop, gateway));
        }
    }
}

async fn crash(world: &Arc<World>, node: Node, over: Duration) {
    // It may be down already.
    let Some(host) = world.host(node) else { return };
    world.hosts.lock().retain(|other| other.node != node);
    host.kill();
    if let Node::Pop(pop) = node {
        for (id, request) in world.scenario.requests.iter().enumerate() {
            let dispatched = world.seen.lock()[id].dispatched;
            if request.pop == pop && dispatched {
                world.end(id, Ended::Gone);
            }
        }
    }
    tokio::time::sleep(over).await;
    let host = Host::start(world, node, host.instance + 1);
    world.hosts.lock().push(host);
}

async fn stop(world: &Arc<World>, node: Node, over: Duration) {
    let Some(host) = world.host(node) else { return };
    host.stop.set(true);
    tokio::time::sleep(over).await;
    host.stop.set(false);
}

/// Waits until every exchange has ended; those that do not are stuck.
async fn await_ends(world: &World) {
    let faults = world.scenario.faults.iter().map(|fault| fault.at_ms + fault.for_ms).max().unwrap_or(0);
    let all = world.scenario.requests.iter();
    let last = all
        .map(|request| request.at_ms + length_ms(request) + lossy_ms(&world.scenario, request.pop))
        .max()
        .unwrap_or(0);
    let deadline = faults.max(last) + END_MS;
    let unended = || {
        let seen = world.seen.lock();
        seen.iter().enumerate().filter(|(_, seen)| seen.ended.is_none()).map(|(id, _)| id).collect::<Vec<_>>()
    };
    while world.now() < faults || (!unended().is_empty() && world.now() < deadline) {
        tokio::time::sleep(WATCH).await;
    }
    for id in unended() {
        world.violate(format!("request {id} is stuck: {:?}", world.seen.lock()[id].clone()));
    }
}

/// How long an exchange takes by its own pauses.
fn length_ms(request: &crate::scenario::Request) -> u64 {
    let request_pieces = request.request_len / request.piece + 1;
    let response_pieces = request.response_len / request.piece + 1;
    // What a reader gets at once may be smaller than a piece.
    let read_pieces = (request.response_len.max(request.request_len) / request.piece.min(1_000) + 1) * 2;
    request_pieces * request.client_pace_ms
        + response_pieces * request.handler_pace_ms
        + read_pieces * (request.reader_pace_ms + request.handler_pace_ms)
}

/// How much longer an exchange may take where its PoP's paths lose datagrams, or let them overtake each other, which
/// congestion control takes for loss. The other exchanges of the PoP ride on the same links and may go first.
fn lossy_ms(scenario: &Scenario, pop: usize) -> u64 {
    let mut paths = (0..scenario.gateways).map(|gateway| scenario.path(pop, gateway));
    let lossy = paths.any(|path| path.loss > 0.0 || path.jitter_ms > 0);
    let theirs = scenario.requests.iter().filter(|request| request.pop == pop);
    let bytes: u64 = theirs.map(|request| request.request_len + request.response_len).sum();
    if lossy { bytes / RATE } else { 0 }
}

/// Waits until nothing is left of any exchange and every link is there again; what stays is a violation.
async fn await_rest(world: &World) {
    let deadline = world.now() + REST_MS;
    while world.now() < deadline && !unrest(world).is_empty() {
        tokio::time::sleep(WATCH * 5).await;
    }
    unrest(world).into_iter().for_each(|what| world.violate(what));
}

fn unrest(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    for host in world.hosts.lock().iter() {
        let kept = host.peers.settings().budget.used();
        if kept > 0 {
            found.push(format!("{host:?} still keeps {kept} bytes"));
        }
        for peer in host.peers.all() {
            if peer.exchanges() > 0 {
                found.push(format!("{host:?} still has {} exchanges with {}", peer.exchanges(), peer.node()));
            }
        }
        for link in host.all_links.lock().iter().filter_map(std::sync::Weak::upgrade) {
            if link.in_flight() > 0 {
                found.push(format!("{host:?}: {} in flight on a link that is {:?}", link.in_flight(), link.state()));
            }
        }
        found.extend(missing_links(world, host));
    }
    found
}

fn missing_links(world: &World, host: &Host) -> Vec<String> {
    let others: Vec<_> = match host.node {
        Node::Pop(_) => (0..world.scenario.gateways).map(Node::Gateway).collect(),
        Node::Gateway(_) => (0..world.scenario.pops).map(Node::Pop).collect(),
    };
    let links = host.links.lock();
    let usable = |other: &Node| {
        links.iter().filter(|link| link.is_usable() && *link.peer().node().to_string() == other.name()).count()
    };
    let all = world.scenario.links;
    others
        .iter()
        .filter(|other| usable(other) != all)
        .map(|other| format!("{host:?} has {} usable links with {}, not {all}", usable(other), other.name()))
        .collect()
}

fn judge_exchanges(world: &World) {
    for (id, seen) in world.seen.lock().clone().into_iter().enumerate() {
        if seen.executions > 1 {
            world.violate(format!("request {id} was executed {} times", seen.executions));
        }
        if let Some((at, Ended::Fault(fault))) = &seen.ended
            && !is_excused(world, id, &seen, *at)
        {
            world.violate(format!("request {id} ended at {at} ms with {fault:?} for no reason: {seen:?}"));
        }
        if let Some((_, Ended::NoLink)) = seen.ended {
            world.violate(format!("request {id} found no link"));
        }
    }
}

/// Whether something happened that no exchange could survive.
fn is_excused(world: &World, id: usize, seen: &Seen, ended_ms: u64) -> bool {
    let scenario = &world.scenario;
    let (request, started_ms) = (&scenario.requests[id], seen.started_ms.unwrap_or(0));
    // Past the budget an exchange may lose its ability to resume.
    let refused_by_all = request.mode == Mode::Reject && seen.executions == 0;
    if request.mode == Mode::Break || refused_by_all || scenario.retention_max < 1 << 20 {
        return true;
    }
    let met = |gateway: usize| seen.gateways.contains(&Node::Gateway(gateway).name());
    let shut = |fault: &&Fault| match fault.what {
        What::Block { pop, gateway, .. } => pop == request.pop && met(gateway),
        What::Loss { pop, gateway, share, .. } => share > 0.1 && pop == request.pop && met(gateway),
        What::StopPop { pop } => pop == request.pop,
        What::StopGateway { gateway } => met(gateway),
        _ => false,
    };
    let overlaps = |fault: &&Fault| fault.at_ms <= ended_ms && fault.at_ms + fault.for_ms >= started_ms;
    let shut_ms: u64 = scenario.faults.iter().filter(overlaps).filter(shut).map(|fault| fault.for_ms).sum();
    // Until its links are convicted, a dead process may be sent something.
    let after_crash = |fault: &&Fault| fault.at_ms + fault.for_ms + NOTICE_MS >= started_ms && fault.at_ms <= ended_ms;
    let crashed = scenario.faults.iter().filter(after_crash).any(|fault| match fault.what {
        What::CrashGateway { gateway } => met(gateway),
        _ => false,
    });
    crashed || shut_ms > EXCUSE_MS
}

fn report(world: &World) -> Report {
    let seen = world.seen.lock();
    let count =
        |is: fn(&Ended) -> bool| seen.iter().filter(|seen| seen.ended.as_ref().is_some_and(|e| is(&e.1))).count();
    Report {
        violations: world.violations.lock().clone(),
        digest: world.net.digest(),
        datagrams: world.net.sent(),
        complete: count(|ended| matches!(ended, Ended::Complete)) as u64,
        faults: count(|ended| matches!(ended, Ended::Fault(_))) as u64,
        resumed: world.hosts.lock().iter().map(|host| host.peers.events().count(event::What::Resume)).sum(),
        simulated_ms: world.now(),
    }
}
