//! Both directions at once, and what happens when one of them ends early.

use bytes::Bytes;

use crate::chain::{Chain, in_time};
use crate::client::{ALL, Client, MULTIPLEXED, Protocol};

#[tokio::test]
async fn a_response_flows_while_its_request_is_still_being_sent() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let request = client.request("POST", "/echo/body");
        let mut exchange = client.open(request).await.expect("open");
        exchange.upload.data("first".into()).await.expect("data");
        let mut body = exchange.response().await.expect("the head comes before the request ends").into_body();
        assert_eq!(&body.data().await[..], b"first", "{protocol:?}");
        for n in 0..20 {
            let piece = Bytes::from(format!("piece {n}"));
            exchange.upload.data(piece.clone()).await.expect("data");
            assert_eq!(body.data().await, piece, "{protocol:?}");
        }
        exchange.upload.finish().await.expect("finish");
        assert!(in_time("the end", body.frame()).await.is_none(), "{protocol:?}");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_upstream_request() {
    let chain = Chain::start().await;
    for protocol in ALL {
        // While the body flows.
        let path = format!("/sse?body-{protocol:?}");
        let mut client = Client::connect(&chain, protocol).await;
        let request = client.request("GET", &format!("{path}&interval=50"));
        let mut response = client.stream(request).await.expect("head");
        response.body_mut().data().await;
        drop(response);
        if protocol == Protocol::Http1 {
            drop(client);
        }
        chain.upstream.until(&path, "cancelled").await;
        // Before the head.
        let path = format!("/slow?head-{protocol:?}");
        let mut client = Client::connect(&chain, protocol).await;
        let request = client.request("GET", &format!("{path}&delay=600000"));
        let exchange = client.open(request).await.expect("open");
        chain.upstream.until(&path, "open").await;
        exchange.upload.abort().await;
        drop(exchange.response);
        drop(client);
        chain.upstream.until(&path, "cancelled").await;
    }
}

#[tokio::test]
async fn other_requests_of_a_connection_survive_a_cancelled_one() {
    let chain = Chain::start().await;
    for protocol in MULTIPLEXED {
        let mut client = Client::connect(&chain, protocol).await;
        let (a, b) = (client.request("GET", "/bytes/20000000"), client.request("GET", "/sse?interval=10"));
        let kept = client.stream(a).await.expect("head");
        let cancelled = client.stream(b).await.expect("head");
        drop(cancelled);
        let answer = crate::client::collect(kept).await.expect("whole");
        assert_eq!(answer.body.len(), 20_000_000, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_body_that_the_upstream_cuts_never_looks_complete() {
    let chain = Chain::start().await;
    for protocol in ALL {
        for path in ["/abort?after=100000", "/abort?after=100000&length=200000"] {
            let mut client = Client::connect(&chain, protocol).await;
            let request = client.request("GET", path);
            let response = client.stream(request).await.expect("head");
            assert_eq!(response.status(), 200);
            let result = in_time("the end of a cut body", crate::client::collect(response)).await;
            assert!(result.is_err(), "{protocol:?} {path}: {:?}", result.map(|answer| answer.body.len()));
        }
    }
}

#[tokio::test]
async fn an_upload_that_the_client_breaks_off_never_looks_complete() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let key = format!("{protocol:?}");
        let mut client = Client::connect(&chain, protocol).await;
        let request = client.request("POST", &format!("/count?key={key}"));
        let mut exchange = client.open(request).await.expect("open");
        exchange.upload.data(Bytes::from(vec![0; 10_000])).await.expect("data");
        let path = format!("/count?key={key}");
        chain.upstream.until(&path, "open").await;
        exchange.upload.abort().await;
        drop(exchange.response);
        drop(client);
        crate::chain::eventually("the upstream saw the break", async || {
            let log = chain.upstream.log(&path).await;
            log.first().is_some_and(|entry| entry["state"] != "open").then_some(())
        })
        .await;
        let executions = chain.upstream.executions(&key).await;
        assert_eq!((&executions["started"], &executions["finished"]), (&1.into(), &0.into()), "{protocol:?}");
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_arrives() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let request = client.request("POST", "/status/404");
        let mut exchange = client.open(request).await.expect("open");
        exchange.upload.data("not all of it".into()).await.expect("data");
        let response = exchange.response().await.expect("the answer does not wait for the body");
        assert_eq!(response.status(), 404, "{protocol:?}");
    }
}
