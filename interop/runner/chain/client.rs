//! An HTTP/3 client inside a network of the runner's: quinn below, h3 above; every byte of an answer is checked.
//!
//! Called by our own cases.

use std::future::poll_fn;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h3::client::SendRequest;
use h3_quinn::OpenStreams;
use http::{Method, Request};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, EndpointConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::task::JoinSet;
use trunkline::dev::upstream::pattern_fill;

use crate::Outcome;

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// A connection without a sign of its server ends after this.
const IDLE_TIMEOUT_MS: u32 = 30_000;
/// Bytes checked at once.
const PIECE: usize = 16 << 10;

/// An open connection.
#[derive(Clone)]
pub struct Client {
    host: Arc<str>,
    requests: SendRequest<OpenStreams, Bytes>,
    got: Arc<AtomicU64>,
    _driver: Arc<JoinSet<()>>,
    _endpoint: Endpoint,
}

/// TLS that trusts the CA in a file, for one application protocol.
pub fn tls(ca: &Path, alpn: &[u8]) -> Outcome<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

impl Client {
    /// Connects from `socket`, which may be in another namespace.
    pub async fn connect(socket: UdpSocket, address: SocketAddr, host: &str, ca: &Path) -> Outcome<Self> {
        let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?;
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls(ca, b"h3")?)?));
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS).into()))
            .keep_alive_interval(Some(Duration::from_secs(1)));
        config.transport_config(Arc::new(transport));
        let quic = endpoint.connect_with(config, address, host)?.await?;
        let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(quic)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(poll_fn(|cx| driver.poll_close(cx)).await) });
        Ok(Self { host: host.into(), requests, got: Arc::default(), _driver: Arc::new(tasks), _endpoint: endpoint })
    }

    /// Bytes of answers so far, all requests of this client together.
    pub fn got(&self) -> u64 {
        self.got.load(Ordering::Relaxed)
    }

    /// Downloads `length` bytes of the upstream's pattern and compares each.
    pub async fn download(&self, length: u64) -> Outcome<()> {
        let body = self.request(Method::GET, &format!("/bytes/{length}"), true).await?;
        if body.len() as u64 == length { Ok(()) } else { Err(format!("{} of {length} bytes", body.len()).into()) }
    }

    /// A POST that the upstream counts under `key`.
    pub async fn count(&self, key: &str) -> Outcome<()> {
        self.request(Method::POST, &format!("/count?key={key}"), false).await.map(drop)
    }

    /// How often the upstream saw it.
    pub async fn executions(&self, key: &str) -> Outcome<u64> {
        let body = self.request(Method::GET, &format!("/count?key={key}&report"), false).await?;
        let report: serde_json::Value = serde_json::from_slice(&body)?;
        Ok(report["started"].as_u64().ok_or_else(|| format!("no count in {report}"))?)
    }

    /// One request with an empty body; its answer, which must be a 200.
    pub async fn request(&self, method: Method, path: &str, pattern: bool) -> Outcome<Vec<u8>> {
        tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(method, path, pattern)).await?
    }

    async fn exchange(&self, method: Method, path: &str, pattern: bool) -> Outcome<Vec<u8>> {
        let request = Request::builder().method(method).uri(format!("https://{}{path}", self.host)).body(())?;
        let mut stream = self.requests.clone().send_request(request).await?;
        stream.finish().await?;
        let response = stream.recv_response().await?;
        if response.status() != 200 {
            return Err(format!("{path}: {}", response.status()).into());
        }
        let mut body = Vec::new();
        while let Some(mut piece) = stream.recv_data().await? {
            let at = body.len();
            let piece = piece.copy_to_bytes(piece.remaining());
            body.extend_from_slice(&piece);
            self.got.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if pattern {
                compare(&body, at)?;
            }
        }
        Ok(body)
    }
}

/// Whether `body` is the pattern from `at` on.
fn compare(body: &[u8], at: usize) -> Outcome<()> {
    let mut expected = [0; PIECE];
    for (number, piece) in body.get(at..).unwrap_or_default().chunks(PIECE).enumerate() {
        let expected = expected.get_mut(..piece.len()).unwrap_or_default();
        pattern_fill((at + number * PIECE) as u64, expected);
        if expected != piece {
            return Err(format!("wrong bytes after {}", at + number * PIECE).into());
        }
    }
    Ok(())
}
