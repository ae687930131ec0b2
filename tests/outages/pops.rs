//! PoPs that die, stop, and come back.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use trunkline::clock;

use crate::chain::{HOST, in_time};
use crate::client::{Client, Protocol, tls};
use crate::cluster::Cluster;
use crate::load::{Kind, Load};

const ALL: [Kind; 4] = [Kind::Get, Kind::Post, Kind::Download, Kind::Upload];

/// A QUIC connection with nothing on it.
async fn quic(cluster: &Cluster, pop: usize) -> (quinn::Endpoint, quinn::Connection) {
    let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
    let tls = QuicClientConfig::try_from(tls::config(&cluster.chain.site_ca(), b"h3")).expect("TLS");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let connecting = endpoint.connect(cluster.chain.http3(pop), HOST).expect("an address");
    let connection = in_time("QUIC", connecting).await.expect("a connection");
    (endpoint, connection)
}

#[tokio::test]
async fn row_2_a_pop_is_killed_and_started_again() {
    let mut cluster = Cluster::start(2, 2).await;
    let (_endpoint, old) = quic(&cluster, 0).await;
    let load = Load::start(&cluster);
    load.warm().await;
    cluster.chain.edges[0].signal(libc::SIGKILL);
    cluster.chain.edges[0].ended().await;
    let killed = clock::now();
    cluster.chain.restart_edge(0).await;
    // The client's next packet meets a process that does not know it.
    let restarted = clock::now();
    let mut stream = old.open_uni().await.expect("a stream");
    stream.write_all(b"\x21").await.expect("room");
    let reason = in_time("the end of an old connection", old.closed()).await;
    let reset = restarted.elapsed();
    let mut fresh = Client::connect_to(&cluster.chain, Protocol::Http3, 0).await;
    cluster.chain.until_served(0).await;
    assert_eq!(fresh.get("/status/204").await.status, 204);
    let served = killed.elapsed();
    load.run(Duration::from_secs(2)).await;
    let done = load.finish().await;
    println!(
        "| 2 old QUIC client of a killed PoP | reset ({reason}) {} ms after the restart | served again {} ms after the kill |",
        reset.as_millis(),
        served.as_millis()
    );
    done.report("2 kill -9 of a PoP and restart", &mut cluster).await;
    assert_eq!(done.failed(&ALL, |pop| pop == 1), Vec::<String>::new(), "clients of the other PoP");
    assert_eq!(reason, quinn::ConnectionError::Reset);
}

#[tokio::test]
#[ignore = "make outages"]
async fn row_3c_a_pop_stops_for_a_moment() {
    for millis in [200, 500, 2_000] {
        let mut cluster = Cluster::start(2, 2).await;
        let load = Load::start(&cluster);
        load.warm().await;
        cluster.chain.edges[0].signal(libc::SIGSTOP);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        cluster.chain.edges[0].signal(libc::SIGCONT);
        load.run(Duration::from_secs(2)).await;
        let done = load.finish().await;
        done.report(&format!("3 SIGSTOP of a PoP, {millis} ms"), &mut cluster).await;
        done.assert_flawless();
    }
}
