//! Orderly ends: SIGTERM of a gateway and of a PoP while everything runs.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;
use trunkline::clock;

use crate::chain::{HOST, eventually, in_time};
use crate::client::{Client, Exchange, Protocol, tls};
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

/// An upload in small pieces with pauses, executed once.
async fn upload(cluster: &Cluster, pop: usize, protocol: Protocol) {
    const PIECE: &[u8] = &[b'u'; 4 << 10];
    let mut client = Client::connect_to(&cluster.chain, protocol, pop).await;
    let path = format!("/count?key=slow-{pop}-{protocol:?}");
    let Exchange { mut upload, response } = client.open(client.request("POST", &path)).await.expect("open");
    let send = async {
        for _ in 0..EVENTS {
            upload.data(Bytes::from_static(PIECE)).await.expect("room");
            tokio::time::sleep(PAUSE).await;
        }
        upload.finish().await.expect("an end");
    };
    let (response, ()) = tokio::join!(response, send);
    let answer = crate::client::collect(response.expect("head")).await.expect("whole");
    assert_eq!((answer.status, &answer.json()["finished"]), (200, &1.into()), "{protocol:?}");
}

/// Everything that lasts, through the PoP `pop`.
async fn last(cluster: &Cluster, pop: usize) {
    tokio::join!(
        converse(cluster, pop),
        listen(cluster, pop, Protocol::Http2),
        listen(cluster, pop, Protocol::Http3),
        upload(cluster, pop, Protocol::Http2),
        upload(cluster, pop, Protocol::Http3),
    );
}

/// What an answer that begins during the drain says of where else to go.
async fn told(cluster: &Cluster, protocol: Protocol) -> String {
    let mut client = Client::connect_to(&cluster.chain, protocol, 0).await;
    client.get("/slow?delay=2000&chunks=1").await.field("alt-svc")
}

#[tokio::test]
async fn row_8_a_gateway_drains() {
    let mut cluster = Cluster::start(3, 2).await;
    let load = Load::start(&cluster);
    load.warm().await;
    let drain = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.gateways[0].signal(libc::SIGTERM);
    };
    tokio::join!(last(&cluster, 0), last(&cluster, 2), drain);
    let done = clock::now();
    let status = in_time("the gateway's end", cluster.gateways[0].ended()).await;
    let end = done.elapsed();
    load.run(Duration::from_secs(1)).await;
    let done = load.finish().await;
    done.report("8 SIGTERM of a gateway", &mut cluster).await;
    println!("| 8 SIGTERM of a gateway | {} ms from its last stream to its end, {status} |", end.as_millis());
    done.assert_flawless();
    assert_eq!(status.code(), Some(0), "drained");
}

#[tokio::test]
async fn a_gateway_that_registers_with_a_draining_pop_hears_of_the_drain() {
    let mut cluster = Cluster::start(2, 2).await;
    let mut client = Client::connect_to(&cluster.chain, Protocol::Http3, 0).await;
    // It keeps the PoP until it is let go.
    let request = client.request("GET", "/sse?interval=50&count=1000");
    let held = client.stream(request).await.expect("head");
    cluster.chain.edges[0].signal(libc::SIGTERM);
    let idle = usize::from(cluster.in_flight(0).await > 0);
    cluster.kill(idle).await;
    cluster.restart(idle).await;
    eventually("two links that drain", async || {
        let status = cluster.status(idle).await;
        let tunnels = status["tunnels"].as_array().expect("an array").iter();
        let draining = tunnels.filter(|tunnel| tunnel["pop"] == "pop-a" && tunnel["state"] == "Draining").count();
        (draining == 2).then_some(())
    })
    .await;
    drop((held, client));
    let status = in_time("the PoP's end", cluster.chain.edges[0].ended()).await;
    assert_eq!(status.code(), Some(0), "drained");
}

#[tokio::test]
async fn row_8b_a_pop_drains_to_the_one_it_names() {
    let mut cluster = Cluster::start(3, 2).await;
    let next = cluster.chain.http3(2);
    cluster.name_next(0, 2).await;
    cluster.kill(0).await;
    cluster.restart_wanting(0, 1).await;
    cluster.until_roles(0, &["Held 2", "Warm 2", "Off 0"]).await;
    cluster.until_roles(1, &["Held 2", "Held 2", "Held 2"]).await;
    let load = Load::start(&cluster);
    load.warm().await;
    let drain = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.chain.edges[0].signal(libc::SIGTERM);
        // While what lasts still runs through the old one. The one that was warm is not needed.
        cluster.until_roles(0, &["Held 2", "Warm 2", "Held 2"]).await;
    };
    let tell = async {
        tokio::join!(told(&cluster, Protocol::Http1), told(&cluster, Protocol::Http2), told(&cluster, Protocol::Http3))
    };
    let ((h1, h2, h3), ..) = tokio::join!(tell, last(&cluster, 0), last(&cluster, 1), drain);
    for said in [h1, h2, h3] {
        assert_eq!(said, format!("h3=\"{next}\"; ma=300"));
    }
    let done = clock::now();
    let status = in_time("the PoP's end", cluster.chain.edges[0].ended()).await;
    let end = done.elapsed();
    load.run(Duration::from_secs(1)).await;
    let done = load.finish().await;
    done.report("8 SIGTERM of a PoP", &mut cluster).await;
    println!("| 8 SIGTERM of a PoP | {} ms from its last stream to its end, {status} |", end.as_millis());
    done.assert_flawless();
    assert_eq!(status.code(), Some(0), "drained");
}
