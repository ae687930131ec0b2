//! What is done to the chain while its clients go on: tunnels cut, gateways killed, frozen and drained, PoPs drained and
//! killed, each in turn and each brought back before the next. Called by the show; has the demo's processes to itself.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use super::backstage;
use super::tally::Tally;
use crate::clock;
use crate::dev::Failure;
use crate::dev::child::Child;
use crate::dev::demo::Demo;

/// Between two outages: time to look.
const PAUSE: Duration = Duration::from_millis(2_500);
/// From a death to the start of the next process.
const DEAD: Duration = Duration::from_secs(1);
/// How long a gateway is frozen: below the verdict, above the suspicion.
const FROZEN: Duration = Duration::from_millis(400);
/// For a drain, and for all tunnels to be back.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug)]
enum Act {
    CutTunnel,
    KillGateway,
    FreezeGateway,
    DrainGateway,
    DrainPop,
    KillPop,
}

/// The order: what clients never notice first, and most often.
const ACTS: [Act; 8] = [
    Act::CutTunnel,
    Act::KillGateway,
    Act::FreezeGateway,
    Act::DrainPop,
    Act::CutTunnel,
    Act::DrainGateway,
    Act::CutTunnel,
    Act::KillPop,
];

/// Does things to `demo` until it is dropped.
///
/// # Errors
/// When a process cannot be started again.
pub async fn havoc(demo: &mut Demo, tally: Arc<Tally>) -> Result<(), Failure> {
    let several = demo.edges.len() > 1;
    let acts = ACTS.iter().filter(|act| several || !matches!(act, Act::DrainPop | Act::KillPop));
    let mut turns = Turns::default();
    for act in acts.cycle() {
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => perform(*act, &mut turns, demo, &tally).await?,
            (process, _) = first_end(demo) => {
                // Somebody else's doing: the printed lines say how.
                bury(process, &tally);
                tally.act("gone, started again", demo.name(process));
                revive(demo, process).await?;
            }
        }
        settle(demo).await;
    }
    Ok(())
}

/// A process of the demo.
#[derive(Clone, Copy, Debug)]
pub enum Process {
    /// A PoP, by its place.
    Pop(usize),
    /// A gateway, by its place.
    Gateway(usize),
}

/// Whose turn it is. PoPs come in the order in which clients turn to them, so that each act meets the clients.
#[derive(Clone, Copy, Debug, Default)]
struct Turns {
    pops: usize,
    gateways: usize,
}

impl Turns {
    fn next(&mut self, act: Act, demo: &Demo) -> Process {
        let (turn, count) = match act {
            Act::DrainPop | Act::KillPop => (&mut self.pops, demo.edges.len()),
            _ => (&mut self.gateways, demo.gateways.len()),
        };
        let index = *turn % count.max(1);
        *turn += 1;
        if matches!(act, Act::DrainPop | Act::KillPop) { Process::Pop(index) } else { Process::Gateway(index) }
    }
}

async fn perform(act: Act, turns: &mut Turns, demo: &mut Demo, tally: &Tally) -> Result<(), Failure> {
    let process = turns.next(act, demo);
    match act {
        Act::CutTunnel => {
            tally.act("tunnel cut", demo.name(process));
            if let Some(admin) = demo.child(process).and_then(|child| admin(child)) {
                // None is left to close where the last outage still lasts.
                let _ = backstage::cut_tunnel(admin).await;
            }
            Ok(())
        }
        Act::FreezeGateway => {
            tally.act("frozen", demo.name(process));
            signal(demo, process, libc::SIGSTOP);
            tokio::time::sleep(FROZEN).await;
            signal(demo, process, libc::SIGCONT);
            Ok(())
        }
        Act::KillGateway | Act::KillPop => kill(demo, process, tally).await,
        Act::DrainGateway | Act::DrainPop => drain(demo, process, tally).await,
    }
}

async fn kill(demo: &mut Demo, process: Process, tally: &Tally) -> Result<(), Failure> {
    bury(process, tally);
    tally.act("killed", demo.name(process));
    signal(demo, process, libc::SIGKILL);
    if let Some(child) = demo.child(process) {
        child.ended().await;
    }
    revive(demo, process).await
}

async fn drain(demo: &mut Demo, process: Process, tally: &Tally) -> Result<(), Failure> {
    tally.act("drained and restarted", demo.name(process));
    signal(demo, process, libc::SIGTERM);
    if let Some(child) = demo.child(process)
        && tokio::time::timeout(PATIENCE, child.ended()).await.is_err()
    {
        tally.fail(format!("{} does not end", child.name));
        child.signal(libc::SIGKILL);
        child.ended().await;
    }
    demo.restart(process).await
}

async fn revive(demo: &mut Demo, process: Process) -> Result<(), Failure> {
    tokio::time::sleep(DEAD).await;
    demo.restart(process).await
}

fn bury(process: Process, tally: &Tally) {
    match process {
        Process::Pop(pop) => tally.pop_dies(pop),
        Process::Gateway(_) => tally.gateway_dies(),
    }
}

fn signal(demo: &mut Demo, process: Process, signal: libc::c_int) {
    if let Some(child) = demo.child(process) {
        child.signal(signal);
    }
}

fn admin(child: &Child) -> Option<std::net::SocketAddr> {
    child.ready.admin.first()?.parse().ok()
}

/// The first process to end by itself.
async fn first_end(demo: &mut Demo) -> (Process, ExitStatus) {
    let edges = demo.edges.iter_mut().enumerate().map(|(index, child)| (Process::Pop(index), child));
    let gateways = demo.gateways.iter_mut().enumerate().map(|(index, child)| (Process::Gateway(index), child));
    let ends = edges.chain(gateways).map(|(process, child)| Box::pin(async move { (process, child.ended().await) }));
    futures_util::future::select_all(ends).await.0
}

/// Waits until every gateway has all its tunnels again, so that the next outage meets a whole chain.
async fn settle(demo: &Demo) {
    let until = clock::now() + PATIENCE;
    let wanted = demo.links();
    for admin in demo.gateways.iter().filter_map(admin) {
        while clock::now() < until && backstage::links(admin).await.unwrap_or(0) < wanted {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
