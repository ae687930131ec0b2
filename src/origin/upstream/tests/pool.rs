use super::*;

#[tokio::test]
async fn a_connection_is_used_again_after_the_body_was_read() {
    let (address, counts) = answering(OK).await;
    let rig = Rig::http1(address);
    for _ in 0..20 {
        assert_eq!(rig.text("/").await.unwrap(), "ok");
    }
    assert_eq!((counts.connections(), counts.requests()), (1, 20));
    assert_eq!(rig.metrics().reuses.get(), 19);
    assert_eq!(rig.metrics().connections.get(), 1);
}

#[tokio::test]
async fn a_connection_is_not_used_again_while_its_body_is_unread() {
    let (address, counts) = answering(OK).await;
    let rig = Rig::http1(address);
    let first = rig.get("/").await.unwrap();
    let second = rig.get("/").await.unwrap();
    assert_eq!(counts.connections(), 2);
    assert_eq!((text(first.body).await.unwrap(), text(second.body).await.unwrap()), ("ok".into(), "ok".into()));
}

/// Answers when told; counts connections open at once.
async fn gated() -> (SocketAddr, Arc<tokio::sync::Semaphore>, Arc<Counts>) {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let counts = Arc::new(Counts::default());
    let (opened, counting) = (gate.clone(), counts.clone());
    let address = scripted(move |_, mut peer| {
        let (gate, counts) = (opened.clone(), counting.clone());
        async move {
            counts.connections.fetch_add(1, Ordering::Relaxed);
            while peer.head().await.is_some() {
                counts.requests.fetch_add(1, Ordering::Relaxed);
                gate.acquire().await.unwrap().forget();
                peer.write(OK).await;
            }
        }
    })
    .await;
    (address, gate, counts)
}

#[tokio::test]
async fn beyond_the_cap_requests_queue_and_beyond_the_queue_they_are_refused() {
    let (address, gate, counts) = gated().await;
    let rig = Arc::new(Rig::http1_with(address, UpstreamLimits { connections_max: 2, queue_max: 3, ..limits() }));
    let (done, mut results) = mpsc::channel(8);
    for _ in 0..5 {
        let (rig, done) = (rig.clone(), done.clone());
        rig.tasks.clone().spawn(async move { done.send(rig.text("/").await).await.unwrap() });
    }
    until(|| counts.requests() == 2 && rig.pool().queued() == 3).await;
    let fault = rig.get("/").await.err().unwrap();
    assert_eq!((fault.kind, fault.retry), (Kind::ConnectionLimitReached, Retry::Anywhere));
    assert_eq!(rig.metrics().queue_full.get(), 1);
    assert_eq!(rig.metrics().waiting.get(), 3);
    gate.add_permits(5);
    for _ in 0..5 {
        assert_eq!(soon(results.recv()).await.unwrap().unwrap(), "ok");
    }
    assert_eq!((counts.connections(), counts.requests()), (2, 5));
    assert_eq!(rig.metrics().waiting.get(), 0);
}

#[tokio::test]
async fn a_request_waits_in_the_queue_no_longer_than_its_timeout() {
    let (address, _gate, counts) = gated().await;
    let limits = UpstreamLimits { connections_max: 1, queue_timeout: Duration::from_millis(50), ..limits() };
    let rig = Rig::http1_with(address, limits);
    tokio::select! {
        _ = rig.get("/") => unreachable!("the gate is closed"),
        () = async {
            until(|| counts.requests() == 1).await;
            let fault = rig.get("/").await.err().unwrap();
            assert_eq!((fault.kind, fault.retry), (Kind::ConnectionLimitReached, Retry::Anywhere));
            assert_eq!(rig.metrics().queue_timeouts.get(), 1);
        } => {}
    }
}

#[tokio::test]
async fn a_place_that_a_waiting_request_gave_up_goes_to_the_next() {
    let (address, gate, counts) = gated().await;
    let rig = Rig::http1_with(address, UpstreamLimits { connections_max: 1, ..limits() });
    let mut first = Box::pin(rig.get("/"));
    tokio::select! {
        _ = &mut first => unreachable!("the gate is closed"),
        () = until(|| counts.requests() == 1) => {}
    }
    let mut second = Box::pin(rig.text("/"));
    let mut third = Box::pin(rig.text("/"));
    tokio::select! {
        _ = &mut second => unreachable!("the gate is closed"),
        _ = &mut third => unreachable!("the gate is closed"),
        () = until(|| rig.pool().queued() == 2) => {}
    }
    drop(second);
    gate.add_permits(2);
    // Cancelling the first frees its place by closing its connection.
    drop(first);
    assert_eq!(soon(third).await.unwrap(), "ok");
    assert_eq!(counts.connections(), 2);
}

#[tokio::test]
async fn unused_connections_are_closed_before_their_upstream_would() {
    let (address, counts) = answering(OK).await;
    let rig = Rig::http1_with(address, UpstreamLimits { idle_timeout: Duration::from_millis(30), ..limits() });
    let both = tokio::join!(rig.text("/"), rig.text("/"));
    assert_eq!(both, (Ok("ok".into()), Ok("ok".into())));
    until(|| counts.closed() == 2).await;
    until(|| rig.pool().open() == 0).await;
    assert_eq!(rig.metrics().idle_closed.get(), 2);
    assert_eq!(rig.metrics().connections.get(), 0);
    // The reaper ended with the last connection and begins again with the next.
    assert_eq!(rig.text("/").await.unwrap(), "ok");
    until(|| rig.pool().open() == 0).await;
}

#[tokio::test]
async fn drain_closes_unused_connections_and_keeps_none() {
    let (address, counts) = answering(OK).await;
    let rig = Rig::http1(address);
    assert_eq!(rig.text("/").await.unwrap(), "ok");
    rig.shutdown.start_drain();
    until(|| counts.closed() == 1).await;
    assert_eq!(rig.text("/").await.unwrap(), "ok", "requests that still come are served");
    until(|| counts.closed() == 2).await;
    soon(rig.tasks.wait()).await;
}

#[tokio::test]
async fn an_upstream_that_closes_after_each_response_doubles_and_loses_nothing() {
    let counts: Arc<Mutex<std::collections::HashMap<String, usize>>> = Arc::default();
    let counting = counts.clone();
    let address = scripted(move |_, mut peer| {
        let counts = counting.clone();
        async move {
            let Some(head) = peer.head().await else { return };
            *counts.lock().entry(head.lines().next().unwrap().to_owned()).or_default() += 1;
            // Keep-alive promised, and the connection closed all the same.
            peer.write(OK).await;
        }
    })
    .await;
    let rig = Rig::http1(address);
    for number in 0..300 {
        let method = if number % 2 == 0 { Method::POST } else { Method::GET };
        let answer = rig.send(head(method, &format!("/{number}")), full("x")).await;
        match answer {
            Ok(response) => assert_eq!(text(response.body).await.unwrap(), "ok"),
            Err(fault) => assert_eq!((fault.kind, fault.retry), (Kind::ConnectionTerminated, Retry::Idempotent)),
        }
    }
    let counts = counts.lock();
    assert!(counts.len() >= 290, "{} of 300 arrived", counts.len());
    assert!(counts.values().all(|&count| count == 1), "{counts:?}");
}

/// Answers the first request of the first connection; later ones there are read whole and then cut off.
async fn cutting() -> (SocketAddr, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let counting = counts.clone();
    let address = scripted(move |number, mut peer| {
        let counts = counting.clone();
        async move {
            while peer.head().await.is_some() {
                let earlier = counts.requests.fetch_add(1, Ordering::Relaxed);
                if number == 0 && earlier > 0 {
                    return;
                }
                peer.write(OK).await;
            }
        }
    })
    .await;
    (address, counts)
}

#[tokio::test]
async fn a_post_that_may_have_been_executed_is_never_sent_twice() {
    let (address, counts) = cutting().await;
    let rig = Rig::http1(address);
    assert_eq!(rig.text("/").await.unwrap(), "ok");
    let fault = rig.send(head(Method::POST, "/"), none()).await.err().unwrap();
    assert_eq!((fault.kind, fault.retry), (Kind::ConnectionTerminated, Retry::Idempotent));
    assert_eq!(counts.requests(), 2);
}

#[tokio::test]
async fn a_get_that_met_the_end_of_a_reused_connection_is_sent_again_once() {
    let (address, counts) = cutting().await;
    let rig = Rig::http1(address);
    assert_eq!(rig.text("/").await.unwrap(), "ok");
    assert_eq!(rig.text("/").await.unwrap(), "ok");
    assert_eq!(counts.requests(), 3);
    assert_eq!(rig.metrics().replays.get(), 1);
}

#[tokio::test]
async fn a_get_that_breaks_on_a_new_connection_is_not_sent_again() {
    let counts = Arc::new(Counts::default());
    let counting = counts.clone();
    let address = scripted(move |_, mut peer| {
        let counts = counting.clone();
        async move {
            peer.head().await;
            counts.requests.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    assert!(Rig::http1(address).get("/").await.is_err());
    assert_eq!(counts.requests(), 1);
}

async fn refused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn upstreams_take_turns_and_a_dead_one_is_skipped() {
    let ((first, first_counts), (second, second_counts)) = (answering(OK).await, answering(OK).await);
    let dead = refused_address().await;
    let upstreams = [first, dead, second].map(|address| tcp(UpstreamScheme::Http, address)).to_vec();
    let rig = Rig::new(&service(upstreams, limits()));
    for _ in 0..60 {
        assert_eq!(rig.text("/").await.unwrap(), "ok");
    }
    assert_eq!(first_counts.requests() + second_counts.requests(), 60);
    assert!(first_counts.requests() >= 20 && second_counts.requests() >= 20);
    assert!(rig.metrics().connect_failures.get() < 10, "{}", rig.metrics().connect_failures.get());
}

#[tokio::test]
async fn a_dead_upstream_that_is_alone_is_tried_every_time() {
    let rig = Rig::http1(refused_address().await);
    for _ in 0..3 {
        let fault = rig.get("/").await.err().unwrap();
        assert_eq!((fault.kind, fault.retry), (Kind::ConnectionRefused, Retry::Anywhere));
    }
    assert_eq!(rig.metrics().connect_failures.get(), 3);
    assert_eq!(rig.seen.accepted.load(Ordering::Relaxed), 0);
    assert_eq!(rig.pool().open(), 0);
}

#[tokio::test]
async fn a_connect_without_an_answer_times_out() {
    // A listener whose backlog is full answers no SYN.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _fill: Vec<_> = (0..2)
        .map(|_| {
            let stream = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            stream.set_nonblocking(true).unwrap();
            let _ = stream.connect(&address.into());
            stream
        })
        .collect();
    let limits = UpstreamLimits { connect_timeout: Duration::from_millis(100), ..limits() };
    let fault = Rig::http1_with(address, limits).get("/").await.err().unwrap();
    assert_eq!((fault.kind, fault.retry), (Kind::ConnectionTimeout, Retry::Anywhere));
}

#[tokio::test]
async fn names_are_resolved_and_every_address_tried() {
    let (address, _) = answering(OK).await;
    // localhost may be ::1 first, where nothing listens.
    let target = UpstreamTarget::Tcp { host: "localhost".into(), port: address.port() };
    let rig = Rig::new(&service(vec![Upstream { scheme: UpstreamScheme::Http, target }], limits()));
    assert_eq!(rig.text("/").await.unwrap(), "ok");
    let target = UpstreamTarget::Tcp { host: "nowhere.invalid".into(), port: 80 };
    let rig = Rig::new(&service(vec![Upstream { scheme: UpstreamScheme::Http, target }], limits()));
    let fault = rig.get("/").await.err().unwrap();
    assert!(matches!(fault.kind, Kind::DnsError | Kind::ConnectionTimeout), "{fault}");
    assert_eq!(fault.retry, Retry::Anywhere);
}

#[tokio::test]
async fn unix_sockets_serve_like_any_upstream() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let rig = Rig::new(&service(vec![unix(path), unix(folder.path().join("absent.sock"))], limits()));
    rig.tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = Vec::new();
        while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
            if buffer.ends_with(b"\r\n\r\n") {
                buffer.clear();
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        }
    });
    for _ in 0..6 {
        assert_eq!(rig.text("/").await.unwrap(), "ok");
    }
    assert_eq!(rig.metrics().connects.get(), 1);
}

#[test]
fn workers_share_a_pool_and_prefer_their_own_connections() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime();
    let (address, counts) = server.block_on(answering(OK));
    std::thread::spawn(move || server.block_on(std::future::pending::<()>()));
    let rig = Arc::new(Rig::http1_with(address, UpstreamLimits { connections_max: 3, ..limits() }));
    let finished = Arc::new(tokio::sync::Barrier::new(3));
    let worker = || {
        let (rig, finished) = (rig.clone(), finished.clone());
        let runtime = runtime();
        std::thread::spawn(move || {
            runtime.block_on(async {
                for _ in 0..200 {
                    let (a, b) = tokio::join!(rig.text("/"), rig.text("/"));
                    assert_eq!((a.unwrap(), b.unwrap()), ("ok".into(), "ok".into()));
                }
                // Its drivers serve the others until all are done.
                soon(finished.wait()).await;
            });
        })
    };
    let threads: Vec<_> = (0..3).map(|_| worker()).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(counts.requests(), 1_200);
    assert!(counts.connections() <= 3, "{} connections", counts.connections());
}
