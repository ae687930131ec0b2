//! What an operator sees: health, metrics, the access log.

use crate::chain::{Chain, Setup, eventually, metric, status_and_body};
use crate::client::{ALL, Client};

#[tokio::test]
async fn requests_and_faults_are_counted() {
    let chain = Chain::start().await;
    let before = metric(chain.admin(0), "trunkline_edge_requests_total").await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        for _ in 0..5 {
            assert_eq!(client.get("/status/204").await.status, 204);
        }
        let mut request = client.request("GET", "/x");
        match protocol {
            crate::client::Protocol::Http1 => {
                drop(request.headers_mut().insert("host", "unknown.example".parse().expect("value")))
            }
            _ => *request.uri_mut() = "https://unknown.example/x".parse().expect("uri"),
        }
        assert_eq!(client.send(request, "").await.expect("answer").status, 421);
    }
    eventually("all requests are counted", async || {
        let now = metric(chain.admin(0), "trunkline_edge_requests_total").await;
        (now - before >= 18.0).then_some(())
    })
    .await;
    assert!(metric(chain.admin(0), "trunkline_edge_faults_total").await >= 3.0);
    eventually("nothing is in flight", async || {
        (metric(chain.admin(0), "trunkline_edge_requests_in_flight").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_edge_without_a_tunnel_lives() {
    let chain = Chain::with(Setup { origin: false, ..Setup::default() }).await;
    assert_eq!(status_and_body(chain.admin(0), "/healthz").await.0, 200);
}

#[tokio::test]
async fn each_request_has_a_line_in_the_access_log_with_its_id() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let id = client.get("/status/418").await.field("x-request-id");
        assert!(!id.is_empty());
        let line = eventually("the access line", async || {
            chain.edges[0].log_text().lines().find(|line| line.contains(&id)).map(ToOwned::to_owned)
        })
        .await;
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON, as stderr is no terminal");
        assert!(line.to_string().contains("418"), "{protocol:?}: {line}");
    }
}

#[tokio::test]
async fn a_connection_that_asks_hundreds_of_times_is_not_taken_for_one_that_cancels() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        // More than `resets_max` and half of them: one cancelled request after the other would end the connection.
        for _ in 0..300 {
            assert_eq!(client.get("/bytes/100").await.body.len(), 100, "{protocol:?}");
        }
    }
    assert_eq!(metric(chain.admin(0), "trunkline_listener_resets_total").await, 0.0);
}
