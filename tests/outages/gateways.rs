//! Gateways that die, stop, and come back.

use std::time::Duration;

use serde_json::Value;
use trunkline::clock;
use trunkline::dev::upstream::pattern_fill;

use crate::chain::{eventually, in_time, metric, status_and_body};
use crate::client::{ALL, Client, Protocol};
use crate::cluster::{Cluster, event};
use crate::load::{Kind, Load};

/// What begins within this of an outage may meet it.
const SOON: Duration = Duration::from_millis(500);

#[tokio::test]
async fn row_1_a_gateway_is_killed() {
    let mut cluster = Cluster::start(2, 2).await;
    let load = Load::start(&cluster);
    load.warm().await;
    load.run(Duration::from_secs(2)).await;
    let killed = clock::now();
    cluster.kill(0).await;
    load.run(Duration::from_secs(3)).await;
    let restarted = clock::now();
    cluster.restart(0).await;
    let ready = restarted.elapsed();
    cluster.until_linked().await;
    let linked = restarted.elapsed();
    load.run(Duration::from_secs(1)).await;
    let done = load.finish().await;
    done.report("1 kill -9 of a gateway", &mut cluster).await;
    let slowest = |from, to| done.slowest_begun(Kind::Get, |began| began >= from && began < to).as_millis();
    let (start, end) = (killed - Duration::from_secs(2), killed + Duration::from_secs(3));
    println!(
        "| 1 | slowest GET: {} ms of those begun in the 2 s before, {} ms in the second around the kill, {} ms in the 2 s behind, {} ms \
         around the restart | restarted: ready after {} ms, all links after {} ms |",
        slowest(start, killed - SOON),
        slowest(killed - SOON, killed + SOON),
        slowest(killed + SOON, end),
        slowest(end, end + Duration::from_secs(60)),
        ready.as_millis(),
        linked.as_millis()
    );
    done.assert_idempotent();
}

#[tokio::test]
#[ignore = "make outages"]
async fn row_1b_all_gateways_are_killed_and_come_back() {
    let mut cluster = Cluster::start(2, 2).await;
    let load = Load::start(&cluster);
    load.warm().await;
    cluster.kill(0).await;
    cluster.kill(1).await;
    cluster.restart(0).await;
    cluster.restart(1).await;
    load.run(Duration::from_secs(3)).await;
    let done = load.finish().await;
    done.report("1b kill -9 of all gateways, restarted at once", &mut cluster).await;
    done.assert_idempotent();
}

async fn stopped(time: Duration) -> (Cluster, crate::load::Finished) {
    let cluster = Cluster::start(2, 2).await;
    let load = Load::start(&cluster);
    load.warm().await;
    cluster.gateways[0].signal(libc::SIGSTOP);
    tokio::time::sleep(time).await;
    cluster.gateways[0].signal(libc::SIGCONT);
    load.run(Duration::from_secs(2)).await;
    (cluster, load.finish().await)
}

#[tokio::test]
#[ignore = "make outages"]
async fn row_3_a_gateway_stops_for_a_moment() {
    for millis in [200, 500] {
        let (mut cluster, done) = stopped(Duration::from_millis(millis)).await;
        done.report(&format!("3 SIGSTOP of a gateway, {millis} ms"), &mut cluster).await;
        done.assert_flawless();
        assert_eq!(cluster.events("verdict").await, 0.0, "no verdict up to half a second");
    }
}

#[tokio::test]
#[ignore = "make outages"]
async fn row_3b_a_gateway_stops_for_five_seconds() {
    let (mut cluster, done) = stopped(Duration::from_secs(5)).await;
    done.report("3 SIGSTOP of a gateway, 5 s", &mut cluster).await;
    done.assert_flawless();
}

#[tokio::test]
#[ignore = "make outages"]
async fn row_3e_a_gateway_stops_for_ever() {
    let mut cluster = Cluster::start(2, 2).await;
    let load = Load::start(&cluster);
    load.warm().await;
    cluster.gateways[0].signal(libc::SIGSTOP);
    let stopped = clock::now();
    for pop in 0..2 {
        eventually("the PoPs give it up", async || {
            (metric(cluster.chain.admin(pop), "trunkline_tunnel_links").await == 2.0).then_some(())
        })
        .await;
    }
    println!("| 3 SIGSTOP of a gateway, for ever | given up by both PoPs after {} ms |", stopped.elapsed().as_millis());
    load.run(Duration::from_secs(2)).await;
    let done = load.finish().await;
    cluster.kill(0).await;
    done.report("3 SIGSTOP of a gateway, for ever", &mut cluster).await;
    done.assert_idempotent();
}

#[tokio::test]
async fn row_10_a_gateway_is_killed_in_the_middle_of_a_download() {
    const LENGTH: usize = 128 << 20;
    // Whole, and the rest of one that the client has begun before.
    for (protocol, first) in [(Protocol::Http2, 0), (Protocol::Http3, 0), (Protocol::Http3, 1_000)] {
        let mut cluster = Cluster::start(1, 2).await;
        let path = format!("/bytes/{LENGTH}");
        cluster.until_idle().await;
        let mut client = Client::connect(&cluster.chain, protocol).await;
        let mut request = client.request("GET", &path);
        if first > 0 {
            request.headers_mut().insert("range", format!("bytes={first}-").parse().expect("a value"));
        }
        let response = client.stream(request).await.expect("head");
        assert_eq!(response.status(), if first > 0 { 206 } else { 200 });
        let (mut body, mut at) = (response.into_body(), first);
        let mut expected = Vec::new();
        let (mut killed, mut at_kill) = (false, 0);
        while let Some(frame) = in_time("data", body.frame()).await {
            let data = frame.unwrap_or_else(|error| panic!("{protocol:?} at {at}: {error}")).into_data().expect("data");
            expected.resize(data.len(), 0);
            pattern_fill(at as u64, &mut expected);
            assert!(data == expected, "{protocol:?}: wrong bytes at {at}");
            at += data.len();
            if at >= LENGTH / 2 && !killed {
                (killed, at_kill) = (true, at);
                cluster.kill_carrier().await;
            }
        }
        assert_eq!(at, LENGTH, "{protocol:?}: whole");
        let log = cluster.chain.upstream.log(&path).await;
        let sent: u64 = log.iter().filter_map(|entry| entry["sent"].as_u64()).sum();
        let continued = event(&cluster.chain.edges[0], "continuation").await;
        let (_, status) = status_and_body(cluster.chain.admin(0), "/status").await;
        let status: Value = serde_json::from_str(&status).expect("JSON");
        let mut told = status["events"].as_array().expect("events").iter().filter(|e| e["event"] == "continuation");
        let why = told.next().and_then(|told| told["why"].as_str()).unwrap_or_default();
        let from: usize = first + why.split(' ').find_map(|word| word.parse::<usize>().ok()).expect("from byte N on");
        assert!(from >= at_kill, "asked from {from}, but the client had {at_kill} before");
        println!(
            "| 10 gateway killed at 50 % of 128 MiB from byte {first} on, {protocol:?} | {} requests upstream | {} KiB that the dead \
             gateway had read ahead | continued {continued}, the first time {} KiB behind what the client had at the kill |",
            log.len(),
            (sent + first as u64).saturating_sub(LENGTH as u64) >> 10,
            (from - at_kill) >> 10
        );
        // A busy machine may make the second gateway look dead for a moment: it is continued once more then.
        assert!(continued >= 1.0 && (2..=3).contains(&log.len()), "{log:?}");
    }
}

#[tokio::test]
async fn row_10b_a_download_that_changed_meanwhile_is_reset_and_never_ends_short() {
    const LENGTH: usize = 64 << 20;
    for protocol in ALL {
        let mut cluster = Cluster::start(1, 2).await;
        let file = cluster.chain.folder().join("changing.bin");
        std::fs::write(&file, vec![b'a'; LENGTH]).expect("a file");
        cluster.until_idle().await;
        let mut client = Client::connect(&cluster.chain, protocol).await;
        let request = client.request("GET", "/changing.bin");
        let response = client.stream(request).await.expect("head");
        assert_eq!(response.status(), 200);
        let (mut body, mut at, mut failed) = (response.into_body(), 0, false);
        let mut killed = false;
        while let Some(frame) = in_time("data", body.frame()).await {
            let Ok(frame) = frame else {
                failed = true;
                break;
            };
            let data = frame.into_data().expect("data");
            assert!(data.iter().all(|byte| *byte == b'a'), "{protocol:?}: bytes of both versions");
            at += data.len();
            if at >= LENGTH / 4 && !killed {
                killed = true;
                let new = cluster.chain.folder().join("new.bin");
                std::fs::write(&new, vec![b'b'; LENGTH + 1]).expect("a file");
                std::fs::rename(&new, &file).expect("a new version");
                cluster.kill_carrier().await;
            }
        }
        assert!(failed, "{protocol:?}: a clean end after {at} of {LENGTH} bytes");
        println!("| 10 changed meanwhile, {protocol:?} | reset after {} MiB of 64 |", at >> 20);
        let mut again = Client::connect(&cluster.chain, protocol).await;
        assert_eq!(again.get("/status/204").await.status, 204);
    }
}
