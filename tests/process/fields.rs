//! What an intermediary removes, adds and tells.

use http::HeaderMap;
use serde_json::Value;

use crate::chain::{Chain, HOST, Setup};
use crate::client::{ALL, Client, Protocol};

/// The fields that the upstream got.
fn received(echo: &Value) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for field in echo["headers"].as_array().expect("fields") {
        let name: http::HeaderName = field[0].as_str().expect("name").parse().expect("name");
        fields.append(name, field[1].as_str().expect("value").parse().expect("value"));
    }
    fields
}

fn text<'a>(fields: &'a HeaderMap, name: &str) -> &'a str {
    fields.get(name).map_or("", |value| value.to_str().expect("text"))
}

#[tokio::test]
async fn connection_fields_stop_at_each_hop() {
    let chain = Chain::start().await;
    let mut client = Client::connect(&chain, Protocol::Http1).await;
    let mut request = client.request("GET", "/echo");
    let sent = [
        ("connection", "keep-alive, x-hop"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic eA=="),
        ("te", "trailers, gzip"),
        ("x-hop", "1"),
        ("x-end", "2"),
    ];
    for (name, value) in sent {
        request.headers_mut().insert(name, value.parse().expect("value"));
    }
    let answer = client.send(request, "").await.expect("answer");
    let got = received(&answer.json());
    for name in ["keep-alive", "proxy-connection", "proxy-authorization", "x-hop", "transfer-encoding"] {
        assert!(!got.contains_key(name), "{name} went through: {got:?}");
    }
    assert_eq!(text(&got, "x-end"), "2");
}

#[tokio::test]
async fn the_upstream_learns_who_asked_and_cannot_be_lied_to() {
    let chain = Chain::start().await;
    for (protocol, version) in ALL.into_iter().zip(["1.1", "2", "3"]) {
        let mut client = Client::connect(&chain, protocol).await;
        let mut request = client.request("GET", "/echo");
        let lies = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=6.6.6.6"),
        ];
        for (name, value) in lies {
            request.headers_mut().insert(name, value.parse().expect("value"));
        }
        let answer = client.send(request, "").await.expect("answer");
        let got = received(&answer.json());
        assert_eq!(text(&got, "x-forwarded-for"), "127.0.0.1", "{protocol:?}");
        assert_eq!(text(&got, "x-forwarded-proto"), "https", "{protocol:?}");
        assert!(text(&got, "x-forwarded-host").starts_with(HOST), "{protocol:?}: {got:?}");
        assert!(text(&got, "forwarded").starts_with("for=127.0.0.1;proto=https;host=\"www.example.test"), "{got:?}");
        assert!(text(&got, "host").starts_with(HOST), "{protocol:?}");
        let via = got.get_all("via").iter().map(|via| via.to_str().expect("text")).collect::<Vec<_>>().join(", ");
        assert!(via.starts_with(&format!("{version} pop-a")), "{protocol:?}: {via}");
    }
}

#[tokio::test]
async fn a_trusted_peer_is_believed() {
    let chain = Chain::with(Setup { edge_top: "trusted = [\"127.0.0.0/8\"]", ..Setup::default() }).await;
    let mut client = Client::connect(&chain, Protocol::Http3).await;
    let mut request = client.request("GET", "/echo");
    request.headers_mut().insert("x-forwarded-for", "192.0.2.7".parse().expect("value"));
    request.headers_mut().insert("x-forwarded-proto", "http".parse().expect("value"));
    let got = received(&client.send(request, "").await.expect("answer").json());
    assert_eq!(text(&got, "x-forwarded-for"), "192.0.2.7, 127.0.0.1");
    assert_eq!(text(&got, "x-forwarded-proto"), "http");
}

#[tokio::test]
async fn one_request_id_goes_to_both_ends() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let mut ids = Vec::new();
        for _ in 0..2 {
            let answer = client.get("/echo").await;
            let id = answer.field("x-request-id");
            assert!(id.len() >= 16, "{protocol:?}: {id:?}");
            assert_eq!(text(&received(&answer.json()), "x-request-id"), id, "{protocol:?}");
            ids.push(id);
        }
        assert_ne!(ids[0], ids[1], "each request has its own");
    }
}

#[tokio::test]
async fn cookies_arrive_as_one_field() {
    let chain = Chain::start().await;
    for protocol in [Protocol::Http2, Protocol::Http3] {
        let mut client = Client::connect(&chain, protocol).await;
        let mut request = client.request("GET", "/echo");
        for crumb in ["a=1", "b=2", "c=3"] {
            request.headers_mut().append("cookie", crumb.parse().expect("value"));
        }
        let got = received(&client.send(request, "").await.expect("answer").json());
        assert_eq!(got.get_all("cookie").iter().count(), 1, "{protocol:?}: RFC 9113 section 8.2.3");
        assert_eq!(text(&got, "cookie"), "a=1; b=2; c=3", "{protocol:?}");
    }
}

#[tokio::test]
async fn responses_tell_how_they_came() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let answer = client.get("/status/200").await;
        assert!(answer.field("via").contains("pop-a"), "{protocol:?}: {answer:?}");
        assert!(!answer.field("server-timing").is_empty(), "{protocol:?}: {answer:?}");
        assert_eq!(answer.field("proxy-status"), "", "the upstream answered by itself");
        for name in ["connection", "keep-alive", "transfer-encoding", "upgrade"] {
            assert!(protocol == Protocol::Http1 || !answer.headers.contains_key(name), "{protocol:?}: {name}");
        }
    }
}

#[tokio::test]
async fn trailers_go_both_ways() {
    for h2c in [false, true] {
        let chain = Chain::with(Setup { h2c, ..Setup::default() }).await;
        for protocol in ALL {
            let mut client = Client::connect(&chain, protocol).await;
            let mut request = client.request("POST", "/echo/body");
            for (name, value) in [("te", "trailers"), ("trailer", "x-sum")] {
                request.headers_mut().insert(name, value.parse().expect("value"));
            }
            if protocol == Protocol::Http1 {
                request.headers_mut().insert("connection", "te".parse().expect("value"));
            }
            let mut exchange = client.open(request).await.expect("open");
            exchange.upload.data("body".into()).await.expect("data");
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse().expect("value"));
            exchange.upload.trailers(trailers.clone()).await.expect("trailers");
            let answer = crate::client::collect(exchange.response().await.expect("head")).await.expect("whole");
            assert_eq!(&answer.body[..], b"body", "{protocol:?} h2c {h2c}");
            assert_eq!(answer.trailers, Some(trailers), "{protocol:?} h2c {h2c}");
        }
    }
}
