//! Paths that go dark, lose packets, or flap: through a relay between gateways and a PoP.

use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use trunkline::clock;

use crate::chain::{eventually, metric, status_and_body};
use crate::client::{Client, Protocol};
use crate::cluster::{Cluster, Plan, admin, event, told};
use crate::load::{Kind, Load};
use crate::relay::Path;

/// Lets the load run until it notices nothing any more of what happened before.
const SETTLE: Duration = Duration::from_secs(3);

/// Links that the PoP ever had.
async fn opened(cluster: &Cluster) -> f64 {
    metric(cluster.chain.admin(0), "trunkline_tunnel_links_opened_total").await
}

#[tokio::test]
async fn row_4_a_source_port_goes_dark() {
    // One link: nothing but another source port can help it.
    let mut cluster = Cluster::with(Plan { relays: 1, tunnel: "links = 1", ..Plan::new(1, 1) }).await;
    let load = Load::start(&cluster);
    load.warm().await;
    let before = opened(&cluster).await;
    let relay = &cluster.relays[0][0];
    relay.set_port(relay.busiest(), Path::DARK);
    load.run(SETTLE).await;
    let after = opened(&cluster).await;
    let done = load.finish().await;
    done.report("4 a source port black-holed, one link", &mut cluster).await;
    done.assert_flawless();
    assert!(event(&cluster.gateways[0], "rebind").await >= 1.0, "it moved to another port");
    assert_eq!((before, after), (1.0, 1.0), "the same connection");
}

#[tokio::test]
async fn row_5_a_whole_path_goes_dark_while_another_lives() {
    let mut cluster = Cluster::with(Plan { relays: 2, ..Plan::new(1, 1) }).await;
    let load = Load::start(&cluster);
    load.warm().await;
    cluster.relays[0][0].set(Path::DARK);
    load.run(SETTLE).await;
    cluster.relays[0][0].set(Path::default());
    cluster.until_linked().await;
    let done = load.finish().await;
    done.report("5 one of two paths to the same PoP black-holed for 3 s", &mut cluster).await;
    done.assert_flawless();
}

/// Short requests one after the other, over some connections, until it is dropped. The upstream takes its time, so that no
/// path is so much quicker that the other one gets none.
async fn trickle(cluster: &Cluster) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for _ in 0..24 {
        let mut client = Client::connect(&cluster.chain, Protocol::Http2).await;
        clients.spawn(async move {
            loop {
                assert_eq!(client.get("/slow?delay=50&chunks=1").await.status, 200);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }
    clients
}

#[tokio::test]
async fn short_requests_and_answers_leave_twice_where_packets_are_lost() {
    let cluster = Cluster::with(Plan { relays: 1, ..Plan::new(1, 1) }).await;
    let _trickle = trickle(&cluster).await;
    cluster.relays[0][0].set(Path::lossy(30, 30).slow(Duration::from_millis(20)));
    for (end, address) in [("PoP", cluster.chain.admin(0)), ("gateway", admin(&cluster.gateways[0]))] {
        eventually(&format!("copies of the {end}"), async || {
            (metric(address, "trunkline_tunnel_copies_total").await >= 100.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn row_13_loss_in_one_direction_is_noticed_at_the_other_end() {
    for (direction, path) in [("from", Path::lossy(100, 0)), ("to", Path::lossy(0, 100))] {
        let mut cluster = Cluster::with(Plan { relays: 2, ..Plan::new(1, 1) }).await;
        // No bursts, which a small socket buffer would lose: what is told of is this loss.
        let trickle = trickle(&cluster).await;
        let relay = &cluster.relays[0][0];
        let ip = relay.address.ip().to_string();
        let passes_it = |tunnel: &&Value| tunnel["address"].as_str().is_some_and(|address| address.starts_with(&ip));
        eventually("nothing is lost yet", async || {
            let quiet = |tunnel: &Value| tunnel["lost_permille"].as_u64() < Some(10);
            tunnels(&cluster).await.iter().all(quiet).then_some(())
        })
        .await;
        relay.set(path);
        let (since, began) = (clock::wall(), clock::now());
        // The PoP counts what it sends itself; of what comes it learns from the gateway's reports.
        let why = eventually("the PoP knows, and in which direction", async || {
            let tunnels = tunnels(&cluster).await;
            let links: Vec<_> = tunnels.iter().filter(passes_it).map(|tunnel| &tunnel["link"]).collect();
            let told = told(&cluster.chain.edges[0], "loss", since);
            let of_it = told.iter().filter(|told| links.contains(&&told["from"]));
            let mut whys = of_it.filter_map(|told| told["why"].as_str());
            whys.find(|why| why.ends_with(&format!("{direction} it"))).map(str::to_owned)
        })
        .await;
        println!(
            "| 13 10 % loss {direction} the gateway | the PoP knows after {} ms: {why} |",
            began.elapsed().as_millis()
        );
        drop(trickle);
        let load = Load::start(&cluster);
        load.warm().await;
        load.run(SETTLE).await;
        let done = load.finish().await;
        done.report(&format!("13 10 % loss {direction} the gateway on one of two paths"), &mut cluster).await;
        done.assert_flawless();
    }
}

#[tokio::test]
#[ignore = "make outages"]
async fn row_11_a_path_flaps_for_a_minute() {
    let mut cluster = Cluster::with(Plan { relays: 2, ..Plan::new(1, 1) }).await;
    let load = Load::start(&cluster);
    load.warm().await;
    let (mut moves, mut moved, mut last) = (0, 0.0, clock::now());
    let start = clock::now();
    while start.elapsed() < Duration::from_secs(60) {
        let is_up = start.elapsed().as_secs().is_multiple_of(2);
        cluster.relays[0][0].set(if is_up { Path::default() } else { Path::DARK });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut now = 0.0;
        for event in ["resume", "replay", "hedge"] {
            now += cluster.events(event).await;
        }
        if now > moved {
            // What moves within the same second is one switch.
            moves += u32::from(last.elapsed() > Duration::from_millis(900));
            (moved, last) = (now, clock::now());
        }
    }
    cluster.relays[0][0].set(Path::default());
    let done = load.finish().await;
    let extra = cluster.events("replay").await + cluster.events("hedge").await;
    done.report("11 one of two paths is up and down for a second each, for a minute", &mut cluster).await;
    println!("| 11 | work moved {moves} times | {extra} extra attempts of {} |", done.outcomes.len());
    done.assert_flawless();
    assert!(moves <= 12, "it follows the path up and down: {moves}");
    assert!(extra * 20.0 <= number(done.outcomes.len()), "{extra} extra attempts");
}

#[tokio::test]
#[ignore = "make outages"]
async fn row_12_one_of_two_paths_loses_packets() {
    const WAY: Duration = Duration::from_millis(20);
    let mut cluster = Cluster::with(Plan { relays: 2, ..Plan::new(1, 1) }).await;
    let load = Load::start(&cluster);
    load.warm().await;
    cluster.relays[0].iter().for_each(|relay| relay.set(Path::default().slow(WAY)));
    load.run(SETTLE).await;
    let mut since = vec![clock::now()];
    for permille in [10, 50] {
        load.run(Duration::from_secs(10)).await;
        cluster.relays[0][0].set(Path::lossy(permille, permille).slow(WAY));
        load.run(SETTLE).await;
        since.push(clock::now());
    }
    load.run(Duration::from_secs(10)).await;
    let done = load.finish().await;
    let p99: Vec<u128> = since
        .iter()
        .map(|since| {
            let until = *since + Duration::from_secs(10);
            let gets = done.outcomes.iter().filter(|o| o.kind == Kind::Get && o.began >= *since && o.began < until);
            let mut times: Vec<_> = gets.map(|outcome| (outcome.ended - outcome.began).as_millis()).collect();
            times.sort_unstable();
            times[times.len() * 99 / 100]
        })
        .collect();
    println!(
        "| 12 loss on one of two paths, 40 ms | p99 of short GETs: clean {} ms, 1 % {} ms, 5 % {} ms |",
        p99[0], p99[1], p99[2]
    );
    done.report("12 1 % and 5 % loss on one of two paths, 40 ms", &mut cluster).await;
    done.assert_flawless();
}

/// The PoP's tunnels as it shows them.
async fn tunnels(cluster: &Cluster) -> Vec<Value> {
    let (_, status) = status_and_body(cluster.chain.admin(0), "/status").await;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    status["tunnels"].as_array().expect("tunnels").clone()
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("few"))
}
