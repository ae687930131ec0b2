//! What Trunkline answers by itself, and how it says so.

use crate::chain::{Chain, HOST, Setup};
use crate::client::{ALL, Client, Protocol};

#[tokio::test]
async fn an_unknown_host_is_misdirected() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let mut request = client.request("GET", "/echo");
        match protocol {
            Protocol::Http1 => drop(request.headers_mut().insert("host", "unknown.example".parse().expect("value"))),
            _ => *request.uri_mut() = "https://unknown.example/echo".parse().expect("uri"),
        }
        let answer = client.send(request, "").await.expect("answer");
        assert_eq!(answer.status, 421, "{protocol:?}");
        assert_eq!(answer.field("proxy-status"), "\"pop-a\"; error=destination_not_found", "{protocol:?}");
        assert_eq!(client.get("/status/204").await.status, 204, "{protocol:?}: the connection goes on");
    }
}

#[tokio::test]
async fn without_a_tunnel_the_answer_is_503_and_when_to_come_back() {
    let chain = Chain::with(Setup { origin: false, ..Setup::default() }).await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let answer = client.get("/echo").await;
        assert_eq!(answer.status, 503, "{protocol:?}");
        assert_eq!(answer.field("proxy-status"), "\"pop-a\"; error=destination_unavailable", "{protocol:?}");
        assert!(
            answer.field("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1),
            "{protocol:?}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn an_upstream_that_refuses_connections_is_502() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let setup = Setup { upstreams: vec![format!("http://{free}")], origin: true, ..Setup::default() };
    // The chain is up when the answer is not 503 any more: 502 is what is expected.
    let chain = Chain::with(setup).await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let answer = client.get("/echo").await;
        assert_eq!(answer.status, 502, "{protocol:?}");
        assert!(answer.field("proxy-status").contains("error=connection_refused"), "{protocol:?}: {answer:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_in_time_is_504() {
    let chain =
        Chain::with(Setup { origin_tables: "[service.limits]\nresponse_timeout = \"300ms\"\n", ..Setup::default() })
            .await;
    let mut client = Client::connect(&chain, Protocol::Http3).await;
    let answer = client.get("/slow?delay=60000").await;
    assert_eq!(answer.status, 504);
    assert!(answer.field("proxy-status").contains("error="), "{answer:?}");
    chain.upstream.until("/slow", "cancelled").await;
}

#[tokio::test]
async fn too_many_or_too_large_fields_are_431() {
    let chain = Chain::start().await;
    let large = "x".repeat(40 << 10);
    for protocol in ALL {
        for (count, value) in [(150, "x"), (1, large.as_str())] {
            let mut client = Client::connect(&chain, protocol).await;
            let mut request = client.request("GET", "/echo");
            for n in 0..count {
                let name: http::HeaderName = format!("x-field-{n}").parse().expect("name");
                request.headers_mut().insert(name, value.parse().expect("value"));
            }
            match client.send(request, "").await {
                Ok(answer) => assert_eq!(answer.status, 431, "{protocol:?} {count} fields"),
                // A client that knows the announced limit does not even send it (RFC 9114 section 4.2.2).
                Err(_) => assert!(protocol != Protocol::Http1, "{protocol:?} {count} fields"),
            }
        }
        let mut client = Client::connect(&chain, protocol).await;
        assert_eq!(client.get("/status/204").await.status, 204);
    }
    assert!(chain.upstream.log("/echo").await.is_empty(), "nothing of it reached the upstream");
}

#[tokio::test]
async fn a_connection_for_another_host_of_the_certificate_may_be_reused() {
    let chain = Chain::start().await;
    for protocol in [Protocol::Http2, Protocol::Http3] {
        let mut client = Client::connect(&chain, protocol).await;
        let mut request = client.request("GET", "/echo");
        *request.uri_mut() = "https://other.example.test/echo".parse().expect("uri");
        assert_eq!(client.send(request, "").await.expect("answer").status, 200, "{protocol:?}, opened for {HOST}");
    }
}
