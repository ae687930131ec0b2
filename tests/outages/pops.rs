//! PoPs that die, stop, and come back.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use trunkline::clock;

use crate::chain::{HOST, in_time, origin_binary};
use crate::client::{Client, Protocol};
use crate::cluster::Cluster;
use crate::load::{Kind, Load};
use crate::tickets;

const ALL: [Kind; 4] = [Kind::Get, Kind::Post, Kind::Download, Kind::Upload];

/// A QUIC client that keeps its tickets.
struct Old {
    endpoint: quinn::Endpoint,
    /// How often a server showed its certificate.
    shown: Arc<AtomicUsize>,
}

impl Old {
    fn new(cluster: &Cluster) -> Self {
        let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
        let (config, shown) = tickets::counting(&cluster.chain.site_ca(), b"h3");
        let tls = QuicClientConfig::try_from(config).expect("TLS");
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
        Self { endpoint, shown }
    }

    /// A connection with nothing on it, and how long its handshake took.
    async fn connect(&self, cluster: &Cluster, pop: usize) -> (quinn::Connection, Duration) {
        let begun = clock::now();
        let connecting = self.endpoint.connect(cluster.chain.http3(pop), HOST).expect("an address");
        (in_time("QUIC", connecting).await.expect("a connection"), begun.elapsed())
    }
}

#[tokio::test]
async fn row_2_a_pop_is_killed_and_started_again() {
    let mut cluster = Cluster::start(2, 2).await;
    let client = Old::new(&cluster);
    let (old, full) = client.connect(&cluster, 0).await;
    let load = Load::start(&cluster);
    load.warm().await;
    cluster.chain.edges[0].signal(libc::SIGKILL);
    cluster.chain.edges[0].ended().await;
    let killed = clock::now();
    // The ticket of the dead PoP is good at the next one.
    let (_next, resumed) = client.connect(&cluster, 1).await;
    assert_eq!(client.shown.load(Ordering::SeqCst), 1, "one full handshake");
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
        "| 2 old QUIC client of a killed PoP | resumed TLS at the next one in {} us, {} us without a ticket | reset ({reason}) \
         {} ms after the restart | served again {} ms after the kill |",
        resumed.as_micros(),
        full.as_micros(),
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

#[tokio::test]
#[ignore = "make outages"]
async fn row_3d_a_pop_stops_for_ever() {
    let mut cluster = Cluster::start(2, 2).await;
    let load = Load::start(&cluster);
    load.warm().await;
    cluster.chain.edges[0].signal(libc::SIGSTOP);
    let stopped = clock::now();
    for gateway in 0..2 {
        cluster.until_roles(gateway, &["Held 0", "Held 2"]).await;
    }
    println!("| 3 SIGSTOP of a PoP, for ever | given up by both gateways after {} ms |", stopped.elapsed().as_millis());
    load.run(Duration::from_secs(2)).await;
    let done = load.finish().await;
    cluster.chain.edges[0].signal(libc::SIGKILL);
    cluster.chain.edges[0].ended().await;
    done.report("3 SIGSTOP of a PoP, for ever", &mut cluster).await;
    assert_eq!(done.failed(&ALL, |pop| pop == 1), Vec::<String>::new(), "clients of the other PoP");
}

/// Runs `origin migrate` for a gateway.
async fn migrate(cluster: &Cluster, gateway: usize, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(origin_binary());
    command.arg("migrate").arg("-c").arg(cluster.config(gateway)).args(args);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).expect("text"))
}

#[tokio::test]
async fn row_8c_tunnels_are_moved_to_another_pop_by_hand() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.kill(0).await;
    cluster.restart_wanting(0, 1).await;
    cluster.until_roles(0, &["Held 2", "Warm 2", "Off 0"]).await;
    let load = Load::start(&cluster);
    load.warm().await;
    let there = cluster.chain.edges[2].ready.tunnel[0].clone();
    let (moved, answer) = migrate(&cluster, 0, &["--to", &there, "--json"]).await;
    assert!(moved, "{answer}");
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!((&answer["pops"][2]["role"], &answer["pops"][2]["pop"]), (&"Held".into(), &"pop-c".into()), "{answer}");
    cluster.until_roles(0, &["Warm 2", "Off 0", "Held 2"]).await;
    let (moved, text) = migrate(&cluster, 0, &["--to", "pop-x"]).await;
    assert!(!moved && text.contains("no PoP `pop-x`; this origin knows ") && text.contains(&there), "{text}");
    load.run(Duration::from_secs(1)).await;
    // By name, and back.
    let (moved, text) = migrate(&cluster, 0, &["--to", "pop-b"]).await;
    assert!(moved && text.contains("chosen"), "{text}");
    cluster.until_roles(0, &["Warm 2", "Held 2", "Off 0"]).await;
    let (moved, text) = migrate(&cluster, 0, &["--auto"]).await;
    assert!(moved && text.contains("back to the order"), "{text}");
    cluster.until_roles(0, &["Held 2", "Warm 2", "Off 0"]).await;
    load.run(Duration::from_secs(1)).await;
    let done = load.finish().await;
    done.report("8 origin migrate, three times", &mut cluster).await;
    println!("| 8 origin migrate | {} ms until the new PoP was held |", answer["millis"]);
    done.assert_flawless();
}
