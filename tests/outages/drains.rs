//! Orderly ends: SIGTERM of a gateway and of a PoP while everything runs.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;
use trunkline::clock;

use crate::chain::{HOST, in_time};
use crate::client::{Client, Protocol, tls};
use crate::cluster::Cluster;
use crate::load::Load;

/// Events of a stream that a drain must not lose, and the pause between them.
const EVENTS: usize = 60;
const PAUSE: Duration = Duration::from_millis(50);

/// A WebSocket that echoes all through the drain.
async fn converse(cluster: &Cluster, pop: usize) {
    let stream = tls::connect(&cluster.chain.site_ca(), cluster.chain.http2(pop), b"http/1.1").await.expect("TLS");
    let url = format!("wss://{HOST}/ws");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("handshake");
    for number in 0..EVENTS {
        socket.send(Message::text(number.to_string())).await.expect("an open socket");
        let answer = in_time("an echo", socket.next()).await.expect("a message").expect("no error");
        assert_eq!(answer.into_text().expect("text").as_str(), number.to_string());
        tokio::time::sleep(PAUSE).await;
    }
    socket.close(None).await.expect("a close");
}

/// A stream of events, each once and in order.
async fn listen(cluster: &Cluster, pop: usize, protocol: Protocol) {
    let mut client = Client::connect_to(&cluster.chain, protocol, pop).await;
    let path = format!("/sse?interval={}&count={EVENTS}", PAUSE.as_millis());
    let request = client.request("GET", &path);
    let response = client.stream(request).await.expect("head");
    let answer = crate::client::collect(response).await.expect("the stream ends well");
    let text = String::from_utf8(answer.body.to_vec()).expect("text");
    let ids: Vec<usize> = text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
    assert_eq!(ids, (0..EVENTS).collect::<Vec<_>>(), "{protocol:?}");
}

#[tokio::test]
async fn row_8_a_gateway_drains() {
    let mut cluster = Cluster::start(2, 2).await;
    let load = Load::start(&cluster);
    load.warm().await;
    let long = async {
        tokio::join!(
            converse(&cluster, 0),
            converse(&cluster, 1),
            listen(&cluster, 0, Protocol::Http2),
            listen(&cluster, 0, Protocol::Http3),
            listen(&cluster, 1, Protocol::Http3),
        )
    };
    let drain = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.gateways[0].signal(libc::SIGTERM);
    };
    tokio::join!(long, drain);
    let told = clock::now();
    let status = in_time("the gateway's end", cluster.gateways[0].ended()).await;
    load.run(Duration::from_secs(1)).await;
    let done = load.finish().await;
    done.report("8 SIGTERM of a gateway", &mut cluster).await;
    println!(
        "| 8 SIGTERM of a gateway | {} ms from its last stream to its end, {status} |",
        told.elapsed().as_millis()
    );
    done.assert_flawless();
    assert_eq!(status.code(), Some(0), "drained");
}

#[tokio::test]
async fn row_8b_a_pop_drains() {
    let mut cluster = Cluster::start(2, 2).await;
    let load = Load::start(&cluster);
    load.warm().await;
    let long = async {
        tokio::join!(
            converse(&cluster, 0),
            listen(&cluster, 0, Protocol::Http2),
            listen(&cluster, 0, Protocol::Http3),
            listen(&cluster, 1, Protocol::Http3),
        )
    };
    let drain = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.chain.edges[0].signal(libc::SIGTERM);
    };
    tokio::join!(long, drain);
    let told = clock::now();
    let status = in_time("the PoP's end", cluster.chain.edges[0].ended()).await;
    load.run(Duration::from_secs(1)).await;
    let done = load.finish().await;
    done.report("8 SIGTERM of a PoP", &mut cluster).await;
    println!("| 8 SIGTERM of a PoP | {} ms from its last stream to its end, {status} |", told.elapsed().as_millis());
    done.assert_flawless();
    assert_eq!(status.code(), Some(0), "drained");
}
