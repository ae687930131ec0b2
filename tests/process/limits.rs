//! Limits of the edge that a client meets as a time or a rate.

use crate::chain::{Chain, Setup, eventually, metric};
use crate::client::{ALL, Client, Protocol, collect};

#[tokio::test]
async fn a_request_that_takes_longer_than_all_its_time_is_504() {
    let chain = Chain::with(Setup { edge_tables: "[limits]\ntotal_timeout = \"1s\"\n", ..Setup::default() }).await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let answer = client.get("/slow?delay=60000").await;
        assert_eq!(answer.status, 504, "{protocol:?}");
        assert_eq!(answer.field("proxy-status"), "\"pop-a\"; error=http_response_timeout", "{protocol:?}");
        assert!(!answer.body.is_empty(), "{protocol:?}: its own answer is whole");
    }
    until_all_are_cancelled(&chain, "/slow").await;
}

#[tokio::test]
async fn a_response_that_takes_longer_than_all_its_time_is_cut_even_while_it_moves() {
    let chain = Chain::with(Setup { edge_tables: "[limits]\ntotal_timeout = \"1s\"\n", ..Setup::default() }).await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let request = client.request("GET", "/sse?interval=20");
        let response = client.stream(request).await.expect("head");
        assert_eq!(response.status(), 200, "{protocol:?}");
        let whole = crate::chain::in_time("the cut", collect(response)).await;
        assert!(whole.is_err(), "{protocol:?}: an endless stream looks complete: {whole:?}");
    }
    until_all_are_cancelled(&chain, "/sse").await;
}

async fn until_all_are_cancelled(chain: &Chain, prefix: &str) {
    eventually("the upstream's requests are cancelled", async || {
        let log = chain.upstream.log(prefix).await;
        (log.len() == ALL.len() && log.iter().all(|entry| entry["state"] == "cancelled")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_address_with_too_many_requests_is_429_until_one_of_them_ends() {
    let tables = "[limits]\nrequests_per_address_max = 2\n";
    let chain = Chain::with(Setup { edge_tables: tables, ..Setup::default() }).await;
    let mut holder = Client::connect(&chain, Protocol::Http2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let request = holder.request("GET", "/sse?interval=100");
        held.push(holder.stream(request).await.expect("head"));
    }
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let answer = client.get("/echo").await;
        assert_eq!(answer.status, 429, "{protocol:?}");
        assert_eq!(answer.field("proxy-status"), "\"pop-a\"; error=http_request_error", "{protocol:?}");
        assert_eq!(answer.field("retry-after"), "1", "{protocol:?}");
    }
    assert!(chain.upstream.log("/echo").await.is_empty(), "nothing of it reached the upstream");
    held.pop();
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        eventually("a place is free", async || (client.get("/status/204").await.status == 204).then_some(())).await;
    }
}

#[tokio::test]
async fn an_address_that_opens_connections_too_fast_is_refused_before_its_handshake() {
    let tables = "[limits]\nconnections_per_address_rate = 1\n";
    let chain = Chain::with(Setup { edge_tables: tables, origin: false, ..Setup::default() }).await;
    let mut refused = 0.0;
    for protocol in [Protocol::Http1, Protocol::Http3] {
        // The rate's owner may use it: one a second, after a burst of one.
        eventually("a connection is let in", async || Client::try_connect(&chain, protocol, 0).await.ok()).await;
        let before = metric(chain.admin(0), "trunkline_listener_refused_connections_total").await;
        // As fast as they come: of so many in less than a minute some are too many.
        let mut failures = 0.0;
        for _ in 0..30 {
            if Client::try_connect(&chain, protocol, 0).await.is_err() {
                failures += 1.0;
            }
        }
        let after = metric(chain.admin(0), "trunkline_listener_refused_connections_total").await;
        assert!(failures >= 1.0, "{protocol:?}: nothing was refused");
        assert_eq!(after - before, failures, "{protocol:?}: each refusal is counted");
        refused = after;
    }
    assert_eq!(metric(chain.admin(0), "trunkline_filter_refusals_total").await, refused);
    // A forged address must not use up its owner's rate: QUIC clients prove theirs.
    assert!(metric(chain.admin(0), "trunkline_listener_retries_total").await >= 31.0);
}
