//! The two signals: drain, then force.

use std::os::unix::process::ExitStatusExt;

use crate::chain::{Chain, Setup, eventually, in_time, status_and_body};
use crate::client::{ALL, Client, Protocol, collect};

#[tokio::test]
async fn an_edge_that_drains_finishes_what_is_in_flight() {
    for protocol in ALL {
        let mut chain = Chain::start().await;
        let mut client = Client::connect(&chain, protocol).await;
        let request = client.request("GET", "/slow?delay=0&chunk=1000&chunks=20&interval=50");
        let response = client.stream(request).await.expect("head");
        chain.edges[0].signal(libc::SIGTERM);
        let answer = in_time("the answer", collect(response)).await.expect("whole");
        assert_eq!(answer.body.len(), 20_000, "{protocol:?}");
        let status = in_time("the edge's end", chain.edges[0].ended()).await;
        assert_eq!(status.code(), Some(0), "{protocol:?}: {status}");
    }
}

#[tokio::test]
async fn an_edge_that_drains_is_not_ready_and_takes_no_new_connections() {
    let chain = Chain::start().await;
    assert_eq!(status_and_body(chain.admin(0), "/readyz").await.0, 200);
    let mut client = Client::connect(&chain, Protocol::Http3).await;
    let request = client.request("GET", "/sse?interval=100");
    let response = client.stream(request).await.expect("head");
    chain.edges[0].signal(libc::SIGTERM);
    eventually("readiness is red", async || (status_and_body(chain.admin(0), "/readyz").await.0 == 503).then_some(()))
        .await;
    assert_eq!(status_and_body(chain.admin(0), "/healthz").await.0, 200, "it is alive");
    eventually("new connections are refused", async || {
        let tcp = tokio::net::TcpStream::connect(chain.http2(0)).await.is_err();
        tcp.then_some(())
    })
    .await;
    assert!(Client::try_connect(&chain, Protocol::Http3, 0).await.is_err(), "a new HTTP/3 connection is refused");
    drop(response);
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut chain = Chain::start().await;
    let mut client = Client::connect(&chain, Protocol::Http3).await;
    let request = client.request("GET", "/sse?interval=100");
    let mut response = client.stream(request).await.expect("head");
    response.body_mut().data().await;
    for n in [0, 1] {
        let child = if n == 0 { chain.origin.as_mut().expect("an origin") } else { &mut chain.edges[0] };
        child.signal(libc::SIGTERM);
        // Two signals of a kind at once are one.
        eventually("the first signal is heard", async || {
            child.log_text().contains(r#""message":"draining""#).then_some(())
        })
        .await;
        child.signal(libc::SIGTERM);
        let status = in_time("the end", child.ended()).await;
        assert_eq!(status.code(), Some(130), "{}: {status}, signal {:?}", child.name, status.signal());
    }
}

#[tokio::test]
async fn an_origin_that_drains_finishes_what_is_in_flight() {
    let mut chain = Chain::start().await;
    let mut client = Client::connect(&chain, Protocol::Http3).await;
    let request = client.request("GET", "/slow?delay=0&chunk=1000&chunks=20&interval=50");
    let response = client.stream(request).await.expect("head");
    let origin = chain.origin.as_mut().expect("an origin");
    origin.signal(libc::SIGTERM);
    let answer = in_time("the answer", collect(response)).await.expect("whole");
    assert_eq!(answer.body.len(), 20_000);
    let status = in_time("the origin's end", origin.ended()).await;
    assert_eq!(status.code(), Some(0), "{status}");
}

#[tokio::test]
async fn a_drain_that_takes_too_long_is_forced() {
    let setup = Setup { edge_tables: "[drain]\ntimeout = \"300ms\"\n", ..Setup::default() };
    let mut chain = Chain::with(setup).await;
    let mut client = Client::connect(&chain, Protocol::Http2).await;
    let request = client.request("GET", "/sse?interval=100");
    let mut response = client.stream(request).await.expect("head");
    response.body_mut().data().await;
    chain.edges[0].signal(libc::SIGTERM);
    let status = in_time("the end", chain.edges[0].ended()).await;
    assert_eq!(status.code(), Some(130), "{status}");
    assert!(collect(response).await.is_err(), "a cut stream must not look complete");
}
