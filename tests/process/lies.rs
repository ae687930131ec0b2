//! Upstreams that lie: what they cut or make up never reaches a client as a complete answer.

use crate::chain::scripted::{Script, Scripted};
use crate::chain::{Chain, Setup, metric};
use crate::client::curl::{curl, statuses};
use crate::client::{ALL, Client, Protocol, collect};

/// Bodies that break after a good head.
const CUT: [Script; 5] = [
    ("/short", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly a part"),
    ("/cut-chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\nonly a part"),
    ("/no-last-chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n"),
    ("/no-end-of-trailers", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\nx-a: b\r\n"),
    ("/bad-chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\nzz\r\n"),
];

/// Heads that are none, and the error type of RFC 9209 that tells of them.
const REFUSED: [(&str, &str, &str); 7] = [
    (
        "/unasked-101",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "http_protocol_error",
    ),
    ("/garbage", "this is not HTTP\r\n\r\n", "http_protocol_error"),
    ("/two-lengths", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nwhole!", "http_protocol_error"),
    ("/signed-length", "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nwhole", "http_protocol_error"),
    ("/folded", "HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\nbad header: 1\r\n\r\n", "http_protocol_error"),
    ("/half-a-head", "HTTP/1.1 200 OK\r\nx-a: ", "connection_terminated"),
    ("/nothing", "", "connection_terminated"),
];

/// Bodies that break when their first part has arrived.
const CUT_LATER: [Script; 4] = [
    ("/later/short", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\na part<pause>and no more"),
    ("/later/cut-chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\na part\r\n<pause>10\r\nno more"),
    ("/later/no-last-chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\na part\r\n<pause>"),
    ("/later/bad-chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\na part\r\n<pause>zz\r\n"),
];

async fn chain(scripts: &[Script]) -> (Chain, Scripted) {
    let upstream = Scripted::start(scripts).await;
    let chain = Chain::with(Setup { upstreams: vec![upstream.url()], ..Setup::default() }).await;
    (chain, upstream)
}

#[tokio::test]
async fn a_body_that_is_cut_is_a_reset_and_never_a_clean_end() {
    let (chain, _upstream) = chain(&CUT).await;
    for protocol in ALL {
        for (path, _) in CUT {
            let mut client = Client::connect(&chain, protocol).await;
            let request = client.request("GET", path);
            // The cut may come together with the head, and a library may tell both as one failure.
            let Ok(response) = client.stream(request).await else { continue };
            let status = response.status();
            let whole = collect(response).await;
            // Before the head went on to the client there is still time to say what happened.
            assert!(
                status == 502 || (status == 200 && whole.is_err()),
                "{protocol:?} {path} looks complete: {whole:?}"
            );
        }
    }
    assert!(metric(chain.admin(0), "trunkline_edge_faults_total").await >= 15.0, "each of them is counted");
}

#[tokio::test]
async fn a_body_that_is_cut_when_the_client_reads_it_already_is_a_reset() {
    let (chain, upstream) = chain(&CUT_LATER).await;
    for protocol in ALL {
        for (path, _) in CUT_LATER {
            let mut client = Client::connect(&chain, protocol).await;
            let request = client.request("GET", path);
            let mut response = client.stream(request).await.expect("a head");
            assert_eq!((response.status().as_u16(), &response.body_mut().data().await[..]), (200, &b"a part"[..]));
            upstream.go_on();
            let rest = crate::chain::in_time("the cut", collect(response)).await;
            assert!(rest.is_err(), "{protocol:?} {path} looks complete: {rest:?}");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_cut_leaves_other_requests_of_the_connection_alone() {
    let fine = ("/fine", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole");
    let (chain, upstream) = chain(&[CUT_LATER[0], fine]).await;
    for protocol in crate::client::MULTIPLEXED {
        let mut client = Client::connect(&chain, protocol).await;
        let request = client.request("GET", CUT_LATER[0].0);
        let response = client.stream(request).await.expect("a head");
        upstream.go_on();
        assert!(collect(response).await.is_err(), "{protocol:?}");
        assert_eq!(&client.get("/fine").await.body[..], b"whole", "{protocol:?}");
    }
}

#[tokio::test]
async fn a_head_that_is_none_is_502_with_its_reason() {
    let scripts = REFUSED.map(|(path, bytes, _)| (path, bytes));
    let (chain, _upstream) = chain(&scripts).await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        for (path, _, reason) in REFUSED {
            let answer = client.get(path).await;
            assert_eq!(answer.status, 502, "{protocol:?} {path}: {answer:?}");
            assert_eq!(answer.field("proxy-status"), format!("\"pop-a\"; error={reason}"), "{protocol:?} {path}");
        }
    }
}

#[tokio::test]
async fn bytes_behind_a_response_are_nobodys_answer() {
    let forged = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole\
                  HTTP/1.1 200 OK\r\nx-forged: 1\r\ncontent-length: 6\r\n\r\nforged";
    let fine = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine";
    let upstream = Scripted::keeping(&[("/forged", forged), ("/fine", fine)]).await;
    let chain = Chain::with(Setup { upstreams: vec![upstream.url()], ..Setup::default() }).await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        for (path, body) in [("/forged", "whole"), ("/fine", "fine"), ("/fine", "fine")] {
            assert_eq!(client.get(path).await.body, body, "{protocol:?} {path}");
        }
    }
}

#[tokio::test]
async fn a_length_beside_chunks_does_not_go_on() {
    let both = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n";
    let (chain, _upstream) = chain(&[("/both", both)]).await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let answer = client.get("/both").await;
        // RFC 9112 section 6.3: chunks count, and the length is removed before the message goes on. An error is as good.
        match answer.status {
            200 => assert_eq!(
                (&answer.body[..], answer.field("content-length").as_str()),
                (&b"whole"[..], ""),
                "{protocol:?}"
            ),
            status => assert_eq!(status, 502, "{protocol:?}"),
        }
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_502() {
    let field = format!("x-large: {}\r\n", "x".repeat(80 << 10));
    let many: String = (0..300).map(|n| format!("x-{n}: 1\r\n")).collect();
    let head = |fields: &str| &*format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n").leak();
    let (chain, _upstream) = chain(&[("/large", head(&field)), ("/many", head(&many))]).await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        for path in ["/large", "/many"] {
            let answer = client.get(path).await;
            assert_eq!(answer.status, 502, "{protocol:?} {path}");
            let reason = "\"pop-a\"; error=http_response_header_section_size";
            assert_eq!(answer.field("proxy-status"), reason, "{protocol:?} {path}");
        }
    }
}

#[tokio::test]
async fn interim_responses_are_not_taken_for_the_final_one() {
    let script = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
                  HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole";
    let (chain, _upstream) = chain(&[("/interim", script)]).await;
    for protocol in ALL {
        let answer = curl(&chain, protocol, "/interim", &[]).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &b"whole"[..]), "{protocol:?}");
        // hyper's server can send no 1xx, so only HTTP/3 clients get them.
        let expected: &[u16] = if protocol == Protocol::Http3 { &[103, 100, 200] } else { &[200] };
        assert_eq!(statuses(&chain), expected, "{protocol:?}");
    }
}

/// An HTTP/2 upstream that does one wrong thing per path.
async fn lying_http2() -> (String, tokio::task::JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("h2c://{}", listener.local_addr().expect("address"));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    lie(request.uri().path(), respond);
                }
            });
        }
    });
    (url, tasks)
}

fn lie(path: &str, mut respond: h2::server::SendResponse<bytes::Bytes>) {
    let length = match path {
        "/short" | "/reset-as-if-done" => "100",
        "/long" => "3",
        _ => {
            let response = http::Response::builder().status(204).body(()).expect("response");
            return drop(respond.send_response(response, true));
        }
    };
    let response = http::Response::builder().header("content-length", length).body(()).expect("response");
    let Ok(mut stream) = respond.send_response(response, false) else { return };
    let end = path != "/reset-as-if-done";
    let _ = stream.send_data("only a part".into(), end);
    if !end {
        stream.send_reset(h2::Reason::NO_ERROR);
    }
}

#[tokio::test]
async fn an_http2_upstream_cannot_pass_a_part_for_the_whole_either() {
    let (url, _tasks) = lying_http2().await;
    let chain = Chain::with(Setup { upstreams: vec![url], ..Setup::default() }).await;
    for protocol in ALL {
        for path in ["/short", "/long", "/reset-as-if-done"] {
            let mut client = Client::connect(&chain, protocol).await;
            let request = client.request("GET", path);
            let whole = match client.stream(request).await {
                Ok(response) if response.status() == 200 => collect(response).await,
                Ok(response) => {
                    assert_eq!(response.status(), 502, "{protocol:?} {path}");
                    continue;
                }
                Err(error) => Err(error),
            };
            assert!(whole.is_err(), "{protocol:?} {path} looks complete: {whole:?}");
        }
    }
}
