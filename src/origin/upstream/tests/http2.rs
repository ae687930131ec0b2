use super::*;
use http::Request;
use http_body_util::combinators::BoxBody;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

#[derive(Clone)]
struct Spawner(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

type Answer = BoxBody<Bytes, hyper::Error>;

/// Serves HTTP/2 with hyper. `/echo` echoes with trailers, `/slow` waits for ever, `/fields` shows what came.
async fn serve_h2<I>(io: I, tasks: Tasks, counts: Arc<Counts>, streams_max: u32)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    counts.connections.fetch_add(1, Ordering::Relaxed);
    let answering = counts.clone();
    let service = service_fn(move |request| answer(request, answering.clone()));
    let mut builder = hyper::server::conn::http2::Builder::new(Spawner(tasks));
    builder.max_concurrent_streams(streams_max).enable_connect_protocol();
    let _ = builder.serve_connection(TokioIo::new(io), service).await;
    counts.closed.fetch_add(1, Ordering::Relaxed);
}

struct Cancelled(Arc<Counts>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.closed.fetch_add(100, Ordering::Relaxed);
    }
}

async fn answer(request: Request<Incoming>, counts: Arc<Counts>) -> Result<Response<Answer>, Infallible> {
    counts.requests.fetch_add(1, Ordering::Relaxed);
    match request.uri().path() {
        "/echo" => Ok(Response::new(request.into_body().boxed())),
        "/slow" => {
            let _cancelled = Cancelled(counts);
            std::future::pending().await
        }
        "/fields" => {
            let text = format!("{} {:?}", request.uri(), request.headers());
            Ok(whole(text))
        }
        _ => Ok(whole("ok")),
    }
}

fn whole(text: impl Into<Bytes>) -> Response<Answer> {
    Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed())
}

async fn h2c(streams_max: u32) -> (SocketAddr, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let counting = counts.clone();
    let tasks = Tasks::new(Shutdown::default());
    let address = scripted(move |_, peer| serve_h2(peer.stream, tasks.clone(), counting.clone(), streams_max)).await;
    (address, counts)
}

fn rig(address: SocketAddr, limits: UpstreamLimits) -> Rig {
    Rig::new(&service(vec![tcp(UpstreamScheme::H2c, address)], limits))
}

#[tokio::test]
async fn requests_share_one_connection() {
    let (address, counts) = h2c(100).await;
    let rig = rig(address, limits());
    let texts = tokio::join!(rig.text("/"), rig.text("/"), rig.text("/"), rig.text("/"));
    assert_eq!(texts, (Ok("ok".into()), Ok("ok".into()), Ok("ok".into()), Ok("ok".into())));
    assert_eq!((counts.connections(), counts.requests()), (1, 4));
    let fields = rig.send(with(head(Method::GET, "/fields?a=b"), "te", "trailers"), none()).await.unwrap();
    let fields = text(fields.body).await.unwrap();
    assert!(fields.starts_with("http://www.example.com/fields?a=b "), "{fields}");
    assert!(fields.contains("\"te\": \"trailers\""), "{fields}");
}

#[tokio::test]
async fn full_connections_are_joined_by_others_up_to_the_cap() {
    let (address, counts) = h2c(2).await;
    let rig = Arc::new(rig(address, UpstreamLimits { connections_max: 3, ..limits() }));
    // The peer's limit is known once its settings came.
    assert_eq!(rig.text("/").await.unwrap(), "ok");
    for _ in 0..8 {
        let rig = rig.clone();
        rig.tasks.clone().spawn(async move {
            drop(rig.upstreams.request(head(Method::GET, "/slow"), none(), rig.seen.clone()).await)
        });
    }
    until(|| counts.requests() == 7 && rig.pool().queued() == 2).await;
    assert_eq!(counts.connections(), 3);
    rig.shutdown.start_force();
}

#[tokio::test]
async fn bodies_and_trailers_stream_both_ways_at_once() {
    let (address, _) = h2c(100).await;
    let rig = rig(address, limits());
    let (feed, body) = fed();
    feed.send(data("one")).await.unwrap();
    let mut response = rig.send(head(Method::POST, "/echo"), body).await.unwrap();
    let first = soon(response.body.frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "one", "before the request has ended");
    feed.send(data("two")).await.unwrap();
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    feed.send(Ok(Frame::trailers(trailers))).await.unwrap();
    let rest = soon(response.body.collect()).await.unwrap();
    assert_eq!(rest.trailers().unwrap().get("grpc-status").unwrap(), "0");
    assert_eq!(rest.to_bytes(), "two");
}

#[tokio::test]
async fn expect_is_answered_here() {
    let (address, _) = h2c(100).await;
    let rig = rig(address, limits());
    let head = with(head(Method::POST, "/fields"), "expect", "100-continue");
    let fields = text(rig.send(head, full("x")).await.unwrap().body).await.unwrap();
    assert!(!fields.contains("expect"), "{fields}");
    assert_eq!(rig.seen.interim.lock()[0].status, StatusCode::CONTINUE);
}

#[tokio::test]
async fn cancelling_ends_the_stream_and_not_the_connection() {
    let (address, counts) = h2c(100).await;
    let rig = rig(address, limits());
    tokio::select! {
        _ = rig.get("/slow") => unreachable!("no answer comes"),
        () = until(|| counts.requests() == 1) => {}
    }
    until(|| counts.closed() == 100).await;
    // The same with a request body under way.
    let (feed, body) = fed();
    feed.send(data("x")).await.unwrap();
    tokio::select! {
        _ = rig.send(head(Method::POST, "/slow"), body) => unreachable!("no answer comes"),
        () = until(|| counts.requests() == 2) => {}
    }
    until(|| counts.closed() == 200).await;
    soon(feed.closed()).await;
    // And with a response body under way.
    let (feed, body) = fed();
    feed.send(data("x")).await.unwrap();
    let response = rig.send(head(Method::POST, "/echo"), body).await.unwrap();
    drop(response);
    soon(feed.closed()).await;
    assert_eq!(rig.text("/").await.unwrap(), "ok");
    assert_eq!(counts.connections(), 1);
}

#[tokio::test]
async fn unused_connections_close_gracefully() {
    let (address, counts) = h2c(100).await;
    let rig = rig(address, UpstreamLimits { idle_timeout: Duration::from_millis(30), ..limits() });
    assert_eq!(rig.text("/").await.unwrap(), "ok");
    until(|| counts.closed() == 1 && rig.pool().open() == 0).await;
    assert_eq!(rig.metrics().idle_closed.get(), 1);
}

/// A server on the h2 crate, for what hyper's would not do. `act` gets each request's number, counted over all
/// connections, and the connection's handle.
async fn h2_script<F>(act: F) -> SocketAddr
where
    F: Fn(usize, h2::server::SendResponse<Bytes>) -> Action + Clone + Send + Sync + 'static,
{
    let requests = Arc::new(AtomicUsize::new(0));
    scripted(move |_, peer| {
        let (act, requests) = (act.clone(), requests.clone());
        async move {
            let mut connection = h2::server::handshake(peer.stream).await.unwrap();
            while let Some(Ok((_request, respond))) = connection.accept().await {
                match act(requests.fetch_add(1, Ordering::Relaxed), respond) {
                    Action::Stay => {}
                    Action::GoAway => connection.graceful_shutdown(),
                    Action::Close => break,
                }
            }
        }
    })
    .await
}

enum Action {
    Stay,
    GoAway,
    Close,
}

fn start(respond: &mut h2::server::SendResponse<Bytes>, length: Option<&'static str>) -> h2::SendStream<Bytes> {
    let mut response = Response::new(());
    if let Some(length) = length {
        response.headers_mut().insert("content-length", HeaderValue::from_static(length));
    }
    respond.send_response(response, false).unwrap()
}

#[tokio::test]
async fn a_cut_body_is_an_error_however_it_is_cut() {
    let address = h2_script(|number, mut respond| {
        let length = [None, None, Some("9"), Some("2"), Some("9")][number];
        let mut stream = start(&mut respond, length);
        stream.send_data(Bytes::from_static(b"part"), matches!(number, 2 | 3)).unwrap();
        match number {
            // Not even this makes a body complete.
            0 | 4 => stream.send_reset(h2::Reason::NO_ERROR),
            1 => stream.send_reset(h2::Reason::INTERNAL_ERROR),
            _ => {}
        }
        Action::Stay
    })
    .await;
    let rig = rig(address, limits());
    for number in 0..5 {
        let kind = match rig.get("/").await {
            Ok(response) => fault(response.body).await.kind,
            Err(fault) => fault.kind,
        };
        // A reset may overtake the head.
        assert!(
            matches!(kind, Kind::ResponseIncomplete | Kind::ConnectionTerminated | Kind::ProtocolError),
            "{number}: {kind:?}"
        );
    }
}

#[tokio::test]
async fn a_connection_that_breaks_in_mid_body_is_an_error() {
    let address = h2_script(|_, mut respond| {
        let mut stream = start(&mut respond, None);
        stream.send_data(Bytes::from_static(b"part"), false).unwrap();
        std::mem::forget(stream);
        Action::GoAway
    })
    .await;
    let rig = rig(address, limits());
    let response = rig.get("/").await.unwrap();
    rig.shutdown.start_force();
    assert_eq!(fault(response.body).await.kind, Kind::ResponseIncomplete);
}

#[tokio::test]
async fn refused_streams_are_sent_again_when_nothing_is_lost_by_it() {
    let address = h2_script(|number, mut respond| {
        if number % 2 == 1 {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        } else {
            respond.send_response(Response::new(()), true).unwrap();
        }
        Action::Stay
    })
    .await;
    let rig = rig(address, limits());
    assert_eq!(rig.text("/").await.unwrap(), "");
    let response = rig.send(head(Method::POST, "/"), none()).await.unwrap();
    assert_eq!(text(response.body).await.unwrap(), "", "a POST too: it was provably not processed");
    assert_eq!(rig.metrics().replays.get(), 1);
    let fault = rig.send(head(Method::POST, "/"), full("body")).await.err().unwrap();
    assert_eq!((fault.kind, fault.retry), (Kind::ConnectionTerminated, Retry::Anywhere), "its body is gone");
}

#[tokio::test]
async fn after_goaway_requests_go_to_a_new_connection() {
    let address = h2_script(|_, mut respond| {
        respond.send_response(Response::new(()), true).unwrap();
        Action::GoAway
    })
    .await;
    let rig = rig(address, limits());
    for _ in 0..10 {
        let response = rig.send(head(Method::POST, "/"), full("body")).await;
        match response {
            Ok(response) => assert_eq!(text(response.body).await.unwrap(), ""),
            Err(fault) => assert_eq!(fault.retry, Retry::Anywhere),
        }
    }
    assert!(rig.metrics().connects.get() > 1);
}

#[tokio::test]
async fn a_connection_closed_before_the_head_may_have_executed_the_request() {
    let address = h2_script(|_, _| Action::Close).await;
    let fault = rig(address, limits()).send(head(Method::POST, "/"), full("x")).await.err().unwrap();
    assert_eq!((fault.kind, fault.retry), (Kind::ConnectionTerminated, Retry::Idempotent));
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let address = h2_script(|_, mut respond| {
        let mut response = Response::new(());
        for _ in 0..30 {
            response.headers_mut().append("x-a", HeaderValue::from_static("0123456789012345678901234567890123456789"));
        }
        respond.send_response(response, true).unwrap();
        Action::Stay
    })
    .await;
    let size = UpstreamLimits { field_section_max: 1_000, ..limits() };
    let number = UpstreamLimits { fields_max: 20, ..limits() };
    // h2 calls the first one malformed.
    for (limits, kind) in [(size, Kind::ProtocolError), (number, Kind::ResponseHeaderSectionSize)] {
        let fault = rig(address, limits).get("/").await.err().unwrap();
        assert_eq!((fault.kind, fault.retry), (kind, Retry::Never));
    }
}

/// TLS on loopback for `localhost`, HTTP/2 or HTTP/1.1 by ALPN.
struct Https {
    address: SocketAddr,
    counts: Arc<Counts>,
    ca: tempfile::NamedTempFile,
}

async fn https(alpn: &[&str]) -> Https {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), cert.pem()).unwrap();
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = crate::tls::provider();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let counts = Arc::new(Counts::default());
    let (counting, tasks) = (counts.clone(), Tasks::new(Shutdown::default()));
    let address = scripted(move |_, peer| {
        let (acceptor, counts, tasks) = (acceptor.clone(), counting.clone(), tasks.clone());
        async move {
            let Ok(stream) = acceptor.accept(peer.stream).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                serve_h2(stream, tasks, counts, 100).await;
            } else {
                counts.connections.fetch_add(1, Ordering::Relaxed);
                let service = service_fn(move |request| answer(request, counts.clone()));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let _ = connection.with_upgrades().await;
            }
        }
    })
    .await;
    Https { address, counts, ca }
}

impl Https {
    fn service(&self) -> OriginService {
        let mut service = service(vec![tcp(UpstreamScheme::Https, self.address)], limits());
        service.ca = Some(self.ca.path().to_owned());
        service.tls_name = Some("localhost".into());
        service
    }
}

#[tokio::test]
async fn https_speaks_what_alpn_chooses() {
    for (alpn, connections) in [(&["h2", "http/1.1"][..], 1), (&["http/1.1"], 2), (&[], 2)] {
        let server = https(alpn).await;
        let rig = Rig::new(&server.service());
        let (a, b) = tokio::join!(rig.get("/"), rig.get("/"));
        assert_eq!(server.counts.connections(), connections, "{alpn:?}");
        assert_eq!((text(a.unwrap().body).await, text(b.unwrap().body).await), (Ok("ok".into()), Ok("ok".into())));
        assert_eq!(rig.text("/").await.unwrap(), "ok");
        assert_eq!(server.counts.connections(), connections, "{alpn:?}: reused");
    }
}

#[tokio::test]
async fn certificates_are_verified() {
    let server = https(&["h2"]).await;
    let mut wrong_name = server.service();
    wrong_name.tls_name = Some("elsewhere.test".into());
    let mut wrong_ca = server.service();
    let other = https(&["h2"]).await;
    wrong_ca.ca = other.service().ca;
    for service in [wrong_name, wrong_ca] {
        let fault = Rig::new(&service).get("/").await.err().unwrap();
        assert_eq!((fault.kind, fault.retry), (Kind::TlsCertificateError, Retry::Anywhere));
    }
    assert_eq!(server.counts.requests(), 0);
    let (plain, _) = answering("not TLS at all").await;
    let mut service = server.service();
    service.upstreams = vec![tcp(UpstreamScheme::Https, plain)];
    let silent = UpstreamLimits { connect_timeout: Duration::from_millis(100), ..limits() };
    service.limits = silent;
    assert_eq!(Rig::new(&service).get("/").await.err().unwrap().kind, Kind::ConnectionTimeout);
}

#[test]
fn an_unusable_ca_is_an_error_at_the_start() {
    let tasks = Tasks::new(Shutdown::default());
    let metrics = || Arc::new(UpstreamMetrics::unregistered());
    let mut service = service(vec![tcp(UpstreamScheme::Https, ([127, 0, 0, 1], 443).into())], limits());
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in ["/nonexistent/ca.pem".into(), empty.path().to_owned()] {
        service.ca = Some(path.clone());
        let error = Upstreams::new(&service, metrics(), &tasks).err().unwrap();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

fn websocket(path: &str) -> RequestHead {
    RequestHead { protocol: Some(Bytes::from_static(b"websocket")), ..head(Method::CONNECT, path) }
}

#[tokio::test]
async fn extended_connect_goes_to_peers_that_take_it() {
    let address = scripted(|_, peer| async move {
        let mut connection = h2::server::Builder::new().enable_connect_protocol().handshake(peer.stream).await.unwrap();
        let tasks = Tasks::new(Shutdown::default());
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.method(), Method::CONNECT);
            assert_eq!(request.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
            assert_eq!(request.uri().path(), "/chat");
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            tasks.spawn(async move {
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    stream.send_data(data, false).unwrap();
                }
                stream.send_data(Bytes::from_static(b"bye"), true).unwrap();
            });
        }
    })
    .await;
    let rig = rig(address, limits());
    let (feed, body) = fed();
    let mut response = rig.send(websocket("/chat"), body).await.unwrap();
    assert_eq!(response.head.status, StatusCode::OK);
    feed.send(data("hi")).await.unwrap();
    assert_eq!(soon(response.body.frame()).await.unwrap().unwrap().into_data().unwrap(), "hi");
    drop(feed);
    assert_eq!(text(response.body).await.unwrap(), "bye");
}

#[tokio::test]
async fn peers_without_extended_connect_are_asked_over_http1() {
    // HTTP/2 without RFC 8441 for those who offer it, HTTP/1.1 for the others.
    let address = scripted(|number, mut peer| async move {
        if number == 0 {
            let mut connection = h2::server::handshake(peer.stream).await.unwrap();
            while connection.accept().await.is_some() {}
            return;
        }
        let head = peer.head().await.unwrap();
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        peer.write(&format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {accept}\r\n\r\nhello"
        ))
        .await;
    })
    .await;
    let rig = rig(address, limits());
    let response = rig.send(websocket("/chat"), none()).await.unwrap();
    assert_eq!(text(response.body).await.unwrap(), "hello");
    assert_eq!(rig.metrics().connects.get(), 2);
    until(|| rig.pool().open() == 1).await;
}

#[tokio::test]
async fn a_refused_upgrade_leaves_no_http1_connection_in_the_pool() {
    let address = scripted(|number, mut peer| async move {
        if number == 0 {
            let mut connection = h2::server::handshake(peer.stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_response(Response::new(()), true).unwrap();
            }
            return;
        }
        peer.head().await.unwrap();
        peer.write("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
        peer.closed().await;
    })
    .await;
    let rig = rig(address, limits());
    let response = rig.send(websocket("/chat"), none()).await.unwrap();
    assert_eq!(response.head.status, StatusCode::FORBIDDEN);
    assert_eq!(text(response.body).await.unwrap(), "no");
    assert_eq!(rig.text("/").await.unwrap(), "", "by HTTP/2");
    until(|| rig.pool().open() == 1).await;
}

#[tokio::test]
async fn a_large_body_arrives_whole() {
    let (address, _) = h2c(100).await;
    let rig = rig(address, limits());
    let response = rig.send(head(Method::POST, "/echo"), Pieces(512)).await.unwrap();
    let bytes = soon(response.body.collect()).await.unwrap().to_bytes();
    assert_eq!(bytes.len(), 512 * 16_384);
    assert!(
        bytes
            .chunks(16_384)
            .enumerate()
            .all(|(number, piece)| piece.iter().all(|&byte| usize::from(byte) == number % 251))
    );
}

struct Pieces(usize);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Some(left) = self.0.checked_sub(1) else { return Poll::Ready(None) };
        self.0 = left;
        let number = u8::try_from((511 - left) % 251).unwrap();
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![number; 16_384])))))
    }
}
