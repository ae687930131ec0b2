//! Clients that hold much and take little.

use std::time::Duration;

use trunkline::clock;

use crate::chain::memory_peak;
use crate::client::{Client, MULTIPLEXED, Protocol};
use crate::cluster::Cluster;

/// Streams that a slow client holds open, if the edge lets it.
const STREAMS: usize = 1_000;
/// Most memory that an edge and a gateway may have used then.
const MEMORY_MAX: u64 = 1 << 30;

/// The 99th percentile of short requests, by another client.
async fn p99(cluster: &Cluster) -> Duration {
    let mut client = Client::connect(&cluster.chain, Protocol::Http3).await;
    let mut times = Vec::new();
    for _ in 0..200 {
        let asked = clock::now();
        assert_eq!(client.get("/bytes/2000").await.body.len(), 2_000);
        times.push(asked.elapsed());
    }
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

#[tokio::test]
#[ignore = "make outages"]
async fn row_20_a_client_that_reads_nothing_of_many_streams_harms_no_other() {
    for protocol in MULTIPLEXED {
        let cluster = Cluster::start(1, 2).await;
        let without = p99(&cluster).await;
        let before = memory_peak(&cluster.chain.edges[0]);
        let mut slow = Client::connect(&cluster.chain, protocol).await;
        let mut held = Vec::new();
        while held.len() < STREAMS {
            let request = slow.request("GET", "/bytes/100000000");
            // The edge lets a client have only so many at once.
            match tokio::time::timeout(Duration::from_secs(1), slow.stream(request)).await {
                Ok(Ok(response)) => held.push(response),
                Ok(Err(error)) => {
                    println!("    stream {}: {error}", held.len());
                    break;
                }
                Err(_) => break,
            }
        }
        let with = p99(&cluster).await;
        let peak = memory_peak(&cluster.chain.edges[0]).max(memory_peak(&cluster.gateways[0]));
        println!(
            "| 20 one client holds {} streams, {protocol:?} | others' p99 {} us, {} us without | peak {} MiB, {} before |",
            held.len(),
            with.as_micros(),
            without.as_micros(),
            peak >> 20,
            before >> 20
        );
        assert!(held.len() >= 50, "{protocol:?}: {} streams", held.len());
        assert!(peak < MEMORY_MAX, "{protocol:?}: {} MiB", peak >> 20);
    }
}
