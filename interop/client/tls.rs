//! TLS of the client: suites by the case, tickets where they are wanted, secrets into `SSLKEYLOGFILE`, the server's chain
//! checked against `ca.pem`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    WebPkiServerVerifier,
};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, KeyLogFile, NamedGroup, SignatureScheme};
use tokio::sync::watch;
use trunkline::tls::{initial_suite, load_roots, provider};

use crate::Failure;
use crate::contract::Contract;

/// For a ticket after the handshake.
const TICKET_TIMEOUT: Duration = Duration::from_secs(10);
/// Sessions of one run.
const SESSIONS_MAX: usize = 16;
/// Intermediate certificates that rustls follows; the runner has a case with more.
const INTERMEDIATES_MAX: usize = 6;

/// The TLS of all connections of a run.
pub struct Tls {
    config: Arc<ClientConfig>,
    sessions: Arc<Sessions>,
    verifier: Arc<Verifier>,
}

impl Tls {
    /// By the case.
    pub fn new(contract: &Contract) -> Result<Self, Failure> {
        let provider = Arc::new(offered(&contract.case));
        let verifier = Arc::new(Verifier::new(contract, provider.clone())?);
        let sessions = Arc::new(Sessions::new());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![if contract.case == "http3" { b"h3".to_vec() } else { b"hq-interop".to_vec() }];
        config.key_log = Arc::new(KeyLogFile::new());
        config.resumption = match contract.case.as_str() {
            "resumption" | "zerortt" => Resumption::store(sessions.clone()),
            _ => Resumption::disabled(),
        };
        config.enable_early_data = contract.case == "zerortt";
        Ok(Self { config: Arc::new(config), sessions, verifier })
    }

    /// The configuration for quinn.
    pub fn client_config(&self) -> Result<Arc<QuicClientConfig>, Failure> {
        Ok(Arc::new(QuicClientConfig::with_initial(self.config.clone(), initial_suite()?)?))
    }

    /// Handshakes in which the server showed its certificate: all that were not resumed.
    pub fn full_handshakes(&self) -> usize {
        self.verifier.seen.load(Ordering::Relaxed)
    }

    /// Waits for a session ticket.
    pub async fn ticket(&self) -> Result<(), Failure> {
        let mut tickets = self.sessions.tickets.subscribe();
        let came = tokio::time::timeout(TICKET_TIMEOUT, tickets.wait_for(|tickets| *tickets > 0)).await;
        came.map_err(|_| "the server sends no session ticket")??;
        Ok(())
    }
}

/// The product's cryptography without its hybrid group, with which a ClientHello takes two packets: one case loses the second
/// and counts on the first being enough for the server to answer.
fn offered(case: &str) -> CryptoProvider {
    let mut offered = CryptoProvider::clone(&provider());
    offered.kx_groups.retain(|group| group.name() != NamedGroup::X25519MLKEM768);
    if case == "chacha20" {
        offered.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    }
    offered
}

/// Sessions in memory, and how many tickets came.
#[derive(Debug)]
struct Sessions {
    inner: ClientSessionMemoryCache,
    tickets: watch::Sender<usize>,
}

impl Sessions {
    fn new() -> Self {
        Self { inner: ClientSessionMemoryCache::new(SESSIONS_MAX), tickets: watch::Sender::new(0) }
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.inner.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.inner.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.inner.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.inner.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.inner.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.inner.insert_tls13_ticket(name, value);
        self.tickets.send_modify(|tickets| *tickets += 1);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.inner.take_tls13_ticket(name)
    }
}

/// Checks the server's chain against the runner's CA, and counts.
#[derive(Debug)]
struct Verifier {
    /// None where there is no `ca.pem`: nobody is there to be trusted or not.
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    seen: AtomicUsize,
}

impl Verifier {
    fn new(contract: &Contract, provider: Arc<CryptoProvider>) -> Result<Self, Failure> {
        let ca = contract.certs.join("ca.pem");
        let inner = match ca.exists() {
            true => {
                let roots = Arc::new(load_roots(&ca)?);
                Some(WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()?)
            }
            false => None,
        };
        Ok(Self { inner, provider, seen: AtomicUsize::new(0) })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.seen.fetch_add(1, Ordering::Relaxed);
        match &self.inner {
            Some(inner) if intermediates.len() <= INTERMEDIATES_MAX => {
                inner.verify_server_cert(leaf, intermediates, name, ocsp, now)
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
