//! Several PoPs, and PoPs that vanish.

use bytes::Bytes;
use serde_json::Value;

use crate::chain::{Chain, Setup, eventually, status_and_body};
use crate::client::{ALL, Client, Protocol};

#[tokio::test]
async fn every_pop_serves() {
    let chain = Chain::with(Setup { pops: 2, ..Setup::default() }).await;
    for (edge, name) in [(0, "pop-a"), (1, "pop-b")] {
        for protocol in ALL {
            let mut client = Client::connect_to(&chain, protocol, edge).await;
            let answer = client.get("/bytes/100000").await;
            assert_eq!((answer.status, answer.body.len()), (200, 100_000));
            assert!(answer.field("via").contains(name), "{protocol:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_pop_that_is_killed_does_not_disturb_the_other() {
    let mut chain = Chain::with(Setup { pops: 2, ..Setup::default() }).await;
    let mut client = Client::connect_to(&chain, Protocol::Http3, 0).await;
    let request = client.request("GET", "/slow?delay=0&chunk=100&chunks=40&interval=50");
    let response = client.stream(request).await.expect("head");
    chain.edges[1].signal(libc::SIGKILL);
    chain.edges[1].ended().await;
    let answer = crate::client::collect(response).await.expect("whole");
    assert_eq!(answer.body.len(), 4_000);
    assert_eq!(client.get("/status/204").await.status, 204);
}

#[tokio::test]
async fn a_pop_that_comes_back_is_dialled_again() {
    let mut chain = Chain::start().await;
    for _ in 0..2 {
        chain.edges[0].signal(libc::SIGKILL);
        chain.edges[0].ended().await;
        chain.restart_edge(0).await;
        chain.until_served(0).await;
    }
    let mut client = Client::connect(&chain, Protocol::Http3).await;
    assert_eq!(client.get("/echo").await.status, 200);
}

#[tokio::test]
async fn each_worker_of_a_pop_has_a_link_of_its_own() {
    // By chance this would be so every second time.
    for _ in 0..6 {
        let chain = Chain::with(Setup { edge_top: "workers = 2\n", ..Setup::default() }).await;
        let workers = eventually("two links", async || {
            let (_, status) = status_and_body(chain.admin(0), "/status").await;
            let status: Value = serde_json::from_str(&status).expect("JSON");
            let workers = status["tunnels"].as_array().expect("tunnels").iter().map(|t| t["worker"].as_u64());
            let workers: Vec<_> = workers.map(|worker| worker.expect("a number")).collect();
            (workers.len() == 2).then_some(workers)
        })
        .await;
        assert_ne!(workers[0], workers[1]);
    }
}

#[tokio::test]
async fn a_gateway_that_vanishes_is_noticed() {
    let mut chain = Chain::start().await;
    let mut client = Client::connect(&chain, Protocol::Http3).await;
    let mut origin = chain.origin.take().expect("an origin");
    origin.signal(libc::SIGKILL);
    origin.ended().await;
    let status = eventually("503 instead of waiting for a dead gateway", async || {
        let request = client.request("GET", "/status/204");
        let answer = client.send(request, Bytes::new()).await.expect("answer");
        (answer.status != 502 && answer.status != 504).then_some(answer.status)
    })
    .await;
    assert_eq!(status, 503);
}
