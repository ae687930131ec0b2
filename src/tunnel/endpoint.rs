//! TLS and transport settings of links: TLS 1.3 with certificates on both sides from the tunnel CA, own ALPN.
//!
//! Which PoP or gateway a certificate is for, its SAN URIs say (see [`super::identity`]); checked after the handshake.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::HandshakeTokenKey;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use crate::config::{TunnelIdentity, TunnelLimits};
use crate::quic::{Congestion, PACKET_MAX};
use crate::tls::{self, TlsError};

/// The protocol's ALPN; a breaking change is a new one.
pub const ALPN: &[u8] = b"trunkline/1";
/// Bytes that may be on their way on one link before the sender waits for QUIC acknowledgements.
const SEND_WINDOW: u64 = 32 << 20;
/// Packets that the other end may receive without acknowledging them at once (draft-ietf-quic-ack-frequency). QUIC's
/// default, every second one, wakes both processes for a datagram that tells little; gaps are still told at once.
const ACK_THRESHOLD: VarInt = VarInt::from_u32(10);
/// An idle link sends something this often, so that address translators keep their entry.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// A certificate, key or CA file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] TlsError),
    /// Certificate and key do not fit, or the CA is not one.
    #[error("{}: {reason}", path.display())]
    Config {
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
        Ok(Self {
            chain: tls::load_chain(&identity.cert)?,
            key: tls::load_key(&identity.key)?,
            roots: Arc::new(tls::load_roots(&identity.ca)?),
            source: identity.cert.clone(),
        })
    }

    /// This end's leaf certificate.
    pub fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// The accepting end: every dialler must show a certificate of the tunnel CA. `token_key` signs address validation
    /// tokens.
    pub fn server_config(
        &self,
        transport: Arc<TransportConfig>,
        token_key: Arc<dyn HandshakeTokenKey>,
    ) -> Result<quinn::ServerConfig, EndpointError> {
        let error = |reason: String| EndpointError::Config { path: self.source.clone(), reason };
        let provider = tls::provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider.clone())
            .build()
            .map_err(|e| error(e.to_string()))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| {
                builder.with_client_cert_verifier(verifier).with_single_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(|e| error(e.to_string()))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.max_early_data_size = 0;
        let crypto = QuicServerConfig::try_from(config).map_err(|e| error(e.to_string()))?;
        let mut config = quinn::ServerConfig::new(Arc::new(crypto), token_key);
        config.transport_config(transport);
        Ok(config)
    }

    /// The dialling end.
    pub fn client_config(&self, transport: Arc<TransportConfig>) -> Result<quinn::ClientConfig, EndpointError> {
        let error = |reason: String| EndpointError::Config { path: self.source.clone(), reason };
        let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| {
                builder
                    .with_root_certificates(self.roots.clone())
                    .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(|e| error(e.to_string()))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        let crypto = QuicClientConfig::try_from(config).map_err(|e| error(e.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport);
        Ok(config)
    }
}

/// Transport settings of a link. Flow control per exchange is layer 2's (credit), so QUIC's windows are wide: stalled
/// exchanges must not block their neighbours, nor the control stream. What the other end may send is bounded by the credit
/// of at most `exchanges_max` exchanges.
pub fn transport(limits: &TunnelLimits) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(ACK_THRESHOLD);
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(PACKET_MAX);
    let idle = IdleTimeout::try_from(limits.idle_timeout).ok();
    let stream_window = limits.exchange_window_max.saturating_add(64 << 10);
    transport
        .max_idle_timeout(idle)
        .keep_alive_interval(Some(KEEP_ALIVE.min(limits.idle_timeout / 3)))
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.exchanges_max.saturating_add(1)))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u64(stream_window).unwrap_or(VarInt::MAX))
        .receive_window(VarInt::MAX)
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(Congestion));
    transport
}

/// The leaf certificate that the other end showed.
pub fn peer_certificate(connection: &crate::quic::Connection) -> Option<CertificateDer<'static>> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.first().cloned()
}
