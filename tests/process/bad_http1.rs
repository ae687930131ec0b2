//! Malformed HTTP/1.1: refused with the right status, on a connection of its own, and never passed on.

use crate::chain::Chain;
use crate::client::raw::http1;

const CASES: [(&str, &str, u16); 15] = [
    ("no version", "GET /x\r\n\r\n", 400),
    ("garbage", "\x16\x03\x01garbage\r\n\r\n", 400),
    ("no host", "GET /x HTTP/1.1\r\n\r\n", 400),
    ("two hosts", "GET /x HTTP/1.1\r\nhost: www.example.test\r\nhost: other.example.test\r\n\r\n", 400),
    ("host with userinfo", "GET /x HTTP/1.1\r\nhost: user@www.example.test\r\n\r\n", 400),
    ("bad version", "GET /x HTTP/3.0\r\nhost: www.example.test\r\n\r\n", 400),
    ("space before colon", "GET /x HTTP/1.1\r\nhost : www.example.test\r\n\r\n", 400),
    ("line folding", "GET /x HTTP/1.1\r\nhost: www.example.test\r\nx-a: b\r\n c\r\n\r\n", 400),
    ("NUL in a value", "GET /x HTTP/1.1\r\nhost: www.example.test\r\nx-a: \0\r\n\r\n", 400),
    (
        "two lengths",
        "POST /x HTTP/1.1\r\nhost: www.example.test\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        400,
    ),
    ("a signed length", "POST /x HTTP/1.1\r\nhost: www.example.test\r\ncontent-length: +1\r\n\r\na", 400),
    (
        "a huge length",
        "POST /x HTTP/1.1\r\nhost: www.example.test\r\ncontent-length: 99999999999999999999\r\n\r\na",
        400,
    ),
    ("unknown coding", "POST /x HTTP/1.1\r\nhost: www.example.test\r\ntransfer-encoding: gzip\r\n\r\n", 400),
    (
        "chunked twice",
        "POST /x HTTP/1.1\r\nhost: www.example.test\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("bad escape of authority", "GET http://[::1/x HTTP/1.1\r\nhost: www.example.test\r\n\r\n", 400),
];

#[tokio::test]
async fn malformed_heads_are_refused_and_end_the_connection() {
    let chain = Chain::start().await;
    for (name, request, expected) in CASES {
        let statuses = http1(&chain, request.as_bytes()).await;
        let accepted = match name {
            // RFC 9112 section 6.1 allows 501 for a coding that is not understood, RFC 9110 section 15.6.6 asks for 505.
            "unknown coding" | "chunked twice" => [Some(400), Some(501)],
            "bad version" => [Some(400), Some(505)],
            _ => [Some(expected), None],
        };
        assert!(accepted.contains(&statuses.first().copied()), "{name}: {statuses:?}");
        assert_eq!(statuses.len(), 1, "{name}: {statuses:?}");
    }
    assert!(chain.upstream.log("/x").await.is_empty(), "nothing of it reached the upstream");
}

#[tokio::test]
async fn a_smuggled_request_stays_a_body() {
    let chain = Chain::start().await;
    // The second request lies in the first one's body by length; read as chunked it would be one of its own.
    let inner = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: www.example.test\r\n\r\n";
    let head = "POST /echo HTTP/1.1\r\nhost: www.example.test\r\nconnection: close\r\ncontent-length:";
    let statuses = http1(&chain, format!("{head} {}\r\n\r\n{inner}", inner.len()).as_bytes()).await;
    assert_eq!(statuses, [200]);
    assert!(chain.upstream.log("/smuggled").await.is_empty());
}

#[tokio::test]
async fn a_length_beside_chunks_counts_for_nothing_and_ends_the_connection() {
    let chain = Chain::start().await;
    // RFC 9112 section 6.1: chunks alone count, and the connection closes after the response, whatever follows.
    for fields in
        ["content-length: 61\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 3"]
    {
        let body = "3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: www.example.test\r\n\r\n";
        let head = format!("POST /count?key=both HTTP/1.1\r\nhost: www.example.test\r\n{fields}\r\n\r\n");
        assert_eq!(http1(&chain, format!("{head}{body}").as_bytes()).await, [200], "{fields}");
    }
    assert_eq!(chain.upstream.executions("both").await["finished"], 2);
    assert!(chain.upstream.log("/smuggled").await.is_empty());
}

#[tokio::test]
async fn a_chunk_that_is_malformed_cuts_the_request() {
    let chain = Chain::start().await;
    for body in ["5\r\nhello\r\nzz\r\n", "5\r\nhelloX\r\n0\r\n\r\n", "-1\r\n", "fffffffffffffffff\r\n"] {
        let head = "POST /count?key=cut HTTP/1.1\r\nhost: www.example.test\r\ntransfer-encoding: chunked\r\n\r\n";
        let statuses = http1(&chain, format!("{head}{body}").as_bytes()).await;
        assert!(statuses.iter().all(|status| *status == 400), "{body:?}: {statuses:?}");
    }
    assert_eq!(chain.upstream.executions("cut").await["finished"], 0);
}
