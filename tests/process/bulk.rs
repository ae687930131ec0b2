//! Large bodies: every byte, in bounded memory.

use bytes::Bytes;
use trunkline::dev::upstream::{Sha256, pattern_fill};

use crate::chain::{Chain, Setup, in_time, memory_peak};
use crate::client::{Client, Protocol, collect};

const PIECE: usize = 64 << 10;
/// Resident memory that no process may ever have passed; a body held in memory would be far above it.
const MEMORY_MAX: u64 = 160 << 20;

async fn download(chain: &Chain, protocol: Protocol, length: u64) {
    let mut client = Client::connect(chain, protocol).await;
    let request = client.request("GET", &format!("/bytes/{length}"));
    let response = client.stream(request).await.expect("head");
    assert_eq!(response.headers()["content-length"], length.to_string());
    let mut body = response.into_body();
    let (mut hash, mut offset) = (Sha256::new(), 0);
    while let Some(frame) = body.frame().await {
        let data = frame.expect("no error").into_data().expect("data");
        hash.update(&data);
        offset += data.len() as u64;
    }
    assert_eq!((offset, hash.finish()), (length, pattern_hash(length)), "{protocol:?}");
}

async fn upload(chain: &Chain, protocol: Protocol, length: u64) {
    let mut client = Client::connect(chain, protocol).await;
    let mut request = client.request("POST", "/hash");
    request.headers_mut().insert("content-length", length.into());
    let mut exchange = client.open(request).await.expect("open");
    let mut upload = exchange.upload;
    let sent = async move {
        for offset in (0..length).step_by(PIECE) {
            upload.data(piece(offset, length)).await.expect("the upload goes on");
        }
        upload.finish().await.expect("the upload ends");
    };
    let (response, ()) = tokio::join!(&mut exchange.response, sent);
    let answer = collect(response.expect("head")).await.expect("whole").json();
    let expected = serde_json::json!({ "length": length, "sha256": pattern_hash(length) });
    assert_eq!(answer, expected, "{protocol:?}");
}

fn piece(offset: u64, length: u64) -> Bytes {
    let mut piece = vec![0; usize::try_from(length - offset).unwrap_or(PIECE).min(PIECE)];
    pattern_fill(offset, &mut piece);
    piece.into()
}

fn pattern_hash(length: u64) -> String {
    let mut hash = Sha256::new();
    for offset in (0..length).step_by(PIECE) {
        hash.update(&piece(offset, length));
    }
    hash.finish()
}

fn assert_memory_is_bounded(chain: &Chain) {
    for child in [&chain.edges[0], chain.origin()] {
        let peak = memory_peak(child);
        println!("{}: {} MiB at most", child.name, peak >> 20);
        assert!(peak < MEMORY_MAX, "{} had {} MiB", child.name, peak >> 20);
    }
}

#[tokio::test]
async fn a_gibibyte_comes_down_over_http3_in_bounded_memory() {
    let chain = Chain::start().await;
    download(&chain, Protocol::Http3, 1 << 30).await;
    assert_memory_is_bounded(&chain);
}

#[tokio::test]
async fn a_gibibyte_goes_up_over_http3_in_bounded_memory() {
    let chain = Chain::start().await;
    upload(&chain, Protocol::Http3, 1 << 30).await;
    assert_memory_is_bounded(&chain);
}

#[tokio::test]
async fn large_bodies_go_both_ways_over_http2_and_http1() {
    let chain = Chain::start().await;
    for protocol in [Protocol::Http2, Protocol::Http1] {
        download(&chain, protocol, 256 << 20).await;
        upload(&chain, protocol, 256 << 20).await;
    }
    assert_memory_is_bounded(&chain);
}

#[tokio::test]
async fn a_client_that_stops_reading_pins_little_memory() {
    let chain = Chain::start().await;
    let mut stalled = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Http3] {
        for _ in 0..10 {
            let mut client = Client::connect(&chain, protocol).await;
            let request = client.request("GET", "/bytes/1000000000");
            let mut response = client.stream(request).await.expect("head");
            response.body_mut().data().await;
            stalled.push((client, response));
        }
    }
    // Meanwhile the others are served, and nothing is read ahead for the stalled ones.
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Http3] {
        download(&chain, protocol, 16 << 20).await;
    }
    assert_memory_is_bounded(&chain);
    drop(stalled);
}

/// Each takes more than a megabyte at full speed, so that its windows grow, and then nothing. Together they are offered
/// far more than the tunnels may hold.
#[tokio::test]
async fn responses_that_nobody_reads_hold_up_nobody() {
    const LIMITS: &str = "[tunnel.limits]\nretention_max = \"32MiB\"\n";
    let chain = Chain::with(Setup { edge_tables: LIMITS, origin_tables: LIMITS, ..Setup::default() }).await;
    let (mut clients, mut stalled) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let mut client = Client::connect(&chain, Protocol::Http3).await;
        for _ in 0..100 {
            let request = client.request("GET", "/bytes/1000000000");
            let mut response = client.stream(request).await.expect("head");
            response.body_mut().data().await;
            stalled.push(response);
        }
        clients.push(client);
    }
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Http3] {
        in_time("a download beside them", download(&chain, protocol, 16 << 20)).await;
    }
    assert_memory_is_bounded(&chain);
    drop((clients, stalled));
}
