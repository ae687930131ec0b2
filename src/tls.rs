//! What every TLS endpoint of both binaries shares: the one [`CryptoProvider`], and the loading of PEM files.
//!
//! Called by the edge's listeners, the tunnel and the upstream client when they build their rustls configurations. Owns
//! no sockets and decides no trust: who is believed is the caller's matter.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SupportedCipherSuite};

/// Why certificates or keys could not be used; every message names the file and says what it should hold.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not PEM, or a PEM block in it is broken.
    #[error("{path} is not valid PEM: {reason}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file has no certificate.
    #[error("{path} holds no certificate (expected -----BEGIN CERTIFICATE-----)")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The file has no private key.
    #[error("{path} holds no private key (expected -----BEGIN PRIVATE KEY-----, PKCS#8, PKCS#1 or SEC1, unencrypted)")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The key is of a kind that cannot be used.
    #[error(
        "the private key in {path} cannot be used: {source} (RSA from 2048 bits, ECDSA P-256/P-384/P-521, Ed25519)"
    )]
    Key {
        /// The key's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// A certificate cannot be parsed.
    #[error("a certificate in {path} is invalid: {reason}")]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Certificate and key are not a pair.
    #[error("the private key in {key} does not belong to the first certificate in {cert}")]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A file of ticket keys is none.
    #[error("{path} holds no ticket keys: 1 to 16 lines of 64 hexadecimal digits each (openssl rand -hex 32)")]
    TicketKeys {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to serve.
    #[error("no certificate is configured")]
    Empty,
    /// rustls refused the configuration.
    #[error("TLS configuration: {0}")]
    Config(#[from] rustls::Error),
}

/// The cryptography of the whole product: suites of *ring*, key agreement and everything else of aws-lc-rs.
///
/// The two were mixed because neither is best at both jobs. Measured on a Zen 3 class CPU (no AVX-512): sealing a
/// 1,420-byte QUIC packet with AES-128-GCM takes 292 ns in *ring* and 488 ns in aws-lc-rs, a 60-byte one 141 against
/// 174 ns, and sealing is the largest share of bulk work; X25519 takes 71 us in *ring* and 38 us in aws-lc-rs, which
/// alone has X25519MLKEM768 (53 us). ChaCha20-Poly1305 is equal in both. Where the CPU has AVX-512, aws-lc-rs brings
/// AES-GCM code for it that *ring* lacks, so its suites are taken there (by its authors' numbers, not ours).
///
/// quinn accepts the mix: Initial keys and packet protection come from the suite; Retry tags, reset and token keys use
/// aws-lc-rs whatever the provider.
///
/// Post-quantum key agreement comes first. AES-128-GCM comes first among the suites for connections that we dial;
/// servers follow the client's order, since a client without AES instructions is right to prefer ChaCha20.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            Arc::new(CryptoProvider { cipher_suites: suites(), kx_groups: groups(), ..aws_lc_rs::default_provider() })
        })
        .clone()
}

/// The suite of QUIC's Initial packets (RFC 9001 section 5), whatever else is offered.
///
/// # Errors
/// When the product's cryptography lacks it.
pub fn initial_suite() -> Result<rustls::quic::Suite, TlsError> {
    let provider = provider();
    let mut suites = provider.cipher_suites.iter().filter_map(SupportedCipherSuite::tls13);
    let initial = suites.find(|suite| suite.common.suite == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let missing = || rustls::Error::General("the provider lacks TLS13_AES_128_GCM_SHA256 for QUIC".into());
    Ok(initial.and_then(rustls::Tls13CipherSuite::quic_suite).ok_or_else(missing)?)
}

fn groups() -> Vec<&'static dyn rustls::crypto::SupportedKxGroup> {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1]
}

/// The suites of one of the two libraries: they give them the same names.
macro_rules! suites_of {
    ($library:ident) => {{
        use $library::cipher_suite as suite;
        vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ]
    }};
}

fn suites() -> Vec<SupportedCipherSuite> {
    if has_avx512_aes() { suites_of!(aws_lc_rs) } else { suites_of!(ring) }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_aes() -> bool {
    std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("vaes")
        && std::arch::is_x86_feature_detected!("vpclmulqdq")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512_aes() -> bool {
    false
}

/// Loads a certificate chain (leaf first) with its private key, and checks that they are a pair.
///
/// # Errors
/// Names the file that is missing, malformed, of an unusable kind or not matching.
pub fn load_certified_key(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = load_chain(cert)?;
    let signer = provider()
        .key_provider
        .load_private_key(load_key(key)?)
        .map_err(|source| TlsError::Key { path: key.into(), source })?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        // A signer that cannot tell its public key is not an error; ours always can.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::Mismatch { cert: cert.into(), key: key.into() }),
        Err(error) => Err(TlsError::Certificate { path: cert.into(), reason: error.to_string() }),
    }
}

/// Loads every certificate of a PEM file in order.
///
/// # Errors
/// When the file cannot be read, is malformed or has none.
pub fn load_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| pem_error(path, &error))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.into() });
    }
    Ok(chain)
}

/// Loads the first private key of a PEM file.
///
/// # Errors
/// When the file cannot be read, is malformed or has none.
pub fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey { path: path.into() },
        error => pem_error(path, &error),
    })
}

/// Loads certificate authorities that are to be trusted.
///
/// # Errors
/// When the file cannot be read, is malformed or has none.
pub fn load_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in load_chain(path)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Certificate { path: path.into(), reason: error.to_string() })?;
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.into(), source })
}

fn pem_error(path: &Path, error: &pem::Error) -> TlsError {
    TlsError::Pem { path: path.into(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn post_quantum_key_agreement_comes_first() {
        assert_eq!(provider().kx_groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn every_tls13_suite_can_protect_quic() {
        let quic = provider().cipher_suites.iter().filter_map(SupportedCipherSuite::tls13).all(|s| s.quic.is_some());
        assert!(quic);
    }

    #[test]
    fn a_matching_pair_loads() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = pair();
        let loaded = load_certified_key(&write(folder.path(), "c", &cert), &write(folder.path(), "k", &key)).unwrap();
        assert_eq!(loaded.cert.len(), 1);
    }

    #[test]
    fn errors_name_the_file_and_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = pair();
        let (_, other_key) = pair();
        let cert = write(folder.path(), "site.pem", &cert);
        let key = write(folder.path(), "site.key", &key);
        let other = write(folder.path(), "other.key", &other_key);
        let empty = write(folder.path(), "empty.pem", "");
        let broken = write(folder.path(), "broken.pem", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n");
        let missing = folder.path().join("missing.pem");
        let message = |c: &Path, k: &Path| load_certified_key(c, k).unwrap_err().to_string();

        assert!(message(&cert, &other).contains("other.key does not belong to the first certificate"));
        assert!(message(&missing, &key).contains("cannot read") && message(&missing, &key).contains("missing.pem"));
        assert!(message(&empty, &key).contains("empty.pem holds no certificate"));
        assert!(message(&cert, &empty).contains("empty.pem holds no private key"));
        assert!(message(&cert, &cert).contains("site.pem holds no private key"));
        assert!(message(&broken, &key).contains("broken.pem is not valid PEM"));
        assert!(load_roots(&empty).is_err());
        assert_eq!(load_roots(&cert).unwrap().len(), 1);
    }
}
