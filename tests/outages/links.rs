//! Links that are cut under long bodies.

use std::process::Command;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Mutex;
use trunkline::dev::upstream::{Sha256, pattern_fill};

use crate::chain::{edge_binary, eventually, in_time};
use crate::client::{Client, MULTIPLEXED, Protocol};
use crate::cluster::{Cluster, event};
use crate::load::number;

/// Bytes each way unless TRUNKLINE_OUTAGES_LARGE says otherwise.
const LARGE: usize = 64 << 20;
/// Cuts of each body.
const CUTS: usize = 5;
const PIECE: usize = 64 << 10;

/// The pattern from `at` on, a piece long or shorter at the end.
fn piece(at: usize, length: usize) -> Vec<u8> {
    let mut piece = vec![0; PIECE.min(length - at)];
    pattern_fill(at as u64, &mut piece);
    piece
}

/// Cuts the gateway's busiest link, once something rides on one: each cut moves an exchange.
async fn cut(cluster: &Cluster) {
    static ONE: Mutex<()> = Mutex::const_new(());
    let _one = ONE.lock().await;
    eventually("something rides on a link", async || (cluster.in_flight(0).await > 0).then_some(())).await;
    let answer = cluster.cut_link(0).await;
    assert!(answer.contains("pop-a"), "a link was cut: {answer}");
}

#[tokio::test]
async fn row_7_links_are_cut_under_a_large_download_and_a_large_upload() {
    let length = number("TRUNKLINE_OUTAGES_LARGE", LARGE);
    for protocol in MULTIPLEXED {
        let mut cluster = Cluster::start(1, 1).await;
        let mut downloads = Client::connect(&cluster.chain, protocol).await;
        let mut uploads = Client::connect(&cluster.chain, protocol).await;

        let download = async {
            let request = downloads.request("GET", &format!("/bytes/{length}"));
            let mut body = downloads.stream(request).await.expect("head").into_body();
            let (mut at, mut expected) = (0, Vec::new());
            while let Some(frame) = in_time("data", body.frame()).await {
                let data = frame.unwrap_or_else(|error| panic!("{protocol:?} at {at}: {error}"));
                let data = data.into_data().expect("data");
                expected.resize(data.len(), 0);
                pattern_fill(at as u64, &mut expected);
                assert!(data == expected, "{protocol:?}: wrong bytes at {at}");
                let cuts = |at: usize| at * (CUTS + 1) / length;
                if (1..=CUTS).contains(&cuts(at + data.len())) && cuts(at + data.len()) > cuts(at) {
                    cut(&cluster).await;
                }
                at += data.len();
            }
            assert_eq!(at, length, "{protocol:?}: whole");
        };
        let upload = async {
            let mut request = uploads.request("POST", "/hash");
            request.headers_mut().insert("content-length", length.into());
            let mut exchange = uploads.open(request).await.expect("open");
            let (mut hash, mut at) = (Sha256::new(), 0);
            while at < length {
                let piece = piece(at, length);
                hash.update(&piece);
                let cuts = |at: usize| at * (CUTS + 1) / length;
                if (1..=CUTS).contains(&cuts(at + piece.len())) && cuts(at + piece.len()) > cuts(at) {
                    cut(&cluster).await;
                }
                at += piece.len();
                in_time("room", exchange.upload.data(Bytes::from(piece))).await.expect("the upload goes on");
            }
            exchange.upload.finish().await.expect("the end");
            let response = exchange.response().await.expect("an answer");
            let answer = crate::client::collect(response).await.expect("a body");
            assert_eq!(answer.json()["sha256"], hash.finish(), "{protocol:?}");
        };
        tokio::join!(download, upload);

        let log = cluster.chain.upstream.log("/").await;
        let log: Vec<_> = log.iter().filter(|entry| !matches!(entry["path"].as_str(), Some("/status/204"))).collect();
        let requests: Vec<_> = log.iter().filter(|e| !e["path"].as_str().unwrap_or("").starts_with("/log")).collect();
        assert_eq!(requests.len(), 2, "{protocol:?}: {requests:?}");
        let resumed = event(&cluster.gateways[0], "resume").await;
        let again = cluster.count("trunkline_tunnel_resumed_bytes_total").await;
        println!(
            "| 7 links cut {} times under {} MiB down and up, {protocol:?} | 2 requests upstream | resumed {resumed} | \
             {} KiB sent again |",
            2 * CUTS,
            length >> 20,
            again / 1024.0
        );
        let cuts = u32::try_from(2 * CUTS).expect("few");
        assert!(resumed >= f64::from(cuts), "{resumed} resumed: each cut met an exchange that was not over");
        cluster.until_linked().await;
    }
}

#[tokio::test]
async fn what_happens_to_a_link_has_one_name_in_log_metrics_and_status() {
    let cluster = Cluster::start(1, 1).await;
    let mut client = Client::connect(&cluster.chain, Protocol::Http2).await;
    let request = client.request("GET", "/sse?interval=20&count=100000");
    let mut events = client.stream(request).await.expect("head").into_body();
    in_time("an event", events.frame()).await.expect("a frame").expect("no error");
    // What the chain was probed with may not be acknowledged yet, and be on the other link.
    eventually("nothing else rides on a link", async || (cluster.in_flight(0).await == 1).then_some(())).await;
    cut(&cluster).await;

    let edge = &cluster.chain.edges[0];
    let config = cluster.chain.folder().join(format!("{}.toml", edge.name));
    let mut links = Vec::new();
    for name in ["close", "resume"] {
        eventually(name, async || (event(edge, name).await > 0.0).then_some(())).await;
        let logged = eventually("a log line", async || {
            let lines =
                edge.log_text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<Value>>();
            lines.into_iter().find(|line| line["event"] == name)
        })
        .await;
        let asked = Command::new(edge_binary()).args(["tunnels", "--json", "-c"]).arg(&config).output().expect("edge");
        let status: Value = serde_json::from_slice(&asked.stdout).expect("JSON");
        let shown = status["events"].as_array().expect("events").iter().find(|shown| shown["event"] == name);
        let shown = shown.unwrap_or_else(|| panic!("{name} in {status}"));
        for field in ["from", "to", "millis", "bytes_again", "why"] {
            assert_eq!(shown[field], logged[field], "{name}: {field}");
        }
        links.push(shown["from"].clone());
        let asked = Command::new(edge_binary()).args(["tunnels", "-c"]).arg(&config).output().expect("edge");
        let text = String::from_utf8(asked.stdout).expect("text");
        let from = shown["from"].as_str().expect("text");
        assert!(text.lines().any(|line| line.contains(name) && line.contains(from)), "{text}");
    }
    assert!(links[0].as_str().is_some_and(|link| link.starts_with("gw-1#")), "{links:?}");
    assert_eq!(links[0], links[1], "resumed from the link that was closed");
    in_time("another event", events.frame()).await.expect("a frame").expect("no error");
}
