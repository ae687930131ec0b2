//! TLS as a client sees it: one trusted CA, one protocol offered.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Failure;
use crate::chain::HOST;

/// The certificates of `ca`.
pub fn roots(ca: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("the CA") {
        roots.add(certificate.expect("a certificate")).expect("a root");
    }
    roots
}

/// A configuration that trusts `ca` and offers `alpn`.
pub fn config(ca: &Path, alpn: &[u8]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let mut config = builder.with_root_certificates(roots(ca)).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

/// A TLS connection that agreed on `alpn`.
pub async fn connect(ca: &Path, peer: SocketAddr, alpn: &[u8]) -> Result<TlsStream<TcpStream>, Failure> {
    let stream = TcpStream::connect(peer).await?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::new(config(ca, alpn)));
    let stream = connector.connect(ServerName::try_from(HOST)?, stream).await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn), "the protocol that was offered");
    Ok(stream)
}
