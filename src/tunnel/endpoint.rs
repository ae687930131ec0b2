//! TLS and transport settings of links: TLS 1.3 with certificates on both sides from the tunnel CA, own ALPN.
//!
//! Which PoP or gateway a certificate is for, its SAN URIs say (see [`super::identity`]); checked after the handshake.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AckFrequencyConfig, IdleTimeout, TransportConfig, VarInt};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use crate::config::{TunnelIdentity, TunnelLimits};

/// The protocol's ALPN; a breaking change is a new one.
pub const ALPN: &[u8] = b"trunkline/1";
/// Bytes that may be on their way on one link before the sender waits for QUIC acknowledgements.
const SEND_WINDOW: u64 = 32 << 20;
/// An idle link sends something this often, so that address translators keep their entry.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// A certificate, key or CA file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The file cannot be read or holds no PEM of the right kind.
    #[error("{}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not fit, or the CA is not one.
    #[error("{}: {reason}", path.display())]
    Tls {
        /// The file most likely at fault.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// This end's chain and key, and who is trusted at the other end.
#[derive(Debug)]
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
    source: PathBuf,
}

impl Credentials {
    /// Reads the PEM files.
    pub fn load(identity: &TunnelIdentity) -> Result<Self, EndpointError> {
        let chain = certificates(&identity.cert)?;
        let key = PrivateKeyDer::from_pem_file(&identity.key)
            .map_err(|source| EndpointError::Pem { path: identity.key.clone(), source })?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&identity.ca)? {
            roots.add(certificate).map_err(|error| tls_error(&identity.ca, error))?;
        }
        Ok(Self { chain, key, roots: Arc::new(roots), source: identity.cert.clone() })
    }

    /// This end's leaf certificate.
    pub fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// The accepting end: every dialler must show a certificate of the tunnel CA.
    pub fn server_config(&self, transport: Arc<TransportConfig>) -> Result<quinn::ServerConfig, EndpointError> {
        let error = |reason: String| EndpointError::Tls { path: self.source.clone(), reason };
        let provider = crate::tls::provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider.clone())
            .build()
            .map_err(|e| error(e.to_string()))?;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| {
                builder.with_client_cert_verifier(verifier).with_single_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(|e| error(e.to_string()))?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.max_early_data_size = 0;
        let crypto = QuicServerConfig::try_from(tls).map_err(|e| error(e.to_string()))?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(transport);
        Ok(config)
    }

    /// The dialling end.
    pub fn client_config(&self, transport: Arc<TransportConfig>) -> Result<quinn::ClientConfig, EndpointError> {
        let error = |reason: String| EndpointError::Tls { path: self.source.clone(), reason };
        let mut tls = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| {
                builder
                    .with_root_certificates(self.roots.clone())
                    .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(|e| error(e.to_string()))?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let crypto = QuicClientConfig::try_from(tls).map_err(|e| error(e.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport);
        Ok(config)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EndpointError> {
    let pem = |source| EndpointError::Pem { path: path.to_owned(), source };
    let all: Vec<_> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(pem)?;
    if all.is_empty() {
        return Err(EndpointError::Tls { path: path.to_owned(), reason: "holds no certificate".into() });
    }
    Ok(all)
}

fn tls_error(path: &Path, error: rustls::Error) -> EndpointError {
    EndpointError::Tls { path: path.to_owned(), reason: error.to_string() }
}

/// Transport settings of a link. Flow control per exchange is layer 2's (credit), so QUIC's windows are wide: a
/// stalled exchange must not block its neighbours.
pub fn transport(limits: &TunnelLimits) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(limits.idle_timeout).ok();
    let stream_window = limits.exchange_window_max.saturating_add(64 << 10);
    let link_window = limits.retention_max.max(64 << 20);
    transport
        .max_idle_timeout(idle)
        .keep_alive_interval(Some(KEEP_ALIVE.min(limits.idle_timeout / 3)))
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.exchanges_max.saturating_add(1)))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u64(stream_window).unwrap_or(VarInt::MAX))
        .receive_window(VarInt::from_u64(link_window).unwrap_or(VarInt::MAX))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .ack_frequency_config(Some(AckFrequencyConfig::default()));
    transport
}

/// The leaf certificate that the other end showed.
pub fn peer_certificate(connection: &quinn::Connection) -> Option<CertificateDer<'static>> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.first().cloned()
}
