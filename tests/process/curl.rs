//! curl over three protocols gets the same answers.

use crate::chain::Chain;
use crate::client::curl::{curl, statuses};
use crate::client::{ALL, Answer, Protocol};

/// Fields that differ between two answers by their nature.
const OWN: [&str; 9] =
    ["date", "alt-svc", "via", "server-timing", "x-request-id", "connection", "transfer-encoding", "keep-alive", "age"];

fn comparable(answer: &Answer) -> Vec<(String, String)> {
    let fields = answer.headers.iter().filter(|(name, _)| !OWN.contains(&name.as_str()));
    let mut fields: Vec<_> = fields
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    fields.sort();
    fields
}

#[tokio::test]
async fn answers_are_identical_over_three_protocols() {
    let chain = Chain::start().await;
    std::fs::write(chain.folder().join("page.html"), "<p>a page</p>").expect("write");
    let cases: [(&str, &[&str]); 12] = [
        ("/page.html", &[]),
        ("/page.html", &["-r", "3-8"]),
        ("/page.html", &["-r", "99-"]),
        ("/page.html", &["-I"]),
        ("/bytes/100000", &[]),
        ("/bytes/100000", &["-r", "-10"]),
        ("/bytes/100000", &["-H", "If-None-Match: \"pattern-100000\""]),
        ("/status/204", &[]),
        ("/status/404", &[]),
        ("/status/503", &[]),
        ("/hash", &["-d", "some body"]),
        ("/fields?count=80&size=50", &[]),
    ];
    for (path, args) in cases {
        let mut answers = Vec::new();
        for protocol in ALL {
            answers.push(curl(&chain, protocol, path, args).await);
        }
        for answer in &answers[1..] {
            assert_eq!(answer.status, answers[0].status, "{path} {args:?}");
            assert_eq!(answer.body, answers[0].body, "{path} {args:?}");
            assert_eq!(comparable(answer), comparable(&answers[0]), "{path} {args:?}");
        }
        for answer in &answers {
            assert_eq!(answer.headers.get_all("date").iter().count(), 1, "{path} {args:?}: one date");
        }
    }
}

#[tokio::test]
async fn the_upstream_sees_the_same_request_whatever_the_protocol() {
    let chain = Chain::start().await;
    let mut seen = Vec::new();
    for protocol in ALL {
        let args =
            ["-X", "PUT", "-d", "payload", "-H", "X-Test: a", "-H", "X-Test: b", "-b", "c=1; d=2", "-A", "agent"];
        let mut echo = curl(&chain, protocol, "/echo?q=1%20x&r", &args).await.json();
        let fields = echo["headers"].as_array_mut().expect("fields");
        let own = ["via", "x-request-id", "forwarded", "host", "x-forwarded-host"];
        fields.retain(|field| !own.contains(&field[0].as_str().expect("a name")));
        fields.sort_by_key(ToString::to_string);
        seen.push(echo);
    }
    assert_eq!(seen[0]["path"], "/echo?q=1%20x&r");
    assert_eq!(seen[0]["body"], "payload");
    assert_eq!(seen[1], seen[0], "HTTP/2 and HTTP/1.1");
    assert_eq!(seen[2], seen[0], "HTTP/3 and HTTP/1.1");
}

#[tokio::test]
async fn http3_is_announced_to_clients_of_the_others() {
    let chain = Chain::start().await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let announced = curl(&chain, protocol, "/status/200", &[]).await.field("alt-svc");
        assert!(announced.contains(&format!("h3=\":{}\"", chain.http3(0).port())), "{announced:?}");
    }
}

#[tokio::test]
async fn interim_responses_reach_clients() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let answer = curl(&chain, protocol, "/early-hints?delay=50", &[]).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &b"hinted\n"[..]));
        // hyper's server can send no 1xx, so only HTTP/3 clients get it.
        let expected: &[u16] = if protocol == Protocol::Http3 { &[103, 200] } else { &[200] };
        assert_eq!(statuses(&chain), expected, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it_before_it_sends() {
    let chain = Chain::start().await;
    let body = chain.folder().join("upload");
    std::fs::write(&body, vec![b'u'; 3 << 20]).expect("write");
    let upload = format!("@{}", body.display());
    for protocol in ALL {
        let args = ["-H", "Expect: 100-continue", "--data-binary", &upload];
        let answer = curl(&chain, protocol, "/hash", &args).await;
        assert_eq!((answer.status, answer.json()["length"].as_u64()), (200, Some(3 << 20)), "{protocol:?}");
    }
    assert_eq!(statuses(&chain).last(), Some(&200));
}
