//! HTTP/1.1 as bytes: heads, bodies, limits and what ends a connection.

use super::*;

#[tokio::test]
async fn http1_requests_share_a_connection() {
    let server = Server::start(Limits::default());
    let mut tls = server.http1().await;
    for number in 0..3 {
        let request = format!("POST /echo HTTP/1.1\r\nHost: a.example\r\nContent-Length: 6\r\n\r\nbody-{number}");
        tls.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut tls, &format!("body-{number}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert_eq!(server.metrics.http1.open.get(), 1);
    drop(tls);
    until(|| server.metrics.http1.open.get() == 0).await;
}

#[tokio::test]
async fn malformed_http1_requests_get_their_status_and_the_connection_ends() {
    let server = Server::start(Limits::default());
    let many: String = (0..200).map(|number| format!("X-{number}: 1\r\n")).collect();
    let large = format!("X: {}\r\n", "a".repeat(40 << 10));
    for (expected, request) in [
        (400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".to_owned()),
        (400, "GET https://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n".to_owned()),
        (400, "GET / HTTP/3.7\r\nHost: a\r\n\r\n".to_owned()),
        (400, "G@T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (400, "garbage\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1x\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello".to_owned()),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n".to_owned()),
        (400, "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()),
        (501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned()),
        (501, "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n".to_owned()),
        (421, "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned()),
        (431, format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
        (431, format!("GET / HTTP/1.1\r\nHost: a\r\n{large}\r\n")),
        (414, format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(70 << 10))),
    ] {
        let answer = server.raw(&request).await;
        let shown: String = request.chars().take(80).collect();
        let ok = answer.status() == expected || (expected == 414 && answer.status() == 431);
        assert!(ok, "{shown:?} gave {:?}", answer.text);
    }
    assert!(server.spine.notes.lock().is_empty());
    // Refusals of our own say who refused.
    let answer = server.raw("GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.text.contains("proxy-status: \"pop-a\"; error=http_request_error\r\n"), "{answer:?}");
}

#[tokio::test]
async fn a_request_with_both_framings_ends_its_connection() {
    let server = Server::start(Limits::default());
    // The second request is the smuggled one: it must never be answered.
    let answer = server
        .raw(
            "POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n\
             0\r\n\r\nGET /head HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    assert_eq!(answer.text.matches("HTTP/1.1").count(), 1, "{answer:?}");
    assert!(answer.text.ends_with("complete 0"));
}

#[tokio::test]
async fn the_spine_gets_a_clean_head() {
    let server = Server::start(Limits::default());
    let answer = server
        .raw(
            "GET https://a.example/head?q HTTP/1.1\r\nHost: A.example\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\
             Keep-Alive: 5\r\nUpgrade: h2c\r\nTE: gzip\r\nCookie: a=1\r\nCookie: b=2\r\nX-Kept: yes\r\n\r\n",
        )
        .await;
    let (_, body) = answer.text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "GET a.example /head?q\ncookie: a=1; b=2\nx-kept: yes");
}

#[tokio::test]
async fn a_request_body_cut_short_is_an_error_for_the_spine() {
    let server = Server::start(Limits::default());
    for request in [
        "POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234",
        "POST /collect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n",
    ] {
        let mut tls = server.http1().await;
        tls.write_all(request.as_bytes()).await.unwrap();
        tls.shutdown().await.unwrap();
        until(|| server.spine.noted("broken client_gone 502")).await;
        server.spine.notes.lock().clear();
    }
    let chunk = "POST /collect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    let _ = server.raw(chunk).await;
    assert!(server.spine.noted("broken http_request_error 400"), "{:?}", server.spine.notes.lock());
}

#[tokio::test]
async fn a_request_body_that_stalls_is_given_up() {
    let server = Server::start(Limits { body_timeout: Duration::from_millis(100), ..Limits::default() });
    let mut tls = server.http1().await;
    tls.write_all(b"POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234").await.unwrap();
    read_until(&mut tls, "broken http_request_error 408").await;
}

#[tokio::test]
async fn responses_of_the_wrong_length_never_end_cleanly() {
    let server = Server::start(Limits::default());
    for path in ["/short", "/broken"] {
        let answer = server.raw(&format!("GET {path} HTTP/1.1\r\n{GET_CLOSE}")).await;
        assert!(!answer.clean && !answer.text.ends_with("0\r\n\r\n"), "{path}: {answer:?}");
    }
    let answer = server.raw(&format!("GET /long HTTP/1.1\r\n{GET_CLOSE}")).await;
    let body = answer.text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    assert!(body.len() < 7 && !answer.clean, "{answer:?}");
    let answer = server.raw(&format!("GET /badlength HTTP/1.1\r\n{GET_CLOSE}")).await;
    assert_eq!(answer.status(), 502, "{answer:?}");
}

#[tokio::test]
async fn answers_without_content_have_none_and_hop_by_hop_fields_stay_here() {
    let server = Server::start(Limits::default());
    let answer = server.raw(&format!("HEAD /echo HTTP/1.1\r\n{GET_CLOSE}")).await;
    assert!(answer.status() == 200 && answer.text.ends_with("\r\n\r\n"), "{answer:?}");
    for path in ["/204", "/304"] {
        let answer = server.raw(&format!("GET {path} HTTP/1.1\r\n{GET_CLOSE}")).await;
        assert!(answer.clean && answer.text.ends_with("\r\n\r\n"), "{answer:?}");
        assert!(!answer.text.contains("content-length"), "{answer:?}");
    }
    let answer = server.raw(&format!("HEAD /short HTTP/1.1\r\n{GET_CLOSE}")).await;
    assert!(answer.clean && answer.text.contains("content-length: 10\r\n") && answer.text.ends_with("\r\n\r\n"));
    let mut tls = server.http1().await;
    tls.write_all(b"GET /hop HTTP/1.1\r\nHost: a\r\n\r\nGET /hop HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let answers = read_until(&mut tls, "ok").await;
    assert!(answers.contains("x-a: b") && !answers.contains("keep-alive") && !answers.contains("connection"));
}

#[tokio::test]
async fn trailers_reach_clients_that_take_them() {
    let server = Server::start(Limits::default());
    let answer = server.raw("GET /trailers HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, te\r\n\r\n").await;
    assert!(answer.clean && answer.text.ends_with("0\r\nx-sum: 1\r\n\r\n"), "{answer:?}");
}

#[tokio::test]
async fn expect_100_continue_is_answered_when_the_body_is_wanted() {
    let server = Server::start(Limits::default());
    let mut tls = server.http1().await;
    let head = b"POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    tls.write_all(head).await.unwrap();
    read_until(&mut tls, "HTTP/1.1 100 Continue\r\n\r\n").await;
    tls.write_all(b"01234").await.unwrap();
    read_until(&mut tls, "complete 5").await;
}

#[tokio::test]
async fn alt_svc_is_announced_until_http3_is_withdrawn() {
    let server = Server::start(Limits::default());
    let request = format!("GET /head HTTP/1.1\r\n{GET_CLOSE}");
    assert!(server.raw(&request).await.text.contains("alt-svc: h3=\":443\"; ma=86400\r\n"));
    server.alt_svc.withdraw();
    assert!(!server.raw(&request).await.text.contains("alt-svc"));
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    let server = Server::start(Limits::default());
    let mut tls = server.http1().await;
    tls.write_all(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    until(|| server.spine.noted("serving")).await;
    drop(tls);
    until(|| server.spine.noted("dropped")).await;
    assert_eq!(server.metrics.http1.resets.get(), 1);
}

#[tokio::test]
async fn idle_connections_end_cleanly_and_slow_heads_are_cut() {
    let limits = Limits {
        idle_timeout: Duration::from_millis(300),
        header_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = Server::start(limits);
    let mut idle = server.http1().await;
    idle.write_all(b"GET /head HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut idle).await;
    assert!(answer.clean && answer.status() == 200, "{answer:?}");
    assert_eq!((server.metrics.closed_idle.get(), server.metrics.closed_header_timeout.get()), (1, 0));

    let mut slow = server.http1().await;
    let mut sent = 0;
    let cut = in_time(async {
        for byte in b"GET /head HTTP/1.1\r\nHost: a".iter().cycle() {
            sent += 1;
            if slow.write_all(&[*byte]).await.is_err() || server.metrics.closed_header_timeout.get() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    cut.await;
    assert_eq!(server.metrics.closed_header_timeout.get(), 1, "{sent}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut() {
    let server = Server::start(Limits { body_timeout: Duration::from_millis(100), ..Limits::default() });
    let mut tls = server.http1().await;
    tls.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    until(|| server.spine.noted("body dropped")).await;
    until(|| server.metrics.cut_stalled.get() == 1).await;
}

#[tokio::test]
async fn a_handshake_that_never_comes_loses_its_place() {
    let limits = Limits { header_timeout: Duration::from_millis(50), handshakes_max: 1, ..Limits::default() };
    let server = Server::start(limits);
    let _silent = TcpStream::connect(server.address).await.unwrap();
    until(|| server.metrics.handshakes_late.get() == 1).await;
    let _connected = server.http1().await;
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    until(|| server.metrics.handshakes_failed.get() == 1).await;
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_counted() {
    let server = Server::start(Limits { connections_max: 1, ..Limits::default() });
    let first = server.http1().await;
    assert!(in_time(server.connect(b"http/1.1")).await.is_err());
    assert_eq!(server.metrics.refused_connections.get(), 1);
    drop(first);
    until(|| server.metrics.http1.open.get() == 0).await;
    server.http1().await;
}
