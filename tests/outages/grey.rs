//! Gateways that are there and do not answer, or answer slowly; and hints that say so.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Protocol as Carried, Socket, Type};
use tokio::task::JoinSet;
use trunkline::clock;

use crate::chain::{eventually, in_time, metric, status_and_body};
use crate::client::{Client, Protocol};
use crate::cluster::{Cluster, Plan, admin, told};
use crate::load::{Kind, Load};

async fn status(cluster: &Cluster) -> Value {
    let (_, status) = status_and_body(cluster.chain.admin(0), "/status").await;
    serde_json::from_str(&status).expect("JSON")
}

#[tokio::test]
async fn row_14_a_gateway_heartbeats_and_does_not_answer() {
    let mut cluster = Cluster::with(Plan { apart: true, ..Plan::new(1, 2) }).await;
    let load = Load::start(&cluster);
    load.warm().await;
    let (since, began) = (clock::wall(), clock::now());
    cluster.more[0].signal(libc::SIGSTOP);
    let happens = async |name: &str, why: &str| {
        eventually(why, async || {
            let told = told(&cluster.chain.edges[0], name, since);
            let its = |told: &Value| told["from"].as_str().is_some_and(|link| link.starts_with("gw-2#"));
            told.iter().any(|told| its(told) && told["why"] == why).then(|| began.elapsed())
        })
        .await
    };
    let ejected = happens("ejection", "requests wait and none is answered").await;
    let hedged = happens("hedge", "its link answers nothing").await;
    load.run(Duration::from_secs(2)).await;
    let late = clock::now();
    load.run(Duration::from_secs(2)).await;
    cluster.more[0].signal(libc::SIGCONT);
    let done = load.finish().await;
    let after = done.outcomes.iter().filter(|o| o.kind == Kind::Get && o.began > late);
    let slowest = after.map(|o| o.ended - o.began).max().unwrap_or_default();
    done.report("14 the upstream behind one of two gateways stops answering", &mut cluster).await;
    println!(
        "| 14 | ejected after {} ms, first hedge after {} ms | slowest GET from 2 s later on {} ms |",
        ejected.as_millis(),
        hedged.as_millis(),
        slowest.as_millis()
    );
    done.assert_flawless();
}

#[tokio::test]
async fn row_14b_readiness_shows_that_the_only_gateway_does_not_answer() {
    let cluster = Cluster::start(1, 1).await;
    let mut client = Client::connect(&cluster.chain, Protocol::Http2).await;
    cluster.chain.upstream.child.signal(libc::SIGSTOP);
    let request = client.request("GET", "/bytes/1000");
    let mut asked = JoinSet::new();
    let mut exchange = client.open(request).await.expect("open");
    exchange.upload.finish().await.expect("end");
    asked.spawn(async move { exchange.response().await.expect("an answer").status().as_u16() });
    let since = clock::now();
    let reasons = eventually("readiness is red", async || {
        let (status, body) = status_and_body(cluster.chain.admin(0), "/readyz").await;
        (status == 503).then_some(body)
    })
    .await;
    println!("| 14b | readiness red after {} ms |", since.elapsed().as_millis());
    assert!(reasons.contains("tunnels_silent"), "{reasons}");
    cluster.chain.upstream.child.signal(libc::SIGCONT);
    assert_eq!(in_time("the answer", asked.join_next()).await.expect("one").expect("no panic"), 200);
    eventually("readiness is green", async || {
        (status_and_body(cluster.chain.admin(0), "/readyz").await.0 == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gateway_whose_upstream_is_saturated_says_so_and_gets_less() {
    let narrow = |gateway| if gateway == 1 { "\n[service.limits]\nconnections_max = 1\n" } else { "" };
    let cluster = Cluster::with(Plan { apart: true, service: narrow, ..Plan::new(1, 2) }).await;
    let mut clients = JoinSet::new();
    for _ in 0..12 {
        let mut client = Client::connect(&cluster.chain, Protocol::Http2).await;
        clients.spawn(async move {
            for _ in 0..25 {
                assert_eq!(client.get("/slow?delay=100&chunks=1").await.status, 200);
            }
        });
    }
    let busy = async |gateway: &str| {
        let status = status(&cluster).await;
        let tunnels = status["tunnels"].as_array().expect("tunnels");
        tunnels.iter().any(|tunnel| tunnel["gateway"] == gateway && tunnel["busy"] == true)
    };
    eventually("it is busy", async || busy("gw-2").await.then_some(())).await;
    assert!(!busy("gw-1").await, "the other one is not");
    while let Some(client) = clients.join_next().await {
        client.expect("every answer is right");
    }
    eventually("it is not busy any more", async || (!busy("gw-2").await).then_some(())).await;
    let wide = cluster.chain.upstream.log("/slow").await.len();
    println!("| LOAD | gw-1 got {wide} of 300 requests, gw-2 with one upstream connection {} |", 300 - wide);
    assert!(wide > 150, "{wide} of 300");
}

#[tokio::test]
async fn row_6_a_gateway_that_is_killed_is_unreachable_at_once() {
    let mut cluster = Cluster::start(1, 2).await;
    let load = Load::start(&cluster);
    load.warm().await;
    cluster.kill(0).await;
    let told = eventually("ICMP says so", async || {
        let status = status(&cluster).await;
        let events = status["events"].as_array().expect("events").clone();
        events.into_iter().find(|e| e["event"] == "suspicion" && e["why"].as_str().is_some_and(|w| w.contains("ICMP")))
    })
    .await;
    load.run(Duration::from_secs(2)).await;
    let done = load.finish().await;
    done.report("6 kill -9 on the same host: ICMP", &mut cluster).await;
    println!("| 6 real ICMP | suspect after {} ms of silence: {} |", told["millis"], told["why"]);
    done.assert_idempotent();
}

/// An ICMP error that says that what `from` sent to `to` met a closed port.
fn unreachable(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut icmp = vec![3, 3, 0, 0, 0, 0, 0, 0];
    icmp.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    icmp.extend(from.ip().octets());
    icmp.extend(to.ip().octets());
    icmp.extend(from.port().to_be_bytes());
    icmp.extend(to.port().to_be_bytes());
    icmp.extend([0, 8, 0, 0]);
    let sum: u32 = icmp.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16));
    icmp[2..4].copy_from_slice(&u16::try_from(sum & 0xffff).expect("16 bits").to_be_bytes());
    icmp
}

#[tokio::test]
#[ignore = "make outages: needs CAP_NET_RAW"]
async fn row_6b_forged_icmp_errors_lose_no_connection() {
    let Ok(raw) = Socket::new(Domain::IPV4, Type::RAW, Some(Carried::ICMPV4)) else {
        println!("| 6 forged ICMP | not run: no CAP_NET_RAW |");
        return;
    };
    let mut cluster = Cluster::start(1, 2).await;
    let load = Load::start(&cluster);
    load.warm().await;
    let pop: SocketAddrV4 = cluster.chain.edges[0].ready.tunnel[0].parse().expect("IPv4");
    let status = status(&cluster).await;
    let tunnels = status["tunnels"].as_array().expect("tunnels").iter();
    let gateways: Vec<SocketAddrV4> =
        tunnels.map(|tunnel| tunnel["address"].as_str().expect("text").parse().expect("IPv4")).collect();
    let opened = metric(admin(&cluster.chain.edges[0]), "trunkline_tunnel_links_opened_total").await;
    let (start, mut sent) = (clock::now(), 0u32);
    while start.elapsed() < Duration::from_secs(5) {
        // A thousand a second, to both ends of every link in turn.
        while f64::from(sent) < start.elapsed().as_secs_f64() * 1e3 {
            let gateway = gateways[sent as usize / 2 % gateways.len()];
            let (from, to) = if sent % 2 == 0 { (pop, gateway) } else { (gateway, pop) };
            let victim = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            raw.send_to(&unreachable(from, to), &victim.into()).expect("sent");
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let done = load.finish().await;
    let again = metric(admin(&cluster.chain.edges[0]), "trunkline_tunnel_links_opened_total").await;
    done.report(&format!("6 {sent} forged ICMP errors in 5 s"), &mut cluster).await;
    done.assert_flawless();
    assert_eq!((again, cluster.events("verdict").await), (opened, 0.0), "no connection was lost");
}
