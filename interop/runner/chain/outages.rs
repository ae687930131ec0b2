//! What links and ends do while requests are under way, and what clients may notice of it: nothing, or what is said here.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, EndpointConfig, TokioRuntime};
use tokio::task::JoinSet;
use trunkline::clock;
use trunkline::observe::event::What;

use super::Try;
use super::client::{Client, tls};
use super::world::{CLIENT, CLIENTS_PORT, HOST, POP_A, Size, TUNNEL_PORT, World, eventually};
use crate::Outcome;
use crate::net::Network;
use crate::net::hub::ipv4;
use crate::net::nat::Rebind;
use crate::quic::connection::Sender;
use crate::quic::keylog::KeyLog;
use crate::quic::trace::Trace;
use crate::quic::wire::Kind;

const MS: Duration = Duration::from_millis(1);
const MB: u64 = 1 << 20;
/// Between two small requests of a steady client.
const PACE: Duration = Duration::from_millis(50);
/// How long a client waits for an answer before it turns to another PoP.
const PATIENCE: Duration = Duration::from_secs(2);
const ONE_POP: Size = Size { pops: 1, links: 2, together: false, wanted: 1, preferred: false };
const TWO_POPS: Size = Size { pops: 2, wanted: 2, ..ONE_POP };

async fn nothing(_: &Network) -> Outcome<()> {
    Ok(())
}

async fn world(attempt: &Try<'_>, size: Size) -> Outcome<World> {
    World::start(attempt.folder, size, attempt.hub(size), nothing).await
}

/// Downloads that run side by side.
fn downloads(client: &Client, count: usize, length: u64) -> JoinSet<Outcome<()>> {
    let mut set = JoinSet::new();
    for _ in 0..count {
        let client = client.clone();
        set.spawn(async move { client.download(length).await });
    }
    set
}

/// Waits for all of them.
async fn complete(mut set: JoinSet<Outcome<()>>) -> Outcome<()> {
    let total = set.len();
    let mut failures = Vec::new();
    while let Some(ended) = set.join_next().await {
        if let Err(error) = ended? {
            failures.push(error.to_string());
        }
    }
    match failures.first() {
        Some(first) => Err(format!("{} of {total} requests failed: {first}", failures.len()).into()),
        None => Ok(()),
    }
}

/// Waits until a client has got a share of what it asked for.
async fn under_way(client: &Client, bytes: u64) -> Outcome<()> {
    eventually("bytes under way", async || Ok(client.got() >= bytes)).await
}

/// A PoP drains under 20 transfers: all of them end whole, it exits with success, the other PoP serves.
pub async fn drain(attempt: &Try<'_>) -> Outcome<String> {
    let mut world = world(attempt, TWO_POPS).await?;
    let client = world.client(0).await?;
    let length = attempt.bytes(MB);
    let transfers = downloads(&client, 20, length);
    under_way(&client, length).await?;
    let took = world.drain(async || complete(transfers).await).await?;
    world.client(1).await?.download(1_000).await?;
    Ok(format!("drained in {:.1} s", took.as_secs_f64()))
}

/// Small requests at a steady pace through a PoP until `end`; failures and the longest time without an answer.
async fn steady(client: Client, end: Instant) -> (usize, Duration) {
    let (mut failures, mut gap, mut last) = (0, Duration::ZERO, clock::now());
    while clock::now() < end {
        match client.download(1_000).await {
            Ok(()) => {
                gap = gap.max(clock::now() - last);
                last = clock::now();
            }
            Err(_) => failures += 1,
        }
        tokio::time::sleep(PACE).await;
    }
    (failures, gap)
}

/// Everything of a PoP goes dark: requests through the other do not notice, a client of the dark one is served there, and
/// when it is light again its tunnels come back.
pub async fn pop_goes_dark(attempt: &Try<'_>) -> Outcome<String> {
    let world = world(attempt, TWO_POPS).await?;
    let (on_a, on_b) = (world.client(0).await?, world.client(1).await?);
    on_a.download(1_000).await?;
    let mut through_b = JoinSet::new();
    through_b.spawn(steady(on_b, clock::now() + 6_000 * MS));
    tokio::time::sleep(1_000 * MS).await;
    darken(&world, true);
    let lost = tokio::time::timeout(PATIENCE, on_a.download(1_000)).await;
    if matches!(lost, Ok(Ok(()))) {
        return Err("a request went through the dark PoP".into());
    }
    let moved = clock::now();
    world.client(1).await?.download(1_000).await?;
    let moved = clock::now() - moved;
    let (failures, gap) = through_b.join_next().await.ok_or("no steady client")??;
    if failures > 0 {
        return Err(format!("{failures} requests through the other PoP failed").into());
    }
    darken(&world, false);
    world.until_linked().await?;
    world.client(0).await?.download(1_000).await?;
    Ok(format!("longest gap at the other PoP {} ms, reconnected in {} ms", gap.as_millis(), moved.as_millis()))
}

fn darken(world: &World, dark: bool) {
    let gateway = TWO_POPS.gateway();
    for end in [CLIENT, POP_A + 1, gateway] {
        world.network.hub().with(|hub| hub.darken(POP_A, end, dark));
    }
}

/// The tunnels of one PoP alone are dark for two seconds under downloads and POSTs: all of them end whole, no POST runs
/// twice, no link is lost for good, and the gateway changes its mind about no PoP.
pub async fn tunnel_goes_dark(attempt: &Try<'_>) -> Outcome<String> {
    let world = world(attempt, TWO_POPS).await?;
    let (client, gateway) = (world.client(0).await?, TWO_POPS.gateway());
    let length = attempt.bytes(2 * MB);
    let transfers = downloads(&client, 10, length);
    let mut posts = JoinSet::new();
    for number in 0..30_u32 {
        let client = client.clone();
        posts.spawn(async move {
            tokio::time::sleep(number * 100 * MS).await;
            client.count(&format!("post-{number}")).await
        });
    }
    under_way(&client, length).await?;
    world.network.hub().with(|hub| hub.darken(POP_A, gateway, true));
    tokio::time::sleep(2_000 * MS).await;
    world.network.hub().with(|hub| hub.darken(POP_A, gateway, false));
    complete(posts).await?;
    complete(transfers).await?;
    for number in 0..30 {
        let runs = client.executions(&format!("post-{number}")).await?;
        if runs != 1 {
            return Err(format!("POST {number} ran {runs} times").into());
        }
    }
    world.until_linked().await?;
    match world.events(What::Migration)? {
        0 => world.tunnels(),
        moves => Err(format!("{moves} needless migrations").into()),
    }
}

/// The client's NAT forgets and, at the same moments, links of its tunnel close without warning.
pub async fn rebind_while_links_close(attempt: &Try<'_>) -> Outcome<String> {
    let mut hub = attempt.hub(ONE_POP);
    hub.translate(CLIENT, attempt.seed);
    let mut world = World::start(attempt.folder, ONE_POP, hub, nothing).await?;
    let client = world.client(0).await?;
    let length = attempt.bytes(4 * MB);
    let transfers = downloads(&client, 8, length);
    for round in 1..=3 {
        under_way(&client, round * length).await?;
        world.network.hub().with(|hub| hub.rebind(CLIENT, if round == 2 { Rebind::Address } else { Rebind::Port }));
        let answer = world.admin("POST /links/close")?;
        if !answer.starts_with("HTTP/1.1 202") {
            return Err(format!("links/close: {}", answer.lines().next().unwrap_or_default()).into());
        }
        world.until_linked().await?;
    }
    complete(transfers).await?;
    let tunnels = world.tunnels()?;
    Ok(format!("{} client addresses, {tunnels}", addresses(&mut world, CLIENTS_PORT, 4)?))
}

/// How many addresses and ports the PoP saw at its port; they must be at least `least`, or nothing was rebound.
fn addresses(world: &mut World, port: u16, least: usize) -> Outcome<usize> {
    let captures = world.network.stop()?;
    let trace = Trace::read(captures.get(POP_A).ok_or("no capture")?, port, &KeyLog::default())?;
    let seen = trace.packets.iter().map(|packet| packet.client).collect::<HashSet<_>>().len();
    if seen < least { Err(format!("the PoP saw {seen} addresses, not at least {least}").into()) } else { Ok(seen) }
}

/// The gateway sits behind a NAT that forgets ports, then the address, under downloads.
pub async fn gateway_behind_nat(attempt: &Try<'_>) -> Outcome<String> {
    let gateway = ONE_POP.gateway();
    let mut hub = attempt.hub(ONE_POP);
    hub.translate(gateway, attempt.seed);
    let mut world = World::start(attempt.folder, ONE_POP, hub, nothing).await?;
    let client = world.client(0).await?;
    let length = attempt.bytes(2 * MB);
    let transfers = downloads(&client, 10, length);
    for (round, what) in [(1, Rebind::Port), (3, Rebind::Address), (5, Rebind::Port)] {
        under_way(&client, round * length).await?;
        world.network.hub().with(|hub| hub.rebind(gateway, what));
    }
    complete(transfers).await?;
    let tunnels = world.tunnels()?;
    // Two links, each of which may have been quiet between two of the rebinds.
    Ok(format!("{} gateway addresses, {tunnels}", addresses(&mut world, TUNNEL_PORT, 5)?))
}

/// So many handshakes begun and left alone that a PoP asks the next dialler to prove its address.
const HALF_OPEN: usize = 40;

/// A gateway behind a NAT that meets a PoP under a flood of half-open handshakes is asked to retry, and comes in.
pub async fn retry_on_tunnel(attempt: &Try<'_>) -> Outcome<String> {
    let gateway = ONE_POP.gateway();
    let mut hub = attempt.hub(ONE_POP);
    hub.translate(gateway, attempt.seed);
    let ca = attempt.folder.join("tunnel-ca.pem");
    let mut flood = None;
    let before = async |network: &Network| {
        let socket = network.end(CLIENT)?.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?;
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls(&ca, b"trunkline/1")?)?));
        let address = SocketAddr::new(ipv4(POP_A).into(), TUNNEL_PORT);
        // What comes back is lost, so that none of them goes on.
        network.hub().with(|hub| hub.darken_way(POP_A, CLIENT, true));
        let dials = (0..HALF_OPEN)
            .map(|_| endpoint.connect_with(config.clone(), address, HOST))
            .collect::<Result<Vec<_>, _>>()?;
        let passed = || network.hub().with(|hub| hub.counts().passed);
        eventually("the flood", async || Ok(passed() >= HALF_OPEN as u64)).await?;
        flood = Some((endpoint, dials));
        Ok(())
    };
    let mut world = World::start(attempt.folder, ONE_POP, hub, before).await?;
    drop(flood);
    world.network.hub().with(|hub| hub.darken_way(POP_A, CLIENT, false));
    world.client(0).await?.download(attempt.bytes(MB)).await?;
    let captures = world.network.stop()?;
    let trace = Trace::read(captures.get(gateway).ok_or("no capture")?, TUNNEL_PORT, &KeyLog::default())?;
    let tokens: Vec<_> = trace.of(Sender::Server, Kind::Retry).map(|packet| &packet.token).collect();
    if tokens.is_empty() {
        return Err("the gateway was not asked to retry".into());
    }
    let returned = trace.of(Sender::Client, Kind::Initial).filter(|packet| tokens.contains(&&packet.token)).count();
    if returned == 0 {
        return Err("no Initial has the token of a Retry".into());
    }
    Ok(format!("{} asked", tokens.len()))
}
