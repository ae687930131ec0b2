//! Whether a TLS handshake was resumed, as a client sees it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::client::tls;

/// A configuration that trusts `ca` and offers `alpn`, and how often a server had to show its certificate: a resumed handshake shows none.
pub fn counting(ca: &Path, alpn: &[u8]) -> (ClientConfig, Arc<AtomicUsize>) {
    let (mut config, shown) = (tls::config(ca, alpn), Arc::new(AtomicUsize::new(0)));
    let provider = config.crypto_provider().clone();
    let inner =
        WebPkiServerVerifier::builder_with_provider(Arc::new(tls::roots(ca)), provider).build().expect("a verifier");
    config.dangerous().set_certificate_verifier(Arc::new(Counting { inner, shown: shown.clone() }));
    (config, shown)
}

/// Verifies, and counts.
#[derive(Debug)]
struct Counting {
    inner: Arc<WebPkiServerVerifier>,
    shown: Arc<AtomicUsize>,
}

impl ServerCertVerifier for Counting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.shown.fetch_add(1, Ordering::SeqCst);
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
