//! The client's TLS: the same offer to every contestant.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::{Failure, Target};
use crate::Outcome;

/// How connections over TCP are encrypted.
#[derive(Clone)]
pub struct Tls(TlsConnector);

impl Tls {
    /// As `config` says.
    pub fn new(config: ClientConfig) -> Self {
        Self(TlsConnector::from(Arc::new(config)))
    }

    /// Opens a connection to `target` and shakes hands.
    pub async fn connect(&self, target: &Target) -> Result<TlsStream<TcpStream>, Failure> {
        let broken = |error: &dyn std::error::Error| Failure::Connect(error.to_string());
        let name = ServerName::try_from(target.host.to_string()).map_err(|error| broken(&error))?;
        self.0.connect(name, target.connect().await?).await.map_err(|error| broken(&error))
    }
}

/// TLS 1.3 with one cipher suite, so that all contestants use the same. Each handshake is full unless they shall be
/// `resumed`; then each uses a ticket of an earlier one, where there is one.
pub fn config(ca: &Path, alpn: &[u8], resumed: bool) -> Outcome<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    if !resumed {
        config.resumption = rustls::client::Resumption::disabled();
    }
    Ok(config)
}

/// Post-quantum key agreement first, as browsers offer it; AES-128-GCM from ring, the cheaper one on most machines.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    }
}
