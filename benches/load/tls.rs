//! The client's TLS: the same offer to every contestant.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::Outcome;

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
