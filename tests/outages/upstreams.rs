//! Upstreams that die, refuse or dawdle.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use trunkline::clock;

use crate::client::{Client, MULTIPLEXED, Protocol};
use crate::cluster::{Cluster, Plan};
use crate::load::{Kind, Load};

#[tokio::test]
async fn row_9_the_upstream_behind_a_gateway_dies() {
    let mut cluster = Cluster::with(Plan { apart: true, ..Plan::new(1, 2) }).await;
    let load = Load::start(&cluster);
    load.warm().await;
    let killed = clock::now();
    cluster.more[0].signal(libc::SIGKILL);
    cluster.more[0].ended().await;
    let dead = clock::now();
    load.run(Duration::from_secs(2)).await;
    let done = load.finish().await;
    done.report("9 crash of the upstream behind one of two gateways", &mut cluster).await;
    assert_eq!(done.failed(&[Kind::Get], |_| true), Vec::<String>::new());
    // What the dead upstream had begun to answer or to execute is lost with it, and so may be a POST that met a pooled
    // connection in its last moment; nothing that came later may be.
    let noticed = dead + Duration::from_millis(100);
    let late: Vec<_> = done.outcomes.iter().filter(|o| o.failure.is_some() && o.began > noticed).collect();
    assert!(late.is_empty(), "killed {:?} ago: {late:?}", killed.elapsed());

    cluster.chain.upstream.child.signal(libc::SIGKILL);
    cluster.chain.upstream.child.ended().await;
    for protocol in MULTIPLEXED {
        let mut client = Client::connect(&cluster.chain, protocol).await;
        for method in ["GET", "POST"] {
            let request = client.request(method, "/bytes/10");
            let asked = clock::now();
            let answer = client.send(request, Bytes::new()).await.expect("an answer");
            println!(
                "| 9 no upstream at all, {protocol:?} {method} | {} in {} ms | {} |",
                answer.status,
                asked.elapsed().as_millis(),
                answer.field("proxy-status")
            );
            assert!(matches!(answer.status, 502 | 503), "{answer:?}");
            assert!(answer.field("proxy-status").contains("error="), "{answer:?}");
            assert!(asked.elapsed() < Duration::from_secs(2), "quickly");
        }
    }
}

/// Sends `count` requests, a few at a time, and answers the statuses.
async fn many(cluster: &Cluster, path: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    let mut client = Client::connect(&cluster.chain, Protocol::Http3).await;
    for chunk in 0..count / 10 {
        let mut requests = JoinSet::new();
        for number in 0..10 {
            let request = client.request("GET", &format!("{path}&n={}", chunk * 10 + number));
            let mut exchange = client.open(request).await.expect("open");
            exchange.upload.finish().await.expect("end");
            requests.spawn(async move { exchange.response().await.expect("an answer").status().as_u16() });
        }
        while let Some(status) = requests.join_next().await {
            statuses.push(status.expect("an answer"));
        }
    }
    statuses
}

#[tokio::test]
#[ignore = "make outages"]
async fn row_17_gateways_that_all_refuse_or_dawdle_are_not_asked_more_often() {
    let cluster = Cluster::start(1, 2).await;
    for (what, path, count, status) in
        [("answer 503", "/status/503?", 200, 503), ("answer after 2 s", "/slow?delay=2000&chunks=1", 50, 200)]
    {
        let statuses = many(&cluster, path, count).await;
        assert!(statuses.iter().all(|got| *got == status), "{statuses:?}");
        let attempts = cluster.chain.upstream.log(&path.replace('&', "%26")).await.len();
        let attempts = attempts.max(cluster.chain.upstream.log(path.split('?').next().unwrap_or(path)).await.len());
        println!("| 17 all gateways {what} | {count} requests | {attempts} attempts |");
        assert!(attempts >= count && attempts * 10 <= count * 11, "{attempts} attempts of {count} requests");
    }
}
