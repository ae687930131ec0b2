//! The codec between real QUIC endpoints on loopback: `raw` writes bytes that no library would, `client` is the h3 crate.

mod client;
mod raw;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as Cx, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use tokio::sync::Notify;

use super::{Context, H3Metrics, connection};
use crate::config::Limits;
use crate::edge::listener::alt_svc::AltSvc;
use crate::edge::listener::parting::Parting;
use crate::edge::listener::quic::STREAMS_FIRST;
use crate::edge::listener::{Client, Interim, Protocol, Request, RequestBody, Response, Serve};
use crate::fault::{Fault, Side, Stage};
use crate::quic::{self, Endpoint};
use crate::task::{Shutdown, Tasks};
use crate::tunnel::exchange::retention::Budget;
use crate::tunnel::message::ResponseHead;

/// Fails a test that hangs, long after any healthy answer.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("no answer within ten seconds")
}

/// What a handler saw, for assertions.
#[derive(Default)]
struct Seen {
    lines: Mutex<Vec<String>>,
    news: Notify,
    serving: AtomicUsize,
}

impl Seen {
    fn say(&self, line: impl Into<String>) {
        self.lines.lock().push(line.into());
        self.news.notify_waiters();
    }

    /// Waits until a handler said `line`.
    async fn wait_for(&self, line: &str) {
        loop {
            let news = self.news.notified();
            if self.lines.lock().iter().any(|said| said == line) {
                return;
            }
            within(news).await;
        }
    }

    fn said(&self, line: &str) -> bool {
        self.lines.lock().iter().any(|said| said.starts_with(line))
    }
}

/// Says so when a handler's future is dropped before its end.
struct Cancel(Arc<Seen>, bool);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::SeqCst);
        if !self.1 {
            self.0.say("cancelled");
        }
    }
}

/// A handler whose behaviour the path chooses.
#[derive(Clone)]
struct App(Arc<Seen>);

/// A response body: pieces, then maybe an end other than a clean one.
enum AppBody {
    Pieces(std::collections::VecDeque<Result<Frame<Bytes>, Fault>>),
    Echo(RequestBody),
    Never,
}

impl Body for AppBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Cx<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self.get_mut() {
            Self::Pieces(pieces) => Poll::Ready(pieces.pop_front()),
            Self::Echo(body) => Pin::new(body).poll_frame(cx),
            Self::Never => Poll::Pending,
        }
    }
}

fn pieces(parts: impl IntoIterator<Item = Result<Frame<Bytes>, Fault>>) -> AppBody {
    AppBody::Pieces(parts.into_iter().collect())
}

fn data(bytes: &'static [u8]) -> Result<Frame<Bytes>, Fault> {
    Ok(Frame::data(Bytes::from_static(bytes)))
}

fn response(headers: &[(&'static str, &'static str)], body: AppBody) -> Response<AppBody> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_static(value));
    }
    Response { head: ResponseHead { status: StatusCode::OK, headers: map }, body }
}

impl Serve for App {
    type Body = AppBody;

    async fn serve<I: Interim>(&self, request: Request, interim: &mut I) -> Response<AppBody> {
        self.0.serving.fetch_add(1, Ordering::SeqCst);
        let mut cancel = Cancel(Arc::clone(&self.0), false);
        self.0.say(format!("{} {}", request.head.method, request.head.path));
        let response = self.answer(request, interim).await;
        cancel.1 = true;
        response
    }
}

impl App {
    async fn answer<I: Interim>(&self, request: Request, interim: &mut I) -> Response<AppBody> {
        let path = request.head.path.as_str().to_owned();
        match path.as_str() {
            "/" => response(&[("content-length", "5"), ("server", "test")], pieces([data(b"hello")])),
            "/pieces" => response(&[], pieces([data(b"one "), data(b""), data(b"two "), data(b"three")])),
            "/headers" => self.headers(&request),
            "/echo" => response(&[], AppBody::Echo(request.body)),
            "/read" => self.read(request).await,
            "/ignore" => response(&[("content-length", "2")], pieces([data(b"no")])),
            "/wait" => std::future::pending().await,
            "/stuck" => response(&[], AppBody::Never),
            "/short" => response(&[("content-length", "9")], pieces([data(b"hello")])),
            "/long" => response(&[("content-length", "4")], pieces([data(b"hello")])),
            "/fault" => response(&[], pieces([data(b"hello"), Err(Fault::internal(Stage::Tunnel, Side::Tunnel))])),
            "/204" => {
                let mut answer = response(&[("content-length", "5")], pieces([data(b"hello")]));
                answer.head.status = StatusCode::NO_CONTENT;
                answer
            }
            "/trailers" => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                response(&[], pieces([data(b"hello"), Ok(Frame::trailers(trailers))]))
            }
            "/hints" => {
                let mut headers = HeaderMap::new();
                headers.insert("link", HeaderValue::from_static("</a.css>"));
                interim.send(ResponseHead { status: StatusCode::EARLY_HINTS, headers }).await;
                response(&[], pieces([data(b"hello")]))
            }
            "/large-head" => {
                let mut answer = response(&[], pieces([]));
                answer.head.headers.insert("x", HeaderValue::try_from("y".repeat(5000)).unwrap());
                answer
            }
            other => self.large(other),
        }
    }

    /// `/large/<bytes>`: that many in pieces of 10,000.
    fn large(&self, path: &str) -> Response<AppBody> {
        let bytes: usize = path.strip_prefix("/large/").and_then(|n| n.parse().ok()).unwrap_or(0);
        let piece = Bytes::from(vec![b'x'; 10_000]);
        let parts = (0..bytes).step_by(10_000).map(|at| Ok(Frame::data(piece.slice(..10_000.min(bytes - at)))));
        response(&[], pieces(parts))
    }

    fn headers(&self, request: &Request) -> Response<AppBody> {
        let mut answer = response(&[], pieces([]));
        for (name, value) in &request.head.headers {
            answer.head.headers.append(name.clone(), value.clone());
        }
        answer
    }

    /// Reads the whole body and says what it was.
    async fn read(&self, request: Request) -> Response<AppBody> {
        match request.body.collect().await {
            Ok(whole) => {
                let trailers = whole.trailers().map_or(0, HeaderMap::len);
                self.0.say(format!("complete {} {trailers}", whole.to_bytes().len()));
                response(&[], pieces([data(b"read")]))
            }
            Err(fault) => {
                self.0.say(format!("incomplete {fault}"));
                let mut answer = response(&[], pieces([]));
                answer.head.status = fault.status();
                answer
            }
        }
    }
}

/// A server with one connection at a time in mind, and what is needed to reach it.
struct Server {
    endpoint: Endpoint,
    address: SocketAddr,
    root: rustls::pki_types::CertificateDer<'static>,
    seen: Arc<Seen>,
    shutdown: Shutdown,
    metrics: Arc<H3Metrics>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        let provider = crate::tls::provider();
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let root = certified.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![root.clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let mut transport = quinn::TransportConfig::default();
        transport.max_concurrent_bidi_streams(limits.streams_max.min(STREAMS_FIRST).into());
        transport.stream_receive_window(limits.stream_window.into());
        config.transport_config(Arc::new(transport));
        let socket = quic::bind_udp((Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap().remove(0);
        let endpoint = quic::endpoint(quinn::EndpointConfig::default(), Some(config), socket, None).unwrap();
        let address = endpoint.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shutdown = Shutdown::default();
        let tasks = Tasks::new(shutdown.clone());
        let metrics = Arc::new(H3Metrics::register(&mut Registry::default()));
        let context = Arc::new(Context {
            limits: Arc::new(limits),
            name: "pop-a".into(),
            metrics: Arc::clone(&metrics),
            send_budget: Arc::new(Budget::new(1 << 20)),
            tasks: tasks.clone(),
            alt_svc: AltSvc::default(),
            parting: Parting::default(),
        });
        let (accepting, app) = (endpoint.clone(), App(Arc::clone(&seen)));
        tasks.clone().spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let Ok(connecting) = incoming.accept() else { continue };
                let Ok(quinn) = connecting.await else { continue };
                let client = Client {
                    address: quinn.remote_address(),
                    local: address,
                    protocol: Protocol::Http3,
                    sni: None,
                    credit: Arc::default(),
                };
                tasks.spawn(connection(quinn, Arc::new(client), app.clone(), context.clone()));
            }
        });
        Self { endpoint, address, root, seen, shutdown, metrics }
    }

    async fn connect(&self) -> quinn::Connection {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = crate::tls::provider();
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        endpoint.set_default_client_config(config);
        within(endpoint.connect(self.address, "localhost").unwrap()).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.start_force();
        self.endpoint.close(0u32.into(), b"");
    }
}

/// A request head of plain literals.
fn head(method: Method, path: &str) -> Vec<(String, String)> {
    [(":method", method.as_str()), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}
