//! Our own cases, which no matrix has: the whole chain, each part on a link of its own, and what a network does to it.
//!
//! Called by main. Each case runs on good links, and again with 2 % loss and 15 ms on each of them.

mod client;
mod outages;
mod parting;
mod speed;
mod world;

use std::path::Path;
use std::time::Duration;

use crate::Outcome;
use crate::attempts::Task;
use crate::judge::Verdict;
use crate::matrix::derive;
use crate::net::faults::{Luck, Plan};
use crate::net::hub::{Direction, Hub};
use crate::net::shaping::Shape;
use world::Size;

/// How long a case may take.
const DEADLINE: Duration = Duration::from_secs(240);

/// What the links of a chain are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// 100 Mbit/s, 2 ms, nothing lost.
    Good,
    /// 20 Mbit/s, 15 ms, 2 % lost in each direction.
    Lossy,
}

impl Links {
    fn name(self) -> &'static str {
        if self == Self::Good { "good links" } else { "2 % loss, 15 ms" }
    }

    /// One direction of such a link.
    fn direction(self) -> Direction {
        let (rate, delay, percent) = if self == Self::Good { (100_000_000, 2, 0) } else { (20_000_000, 15, 2) };
        let shape = Shape { rate: Some(rate), delay: Duration::from_millis(delay), queue: 200 };
        Direction { shape, plan: Plan { loss: Luck { percent, burst_max: 0 }, ..Plan::default() } }
    }
}

/// A run of one case.
#[derive(Clone, Copy, Debug)]
struct Try<'a> {
    links: Links,
    seed: u64,
    folder: &'a Path,
}

impl Try<'_> {
    /// Links between all ends.
    fn hub(&self, size: Size) -> Hub {
        Hub::new(size.ends(), self.seed, |_, _| self.links.direction())
    }

    /// So much on good links, less on lossy ones, so that both take seconds.
    fn bytes(&self, good: u64) -> u64 {
        if self.links == Links::Good { good } else { good / 4 }
    }
}

/// Names of all cases.
pub const CASES: &[&str] = &[
    "drain-under-transfers",
    "drain-at-preferred-address",
    "sigterm-as-process-1",
    "pop-goes-dark",
    "tunnel-dark-for-2s",
    "rebind-while-links-close",
    "gateway-behind-nat",
    "retry-on-tunnel",
    "goodput-of-chain",
    "small-beside-large",
];

async fn play(name: &str, attempt: &Try<'_>) -> Outcome<String> {
    match name {
        "drain-under-transfers" => outages::drain(attempt).await,
        "drain-at-preferred-address" => parting::drain_at_preferred_address(attempt).await,
        "sigterm-as-process-1" => parting::sigterm_as_process_1(attempt).await,
        "pop-goes-dark" => outages::pop_goes_dark(attempt).await,
        "tunnel-dark-for-2s" => outages::tunnel_goes_dark(attempt).await,
        "rebind-while-links-close" => outages::rebind_while_links_close(attempt).await,
        "gateway-behind-nat" => outages::gateway_behind_nat(attempt).await,
        "retry-on-tunnel" => outages::retry_on_tunnel(attempt).await,
        "goodput-of-chain" => speed::goodput(attempt).await,
        "small-beside-large" => speed::small_beside_large(attempt).await,
        other => Err(format!("no case is called {other}").into()),
    }
}

/// The cases of these names, all if there are none, on either kind of links.
///
/// # Errors
/// A name that no case has.
pub fn tasks(names: &[String], seed: u64, folder: &Path) -> Outcome<Vec<Task<'static>>> {
    let known = |name: &String| CASES.iter().copied().find(|known| known == name);
    let unknown = |name: &String| format!("no case is called {name}; there are {}", CASES.join(", "));
    let names = match names {
        [] => CASES.to_vec(),
        names => names.iter().map(|name| known(name).ok_or_else(|| unknown(name))).collect::<Result<_, _>>()?,
    };
    let both = names.into_iter().flat_map(|name| [(name, Links::Good), (name, Links::Lossy)]);
    Ok(both.map(|(name, links)| task(name, links, seed, folder)).collect())
}

fn task(name: &'static str, links: Links, seed: u64, folder: &Path) -> Task<'static> {
    let seed = derive(seed, &[name, links.name()]);
    Task {
        case: name.to_owned(),
        pair: links.name().to_owned(),
        seed,
        folder: folder.join("chain").join(format!("{name}-{links:?}")),
        run: Box::new(move |folder| one(name, &Try { links, seed, folder })),
    }
}

fn one(name: &str, attempt: &Try<'_>) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let played = runtime.map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async {
            let late = || format!("not over after {DEADLINE:?}").into();
            tokio::time::timeout(DEADLINE, play(name, attempt)).await.unwrap_or_else(|_| Err(late()))
        })
    });
    match played {
        Ok(note) => Verdict::Passed(Some(note).filter(|note| !note.is_empty())),
        Err(error) => Verdict::Failed(error.to_string()),
    }
}
