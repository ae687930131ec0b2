//! A thousand clients at once, each of them slow.

use tokio::task::JoinSet;

use crate::chain::{Chain, DEADLINE, Setup, memory_peak};
use crate::client::{Client, Protocol, collect};

const CLIENTS: usize = 1_000;
/// Per process, with a thousand connections: 256 KiB each would already be above it.
const MEMORY_MAX: u64 = 256 << 20;

#[tokio::test]
async fn a_thousand_slow_clients_are_served_together() {
    // A connection to the upstream for each: by default three quarters of them would wait for one.
    let origin_tables = "[service.limits]\nconnections_max = 1000\n";
    let chain = std::sync::Arc::new(Chain::with(Setup { origin_tables, ..Setup::default() }).await);
    let connected = std::sync::Arc::new(tokio::sync::Barrier::new(CLIENTS));
    // Handshakes are the client's work too: a few at a time.
    let handshakes = std::sync::Arc::new(tokio::sync::Semaphore::new(16));
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let (chain, connected, handshakes) = (chain.clone(), connected.clone(), handshakes.clone());
        clients.spawn(async move {
            let protocol = [Protocol::Http3, Protocol::Http3, Protocol::Http2, Protocol::Http1][n % 4];
            let mut client = {
                let _permit = handshakes.acquire().await.expect("open");
                tokio::time::timeout(DEADLINE * 4, Client::try_connect(&chain, protocol, 0)).await.expect("in time")
            }
            .expect("connect");
            // Nobody starts before everybody is there.
            connected.wait().await;
            let request = client.request("GET", "/slow?delay=200&chunk=100&chunks=10&interval=100");
            let response = client.stream(request).await.expect("head");
            collect(response).await.expect("whole").body.len()
        });
    }
    let mut served = 0;
    while let Some(length) = clients.join_next().await {
        assert_eq!(length.expect("no panic"), 1_000);
        served += 1;
    }
    assert_eq!(served, CLIENTS);
    for child in [&chain.edges[0], chain.origin()] {
        let peak = memory_peak(child);
        println!("{}: {} MiB at most", child.name, peak >> 20);
        assert!(peak < MEMORY_MAX, "{} had {} MiB", child.name, peak >> 20);
    }
}
