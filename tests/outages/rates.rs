//! What links carry together where every path loses packets, beside one QUIC connection alone through the same relay: each
//! loss halves one congestion window and leaves the others alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn::{Endpoint, TransportConfig};
use tokio::task::JoinSet;
use trunkline::clock;
use trunkline::config::TunnelIdentity;
use trunkline::quic::QuicKeys;
use trunkline::tunnel::endpoint::Credentials;
use trunkline::tunnel::identity::POP_SERVER_NAME;

use crate::client::{Client, Protocol};
use crate::cluster::{Cluster, Plan};
use crate::relay::{Path, Relay};

/// Each way.
const WAY: Duration = Duration::from_millis(20);
/// Congestion windows forget how they began.
const SETTLE: Duration = Duration::from_secs(4);
/// Then it is measured for so long.
const MEASURE: Duration = Duration::from_secs(10);
/// Downloads at once.
const DOWNLOADS: usize = 16;
/// Of one, without an end in sight.
const LENGTH: u64 = 16 << 30;

/// Mbit/s that arrive, once settled.
async fn rate(arrived: &AtomicU64) -> f64 {
    tokio::time::sleep(SETTLE).await;
    let (before, since) = (arrived.load(Ordering::Relaxed), clock::now());
    tokio::time::sleep(MEASURE).await;
    let bytes = u32::try_from(arrived.load(Ordering::Relaxed) - before).expect("below 4 GiB");
    f64::from(bytes) * 8e-6 / since.elapsed().as_secs_f64()
}

/// One connection of quinn as it comes, CUBIC, one stream, through a relay of its own.
async fn alone(cluster: &Cluster, path: Path) -> f64 {
    let folder = cluster.chain.folder();
    let credentials = |name: &str| {
        let file = |end: &str| folder.join(format!("{name}.{end}"));
        let identity = TunnelIdentity { cert: file("pem"), key: file("key"), ca: folder.join("tunnel-ca.pem") };
        Credentials::load(&identity).expect("credentials")
    };
    let (any, transport) = (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Arc::new(TransportConfig::default()));
    let keys = QuicKeys::load(None).expect("keys");
    let server = credentials("pop-a").server_config(transport.clone(), keys.token_key()).expect("server");
    let server = Endpoint::server(server, any).expect("endpoint");
    let relay = Relay::start(server.local_addr().expect("address"));
    relay.set(path);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let connection = server.accept().await.expect("a dial").await.expect("a handshake");
        let mut stream = connection.open_uni().await.expect("a stream");
        let piece = bytes::Bytes::from(vec![0; 64 << 10]);
        while stream.write_chunk(piece.clone()).await.is_ok() {}
    });
    let mut client = Endpoint::client(any).expect("endpoint");
    client.set_default_client_config(credentials("gw-1").client_config(transport).expect("client"));
    let connection = client.connect(relay.address, POP_SERVER_NAME).expect("a dial").await.expect("a handshake");
    let arrived = Arc::<AtomicU64>::default();
    let count = arrived.clone();
    tasks.spawn(async move {
        let mut stream = connection.accept_uni().await.expect("a stream");
        while let Ok(Some(chunk)) = stream.read_chunk(64 << 10, true).await {
            count.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
        }
    });
    rate(&arrived).await
}

/// Downloads through all links of one gateway, over both paths.
async fn together(cluster: &Cluster) -> f64 {
    let (arrived, mut tasks) = (Arc::<AtomicU64>::default(), JoinSet::new());
    for _ in 0..DOWNLOADS {
        let mut client = Client::connect(&cluster.chain, Protocol::Http2).await;
        let count = arrived.clone();
        tasks.spawn(async move {
            let request = client.request("GET", &format!("/bytes/{LENGTH}"));
            let mut body = client.stream(request).await.expect("head").into_body();
            while let Some(frame) = body.frame().await {
                let data = frame.expect("no failure").into_data().expect("data");
                count.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
        });
    }
    let rate = rate(&arrived).await;
    assert!(tasks.try_join_next().is_none(), "every download goes on");
    rate
}

#[tokio::test]
#[ignore = "make outages"]
async fn row_12b_links_carry_more_together_than_one_connection_where_both_paths_lose_packets() {
    for permille in [10, 50] {
        for (links, tunnel) in [(2, "links = 2"), (4, "links = 4")] {
            let path = Path::lossy(permille, permille).slow(WAY);
            let cluster = Cluster::with(Plan { relays: 2, tunnel, ..Plan::new(1, 1) }).await;
            let one = alone(&cluster, path).await;
            cluster.relays[0].iter().for_each(|relay| relay.set(path));
            let all = together(&cluster).await;
            println!(
                "| 12 {} % loss on both paths, 40 ms | {} links {all:.1} Mbit/s | one CUBIC connection {one:.1} | {:.1} x |",
                permille / 10,
                links * 2,
                all / one
            );
        }
    }
}
