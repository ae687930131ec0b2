use super::*;

async fn once(answer: &'static str) -> Rig {
    let address = scripted(move |_, mut peer| async move {
        peer.head().await;
        peer.write(answer).await;
    })
    .await;
    Rig::http1(address)
}

#[tokio::test]
async fn a_request_has_host_and_target_and_the_response_its_fields() {
    let (sent, mut got) = mpsc::channel(1);
    let address = scripted(move |_, mut peer| {
        let sent = sent.clone();
        async move {
            sent.send(peer.head().await.unwrap()).await.unwrap();
            peer.write("HTTP/1.1 201 Created\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let rig = Rig::http1(address);
    let response = rig.send(with(head(Method::POST, "/p?q=1"), "x-b", "3"), none()).await.unwrap();
    assert_eq!(response.head.status, StatusCode::CREATED);
    assert_eq!(response.head.headers.get_all("x-a").iter().count(), 2);
    assert_eq!(text(response.body).await.unwrap(), "ok");
    let request = soon(got.recv()).await.unwrap();
    assert!(request.starts_with("POST /p?q=1 HTTP/1.1\r\n"), "{request}");
    for line in ["host: www.example.com\r\n", "x-b: 3\r\n", "content-length: 0\r\n"] {
        assert!(request.contains(line), "{line:?} in {request}");
    }
    assert_eq!(rig.seen.accepted.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_host_setting_replaces_the_authority() {
    let (sent, mut got) = mpsc::channel(1);
    let address = scripted(move |_, mut peer| {
        let sent = sent.clone();
        async move { sent.send(peer.head().await.unwrap()).await.unwrap() }
    })
    .await;
    let mut service = service(vec![tcp(UpstreamScheme::Http, address)], limits());
    service.host = Some("inner.test:81".into());
    let rig = Rig::new(&service);
    assert!(rig.get("/").await.is_err());
    assert!(soon(got.recv()).await.unwrap().contains("host: inner.test:81\r\n"));
}

#[tokio::test]
async fn connection_specific_fields_end_here() {
    let rig = once(
        "HTTP/1.1 200 OK\r\nconnection: x-hop, close\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nupgrade: h2c\r\n\
         content-length: 0\r\nx-end: 1\r\n\r\n",
    )
    .await;
    let response = rig.get("/").await.unwrap();
    let mut names: Vec<_> = response.head.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "x-end"]);
}

#[tokio::test]
async fn a_short_body_is_an_error() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let rig = once(answer).await;
        let fault = fault(rig.get("/").await.unwrap().body).await;
        assert_eq!((fault.kind, fault.retry), (Kind::ResponseIncomplete, Retry::Never), "{answer:?}");
        assert_eq!(rig.metrics().broken.get(), 1);
    }
}

#[tokio::test]
async fn a_body_without_length_ends_with_its_connection() {
    let rig = once("HTTP/1.1 200 OK\r\n\r\nall of it").await;
    assert_eq!(rig.text("/").await.unwrap(), "all of it");
}

#[tokio::test]
async fn malformed_heads_are_protocol_errors() {
    let answers = [
        ("HTTP/1.1 abc\r\n\r\n", Kind::ProtocolError),
        ("SSH-2.0-OpenSSH_9.2\r\n", Kind::ProtocolError),
        ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Kind::ProtocolError),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx", Kind::ProtocolError),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nxx", Kind::ProtocolError),
        ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", Kind::ProtocolError),
        ("HTTP/1.1 200 OK\r\ncontent-le", Kind::ConnectionTerminated),
        ("", Kind::ConnectionTerminated),
    ];
    for (answer, kind) in answers {
        let rig = once(answer).await;
        let fault = rig.get("/").await.err().unwrap();
        assert_eq!((fault.stage, fault.side, fault.kind), (Stage::Upstream, Side::Upstream, kind), "{answer:?}");
        until(|| rig.pool().open() == 0).await;
    }
}

#[tokio::test]
async fn transfer_encoding_beats_and_hides_a_length() {
    let rig =
        once("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    let response = rig.get("/").await.unwrap();
    assert!(response.head.headers.is_empty());
    assert_eq!(text(response.body).await.unwrap(), "hello");
}

#[tokio::test]
async fn oversized_heads_are_refused() {
    let many = scripted(|_, mut peer| async move {
        peer.head().await;
        peer.write(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-a: 1\r\n".repeat(21))).await;
        peer.closed().await;
    });
    let large = scripted(|_, mut peer| async move {
        peer.head().await;
        peer.write(&format!("HTTP/1.1 200 OK\r\nx-a: {}\r\n\r\n", "a".repeat(9_000))).await;
        peer.closed().await;
    });
    for address in [many.await, large.await] {
        let limits = UpstreamLimits { fields_max: 20, field_section_max: 8_192, ..limits() };
        let fault = Rig::http1_with(address, limits).get("/").await.err().unwrap();
        assert_eq!((fault.kind, fault.retry), (Kind::ResponseHeaderSectionSize, Retry::Never));
    }
}

#[tokio::test]
async fn responses_without_a_body_leave_the_connection_usable() {
    for (method, status) in
        [(Method::HEAD, "200 OK"), (Method::GET, "204 No Content"), (Method::GET, "304 Not Modified")]
    {
        let (address, counts) = answering(match status {
            "200 OK" => "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n",
            "204 No Content" => "HTTP/1.1 204 No Content\r\n\r\n",
            _ => "HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n",
        })
        .await;
        let rig = Rig::http1(address);
        for _ in 0..3 {
            let response = rig.send(head(method.clone(), "/"), none()).await.unwrap();
            assert!(response.body.is_end_stream());
            assert_eq!(text(response.body).await.unwrap(), "");
        }
        assert_eq!(counts.connections(), 1, "{method} {status}");
    }
}

#[tokio::test]
async fn trailers_travel_both_ways() {
    let address = scripted(|_, mut peer| async move {
        let head = peer.head().await.unwrap();
        assert!(head.contains("te: trailers\r\n") && head.contains("connection: te\r\n"), "{head}");
        assert_eq!(peer.read_to(b"\r\n\r\n").await.unwrap(), "2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n");
        peer.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-check: 9\r\n\r\n").await;
    })
    .await;
    let rig = Rig::http1(address);
    let (feed, body) = fed();
    feed.send(data("hi")).await.unwrap();
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("7"))]);
    feed.send(Ok(Frame::trailers(trailers))).await.unwrap();
    drop(feed);
    let head = with(with(head(Method::POST, "/"), "te", "trailers"), "trailer", "x-sum");
    let collected = soon(rig.send(head, body).await.unwrap().body.collect()).await.unwrap();
    assert_eq!(collected.trailers().unwrap().get("x-check").unwrap(), "9");
    assert_eq!(collected.to_bytes(), "ok");
}

#[tokio::test]
async fn interim_responses_are_seen_before_the_final_one() {
    let address = scripted(|_, mut peer| async move {
        assert!(peer.head().await.unwrap().contains("expect: 100-continue\r\n"));
        peer.write("HTTP/1.1 100 Continue\r\n\r\n").await;
        peer.write("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nconnection: x\r\nx: y\r\n\r\n").await;
        assert_eq!(peer.read_to(b"body").await.unwrap(), "body");
        peer.write(OK).await;
    })
    .await;
    let rig = Rig::http1(address);
    let (feed, body) = fed();
    let head = with(with(head(Method::PUT, "/"), "expect", "100-continue"), "content-length", "4");
    // As a client would: the body only after 100.
    let client = async {
        until(|| rig.seen.interim.lock().len() == 2).await;
        feed.send(data("body")).await.unwrap();
    };
    let (response, ()) = tokio::join!(rig.send(head, body), client);
    assert_eq!(text(response.unwrap().body).await.unwrap(), "ok");
    let interim = rig.seen.interim.lock();
    assert_eq!(interim[0].status, StatusCode::CONTINUE);
    assert_eq!(interim[1].status, StatusCode::EARLY_HINTS);
    assert_eq!(interim[1].headers.len(), 1, "only link");
}

#[tokio::test]
async fn a_head_that_does_not_come_times_out_and_closes() {
    let (closed, mut gone) = mpsc::channel(1);
    let address = scripted(move |_, mut peer| {
        let closed = closed.clone();
        async move {
            peer.head().await;
            peer.closed().await;
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let limits = UpstreamLimits { response_timeout: Duration::from_millis(50), ..limits() };
    let rig = Rig::http1_with(address, limits);
    let fault = rig.get("/").await.err().unwrap();
    assert_eq!((fault.kind, fault.retry), (Kind::ResponseTimeout, Retry::Never));
    soon(gone.recv()).await.unwrap();
    assert_eq!(rig.metrics().response_timeouts.get(), 1);
}

#[tokio::test]
async fn a_long_upload_is_not_measured_against_the_response_timeout() {
    let address = scripted(|_, mut peer| async move {
        peer.head().await;
        peer.read_to(b"end").await;
        peer.write(OK).await;
    })
    .await;
    let limits = UpstreamLimits {
        response_timeout: Duration::from_millis(40),
        body_timeout: Duration::from_millis(40),
        ..limits()
    };
    let rig = Rig::http1_with(address, limits);
    let (feed, body) = fed();
    let client = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(30));
        for piece in ["a", "b", "c", "d", "e", "end"] {
            ticks.tick().await;
            feed.send(data(piece)).await.unwrap();
        }
        drop(feed);
    };
    let (response, ()) = tokio::join!(rig.send(head(Method::POST, "/"), body), client);
    assert_eq!(text(response.unwrap().body).await.unwrap(), "ok");
}

#[tokio::test]
async fn a_body_that_stalls_times_out_but_an_event_stream_does_not() {
    let limits = || UpstreamLimits { body_timeout: Duration::from_millis(50), ..limits() };
    let stalled = scripted(|_, mut peer| async move {
        peer.head().await;
        peer.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await;
        peer.closed().await;
    });
    let rig = Rig::http1_with(stalled.await, limits());
    assert_eq!(fault(rig.get("/").await.unwrap().body).await.kind, Kind::ConnectionReadTimeout);
    let events = scripted(|_, mut peer| async move {
        peer.head().await;
        peer.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\ndata: 1\n\n").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        peer.write("data: 2\n\n").await;
    });
    let rig = Rig::http1_with(events.await, limits());
    assert_eq!(rig.text("/").await.unwrap(), "data: 1\n\ndata: 2\n\n");
}

#[tokio::test]
async fn an_upstream_that_stops_reading_an_upload_times_out() {
    let address = scripted(|_, mut peer| async move {
        peer.head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let rig = Rig::http1_with(address, UpstreamLimits { body_timeout: Duration::from_millis(100), ..limits() });
    let (feed, body) = fed();
    let client = async {
        let piece = Bytes::from(vec![0; 64 << 10]);
        while feed.send(Ok(Frame::data(piece.clone()))).await.is_ok() {}
    };
    let (response, ()) = tokio::join!(rig.send(head(Method::POST, "/"), body), client);
    assert_eq!(response.err().unwrap().kind, Kind::ConnectionWriteTimeout);
    assert_eq!(rig.metrics().body_timeouts.get(), 1);
}

#[tokio::test]
async fn a_request_body_that_breaks_or_lies_never_looks_complete_to_the_upstream() {
    let (saw, mut seen) = mpsc::channel(1);
    let address = scripted(move |_, mut peer| {
        let saw = saw.clone();
        async move {
            peer.head().await;
            let complete = peer.read_to(b"0\r\n\r\n").await.is_some();
            saw.send(complete).await.unwrap();
        }
    })
    .await;
    let rig = Rig::http1(address);
    let (feed, body) = fed();
    feed.send(data("half")).await.unwrap();
    feed.send(Err(Fault::client_gone(Stage::Tunnel))).await.unwrap();
    let broken = rig.send(head(Method::POST, "/"), body).await.err().unwrap();
    assert_eq!(broken, Fault::client_gone(Stage::Tunnel), "the client's own fault");
    assert!(!soon(seen.recv()).await.unwrap());
    for length in ["3", "5"] {
        let head = with(head(Method::POST, "/"), "content-length", length);
        let (feed, body) = fed();
        feed.send(data("four")).await.unwrap();
        drop(feed);
        let lied = rig.send(head, body).await.err().unwrap();
        assert_eq!(lied.kind, Kind::RequestError(StatusCode::BAD_REQUEST), "content-length {length}");
        assert!(!soon(seen.recv()).await.unwrap());
    }
}

#[tokio::test]
async fn an_answer_before_the_request_was_read_is_delivered_and_the_connection_closed() {
    let (address, counts) = answering("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig").await;
    let rig = Rig::http1(address);
    let (feed, body) = fed();
    let response = rig.send(head(Method::POST, "/"), body).await.unwrap();
    assert_eq!(text(response.body).await.unwrap(), "big");
    until(|| counts.closed() == 1).await;
    soon(feed.closed()).await;
    assert_eq!(rig.text("/").await.unwrap(), "big");
    assert_eq!(counts.connections(), 2);
}

#[tokio::test]
async fn dropping_the_request_or_the_body_closes_the_connection() {
    let (step, mut steps) = mpsc::channel(4);
    let address = scripted(move |number, mut peer| {
        let step = step.clone();
        async move {
            peer.head().await;
            if number == 1 {
                peer.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc").await;
            }
            step.send("got").await.unwrap();
            peer.closed().await;
            step.send("closed").await.unwrap();
        }
    })
    .await;
    let rig = Rig::http1(address);
    tokio::select! {
        _ = rig.get("/") => unreachable!("no answer comes"),
        got = steps.recv() => assert_eq!(got, Some("got")),
    }
    assert_eq!(soon(steps.recv()).await, Some("closed"));
    let response = rig.get("/").await.unwrap();
    drop(response);
    assert_eq!(soon(steps.recv()).await, Some("got"));
    assert_eq!(soon(steps.recv()).await, Some("closed"));
    until(|| rig.pool().open() == 0).await;
}

#[tokio::test]
async fn force_cuts_a_body_instead_of_ending_it() {
    let address = scripted(|_, mut peer| async move {
        peer.head().await;
        peer.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
        peer.closed().await;
    })
    .await;
    let rig = Rig::http1(address);
    let response = rig.get("/").await.unwrap();
    rig.shutdown.start_force();
    assert_eq!(fault(response.body).await.kind, Kind::ResponseIncomplete);
}

#[tokio::test]
async fn plain_connect_is_not_implemented() {
    let (address, counts) = answering(OK).await;
    let rig = Rig::http1(address);
    let fault = rig.send(head(Method::CONNECT, "/"), none()).await.err().unwrap();
    assert_eq!(fault.status(), StatusCode::NOT_IMPLEMENTED);
    assert_eq!(counts.connections(), 0);
}
