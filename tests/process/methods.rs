//! Methods and bodiless answers, over each protocol.

use bytes::Bytes;

use crate::chain::{Chain, Setup};
use crate::client::{ALL, Client};

#[tokio::test]
async fn every_method_arrives_with_its_body() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
            let body = if method == "GET" { "" } else { "a body" };
            let request = client.request(method, "/echo");
            let answer = client.send(request, body).await.expect("answer");
            let echo = answer.json();
            assert_eq!(
                (answer.status, &echo["method"], &echo["body"]),
                (200, &method.into(), &body.into()),
                "{protocol:?}"
            );
        }
    }
}

#[tokio::test]
async fn head_has_the_fields_of_get_and_no_body() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let request = client.request("HEAD", "/bytes/123456");
        let answer = client.send(request, Bytes::new()).await.expect("answer");
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{protocol:?}");
        assert_eq!(answer.field("content-length"), "123456", "{protocol:?}");
        assert_eq!(answer.field("etag"), "\"pattern-123456\"", "{protocol:?}");
        // The connection is still in step.
        assert_eq!(client.get("/bytes/5").await.body.len(), 5, "{protocol:?}");
    }
}

#[tokio::test]
async fn answers_without_a_body_stay_so() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        for status in [204, 304] {
            let answer = client.get(&format!("/status/{status}")).await;
            assert_eq!((answer.status, answer.body.len()), (status, 0), "{protocol:?}");
            assert_eq!(answer.field("transfer-encoding"), "", "{protocol:?}");
        }
        let request = client.request("OPTIONS", "/");
        let answer = client.send(request, Bytes::new()).await.expect("answer");
        assert_eq!((answer.status, answer.field("allow").contains("DELETE")), (204, true), "{protocol:?}");
    }
}

#[tokio::test]
async fn an_empty_post_is_announced_as_empty() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let mut request = client.request("POST", "/echo");
        request.headers_mut().insert("content-length", 0.into());
        let echo = client.send(request, Bytes::new()).await.expect("answer").json();
        assert_eq!(echo["length"], 0, "{protocol:?}");
        let fields = echo["headers"].as_array().expect("fields");
        assert!(fields.contains(&serde_json::json!(["content-length", "0"])), "{protocol:?}: {fields:?}");
    }
}

#[tokio::test]
async fn an_h2c_upstream_serves_the_same() {
    let chain = Chain::with(Setup { h2c: true, ..Setup::default() }).await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let request = client.request("POST", "/echo");
        let echo = client.send(request, "over HTTP/2").await.expect("answer").json();
        assert_eq!((&echo["version"], &echo["body"]), (&"HTTP/2.0".into(), &"over HTTP/2".into()), "{protocol:?}");
    }
}
