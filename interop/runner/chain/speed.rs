//! How fast the chain is on slow and lossy links, beside what it is compared with.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use trunkline::clock;

use super::client::Client;
use super::world::{
    CLIENT, CLIENTS_PORT, HOST, POP_A, Size, TUNNEL_PORT, UPSTREAM, World, certificates, eventually, upstream,
};
use super::{Links, Try};
use crate::Outcome;
use crate::net::Network;
use crate::net::hub::{Hub, ipv4};
use crate::peers::{debian, source};
use crate::process::Process;

const MB: u64 = 1 << 20;
/// Small requests, and the pause between two.
const SMALL: u32 = 200;
const PACE: Duration = Duration::from_millis(20);
/// One tunnel of one link.
const ONE_TUNNEL: Size = Size { pops: 1, links: 1, together: false, wanted: 1, preferred: false };

/// Bits per second of one download.
async fn rate(attempt: &Try<'_>, folder: &str, together: bool) -> Outcome<f64> {
    let size = Size { together, ..Size::default() };
    let world = World::start(&attempt.folder.join(folder), size, attempt.hub(size), async |_| Ok(())).await?;
    let client = world.client(0).await?;
    client.download(1_000).await?;
    let (length, began) = (attempt.bytes(16 * MB), clock::now());
    client.download(length).await?;
    Ok((8 * length) as f64 / (clock::now() - began).as_secs_f64())
}

/// One download through the chain, both of its links like the client's, against one where the gateway is at the PoP.
pub async fn goodput(attempt: &Try<'_>) -> Outcome<String> {
    let direct = rate(attempt, "direct", true).await?;
    let chain = rate(attempt, "chain", false).await?;
    let megabits = |rate: f64| rate / 1e6;
    Ok(format!("{:.1} of {:.1} Mbit/s direct ({:.2})", megabits(chain), megabits(direct), chain / direct))
}

/// Median and 99th percentile of small requests while a large one runs all the time.
async fn small_latencies(client: &Client) -> Outcome<[Duration; 2]> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut large = JoinSet::new();
    let (busy, stopped) = (client.clone(), stop.clone());
    large.spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            busy.download(8 * MB).await?;
        }
        Outcome::Ok(())
    });
    eventually("the large download runs", async || Ok(client.got() > MB / 4)).await?;
    let mut small = JoinSet::new();
    for number in 0..SMALL {
        let client = client.clone();
        small.spawn(async move {
            tokio::time::sleep(number * PACE).await;
            let began = clock::now();
            client.download(1_000).await?;
            Outcome::Ok(clock::now() - began)
        });
    }
    let mut times = Vec::new();
    while let Some(time) = small.join_next().await {
        times.push(time??);
    }
    stop.store(true, Ordering::Relaxed);
    large.abort_all();
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    Ok([at(50), at(99)])
}

/// The client's own link is good in both; only the tunnel's has what the case is about.
fn hub(attempt: &Try<'_>) -> Hub {
    let tunnel = |from, to| from != CLIENT && to != CLIENT;
    Hub::new(ONE_TUNNEL.ends(), attempt.seed, |from, to| {
        if tunnel(from, to) { attempt.links } else { Links::Good }.direction()
    })
}

/// Small requests beside a large one, all through one tunnel: ours, against HTTP/2 over TCP (HAProxy's reverse HTTP).
pub async fn small_beside_large(attempt: &Try<'_>) -> Outcome<String> {
    let ours = {
        let world = World::start(&attempt.folder.join("ours"), ONE_TUNNEL, hub(attempt), async |_| Ok(())).await?;
        small_latencies(&world.client(0).await?).await?
    };
    let theirs = haproxy(attempt).await?;
    let words = |[median, late]: [Duration; 2]| format!("{} / {} ms", median.as_millis(), late.as_millis());
    Ok(format!("p50 / p99 {}, HAProxy rhttp {}", words(ours), words(theirs)))
}

async fn haproxy(attempt: &Try<'_>) -> Outcome<[Duration; 2]> {
    let folder = attempt.folder.join("haproxy");
    fs::create_dir_all(&folder)?;
    certificates(&folder, ONE_TUNNEL)?;
    for name in ["site", "pop-a", "gw-1"] {
        let part = |end: &str| fs::read(folder.join(name).with_extension(end));
        fs::write(folder.join(format!("{name}.both.pem")), [part("pem")?, part("key")?].concat())?;
    }
    let names = ONE_TUNNEL.names();
    let network = Network::start(&names.iter().map(String::as_str).collect::<Vec<_>>(), hub(attempt), &folder)?;
    let gateway = network.end(ONE_TUNNEL.gateway())?;
    let _upstream = upstream(&folder, gateway)?;
    let start = |config: &str, end| -> Outcome<Process> {
        let text = fs::read_to_string(source("benches/peers/haproxy").join(config))?;
        let both = |name: &str| folder.join(format!("{name}.both.pem")).display().to_string();
        let text = text
            .replace("@ADDRESS@", &format!("{}:{CLIENTS_PORT}", ipv4(POP_A)))
            .replace("@TUNNEL@", &format!("{}:{TUNNEL_PORT}", ipv4(POP_A)))
            .replace("@UPSTREAM@", UPSTREAM)
            .replace("@SITE@", &both("site"))
            .replace("@POP@", &both("pop-a"))
            .replace("@GATEWAY@", &both("gw-1"))
            .replace("@TUNNEL_CA@", &folder.join("tunnel-ca.pem").display().to_string())
            .replace("@BUFFER@", "16384")
            .replace("nbconn 2", "nbconn 1");
        let file = folder.join(config);
        fs::write(&file, text)?;
        let mut command = Command::new(debian("haproxy")?);
        command.arg("-db").arg("-f").arg(file);
        Process::start(command, Some(end), &folder.join(config))
    };
    let _edge = start("edge.cfg", network.end(POP_A)?)?;
    let _origin = start("origin.cfg", gateway)?;
    let address = SocketAddr::new(ipv4(POP_A).into(), CLIENTS_PORT);
    let ca = folder.join("site-ca.pem");
    let mut client = None;
    eventually("HAProxy's chain", async || {
        let socket = network.end(CLIENT)?.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        let connecting = Client::connect(socket, address, HOST, &ca);
        client = tokio::time::timeout(Duration::from_secs(2), connecting).await.ok().and_then(Result::ok);
        let Some(client) = &client else { return Ok(false) };
        Ok(client.download(1_000).await.is_ok())
    })
    .await?;
    small_latencies(&client.ok_or("no client")?).await
}
