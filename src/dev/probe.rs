//! One HTTP/3 request, to prove that the whole chain works without any tool on the machine.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use http::{Request, Response, StatusCode};
use quinn::crypto::rustls::QuicClientConfig;

use super::Failure;
use crate::{clock, tls};

/// For one try, handshake included.
const TRY_TIMEOUT: Duration = Duration::from_secs(3);
/// Between tries.
const PAUSE: Duration = Duration::from_millis(50);

/// TLS of a client that trusts the CA in `ca` and offers `alpn`.
///
/// # Errors
/// When the CA cannot be read.
pub fn tls_config(ca: &Path, alpn: &[u8]) -> Result<rustls::ClientConfig, Failure> {
    let builder = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut tls = builder.with_root_certificates(tls::load_roots(ca)?).with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    Ok(tls)
}

/// QUIC for clients of HTTP/3 at `peer`.
///
/// # Errors
/// When the CA cannot be read or no socket be bound.
pub fn endpoint(ca: &Path, peer: SocketAddr) -> Result<quinn::Endpoint, Failure> {
    let any = if peer.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
    let mut endpoint = quinn::Endpoint::client(any)?;
    let tls = QuicClientConfig::try_from(tls_config(ca, b"h3")?)?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    Ok(endpoint)
}

/// A client that trusts one CA.
pub struct Probe {
    endpoint: quinn::Endpoint,
    host: String,
}

/// What a request found.
#[derive(Debug)]
pub struct Found {
    /// The status.
    pub status: StatusCode,
    /// From the first packet to the last byte.
    pub took: Duration,
}

impl Probe {
    /// A client that trusts the CA in `ca` and asks for `host`.
    ///
    /// # Errors
    /// When the CA cannot be read or no socket be bound.
    pub fn new(ca: &Path, host: &str, peer: SocketAddr) -> Result<Self, Failure> {
        let endpoint = endpoint(ca, peer)?;
        Ok(Self { endpoint, host: host.to_owned() })
    }

    /// Asks for `path` until the answer is neither an error nor 503 (no tunnel yet), or `timeout` passes.
    ///
    /// # Errors
    /// The last failure.
    pub async fn until_served(&self, peer: SocketAddr, path: &str, timeout: Duration) -> Result<Found, Failure> {
        let deadline = clock::now() + timeout;
        loop {
            let result = match tokio::time::timeout(TRY_TIMEOUT, self.get(peer, path)).await {
                Ok(Ok(found)) if found.status == StatusCode::SERVICE_UNAVAILABLE => Err("503: no tunnel yet".into()),
                Ok(result) => result,
                Err(_) => Err("no answer".into()),
            };
            if result.is_ok() || clock::now() >= deadline {
                return result;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One request on a connection of its own.
    async fn get(&self, peer: SocketAddr, path: &str) -> Result<Found, Failure> {
        let started = clock::now();
        let connection = self.endpoint.connect(peer, &self.host)?.await?;
        let (mut driver, mut requests) = h3::client::new(h3_quinn::Connection::new(connection.clone())).await?;
        let request = Request::get(format!("https://{}:{}{path}", self.host, peer.port())).body(())?;
        let exchange = async {
            let mut stream = requests.send_request(request).await?;
            stream.finish().await?;
            let response: Response<()> = stream.recv_response().await?;
            while let Some(mut data) = stream.recv_data().await? {
                data.advance(data.remaining());
            }
            Ok(Found { status: response.status(), took: clock::now() - started })
        };
        let result = tokio::select! {
            result = exchange => result,
            error = std::future::poll_fn(|cx| driver.poll_close(cx)) => Err(error.into()),
        };
        connection.close(quinn::VarInt::from_u32(0x100), b""); // H3_NO_ERROR
        result
    }
}
