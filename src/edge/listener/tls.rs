//! Stage 1, TLS towards clients: certificates by server name, and the two rustls configurations, TCP and QUIC.
//!
//! Called at the start of the edge; later reloads swap the certificates in place through [`Certificates::replace`].
//! Provider and PEM files are `crate::tls`'s.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{
    ClientHello, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions,
};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::tickets::SharedTickets;
use crate::config::TlsCertificate;
use crate::quic::ServerTls;
use crate::tls::{TlsError, initial_suite, load_certified_key, provider};

/// Sessions in memory where early data is taken, less than 1 KiB each; the oldest make room.
const SESSIONS_MAX: usize = 20_000;

/// The certificates of the edge, chosen by server name: exact name, then `*.` wildcard of one label (RFC 9525 section
/// 6.3), then the first one configured. Shared by all workers and both configurations.
#[derive(Debug)]
pub struct Certificates {
    current: ArcSwap<Table>,
}

#[derive(Debug)]
struct Table {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl Certificates {
    /// Loads every configured certificate.
    ///
    /// # Errors
    /// Names the file that is missing, malformed or does not match its key.
    pub fn load(configured: &[TlsCertificate]) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self { current: ArcSwap::from_pointee(Table::load(configured)?) }))
    }

    /// Loads certificates anew for handshakes from now on; after an error the old ones stay.
    ///
    /// # Errors
    /// As [`Certificates::load`].
    pub fn replace(&self, configured: &[TlsCertificate]) -> Result<(), TlsError> {
        self.current.store(Arc::new(Table::load(configured)?));
        Ok(())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().find(hello.server_name()))
    }
}

impl Table {
    fn load(configured: &[TlsCertificate]) -> Result<Self, TlsError> {
        let mut by_name = HashMap::new();
        let mut default = None;
        for files in configured {
            let certified = Arc::new(load_certified_key(&files.cert, &files.key)?);
            for name in names(&certified, files)? {
                // Of two certificates for one name the first one configured wins.
                by_name.entry(name).or_insert_with(|| certified.clone());
            }
            default.get_or_insert(certified);
        }
        Ok(Self { by_name, default: default.ok_or(TlsError::Empty)? })
    }

    fn find(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let found = name.and_then(|name| {
            // rustls gives the name in lower case without its final dot.
            self.by_name.get(name).or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.by_name.get(&format!("*.{parent}"))
            })
        });
        found.unwrap_or(&self.default).clone()
    }
}

/// The DNS names of the leaf's subjectAltName, lower case. The common name has no meaning (RFC 9525 section 6.3).
fn names(certified: &CertifiedKey, files: &TlsCertificate) -> Result<Vec<String>, TlsError> {
    let invalid = |reason: String| TlsError::Certificate { path: files.cert.clone(), reason };
    let leaf = certified.cert.first().ok_or_else(|| TlsError::NoCertificate { path: files.cert.clone() })?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| invalid(error.to_string()))?;
    let alternatives = leaf.subject_alternative_name().map_err(|error| invalid(error.to_string()))?;
    let mut names = Vec::new();
    for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
        if let GeneralName::DNSName(name) = name {
            names.push(name.to_ascii_lowercase());
        }
    }
    Ok(names)
}

/// Who makes session tickets: with the keys of `file`, which other PoPs have too, or with keys that rotate and never
/// leave the process. Tickets are good for all configurations that share it.
///
/// # Errors
/// When the file holds no keys.
pub fn tickets(file: Option<&Path>) -> Result<Arc<dyn ProducesTickets>, TlsError> {
    match file {
        Some(file) => Ok(SharedTickets::load(file)?),
        None => Ok(rustls::crypto::aws_lc_rs::Ticketer::new()?),
    }
}

/// The configuration of TCP: HTTP/2 and HTTP/1.1 by ALPN, TLS 1.3 and 1.2, resumption with `tickets`.
///
/// # Errors
/// When rustls refuses it.
pub fn tcp_config(
    certificates: Arc<Certificates>,
    tickets: Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = tickets;
    Ok(Arc::new(config))
}

/// How clients resume over QUIC.
#[derive(Clone)]
pub enum Resumption {
    /// With tickets that hold their session.
    Tickets(Arc<dyn ProducesTickets>),
    /// With tickets that name a session in this process's memory and are good for one connection, so that early data can be
    /// taken: what is sent a second time finds no session and no keys (RFC 8446 section 8.1).
    Once(Arc<dyn StoresServerSessions>),
}

impl Resumption {
    /// `tickets`, unless early data is wanted.
    pub fn new(early_data: bool, tickets: Arc<dyn ProducesTickets>) -> Self {
        match early_data {
            true => Self::Once(ServerSessionMemoryCache::new(SESSIONS_MAX)),
            false => Self::Tickets(tickets),
        }
    }
}

/// The TLS of QUIC: HTTP/3 only, TLS 1.3.
///
/// # Errors
/// When rustls refuses it.
pub fn quic_tls(
    provider: Arc<CryptoProvider>,
    certificates: Arc<Certificates>,
    resumption: Resumption,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h3".to_vec()];
    match resumption {
        Resumption::Tickets(tickets) => config.ticketer = tickets,
        Resumption::Once(sessions) => {
            config.session_storage = sessions;
            // QUIC has its own limits (RFC 9001 section 4.6.1).
            config.max_early_data_size = u32::MAX;
        }
    }
    Ok(config)
}

/// The configuration of QUIC with the TLS of [`quic_tls`].
///
/// # Errors
/// When the product's cryptography lacks the suite of Initial packets.
pub fn quic_config(tls: ServerConfig) -> Result<Arc<ServerTls>, TlsError> {
    let config = ServerTls::new(tls, initial_suite()?);
    Ok(Arc::new(config.map_err(|error| rustls::Error::General(error.to_string()))?))
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, ServerConnection};

    use super::*;

    /// Makes a self-signed certificate for `names` in `folder`.
    pub(in crate::edge::listener) fn make(folder: &Path, names: &[&str]) -> (TlsCertificate, CertificateDer<'static>) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let stem = format!("{:016x}", fastrand::u64(..));
        let files =
            TlsCertificate { cert: folder.join(format!("{stem}.pem")), key: folder.join(format!("{stem}.key")) };
        std::fs::write(&files.cert, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        (files, made.cert.der().clone())
    }

    /// A client that trusts `roots`.
    pub(in crate::edge::listener) fn client(roots: &[CertificateDer<'static>], alpn: &[&[u8]]) -> ClientConfig {
        let mut store = rustls::RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).unwrap();
        }
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(store)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    /// Shakes hands in memory.
    fn connect(
        client: ClientConfig,
        server: &Arc<ServerConfig>,
        name: &str,
    ) -> Result<ClientConnection, rustls::Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(server.clone()).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(client)
    }

    #[test]
    fn the_server_name_selects_the_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let (first, first_der) = make(folder.path(), &["default.example"]);
        let (wild, wild_der) = make(folder.path(), &["*.example.org", "Example.ORG"]);
        let (exact, exact_der) = make(folder.path(), &["www.example.org"]);
        let certificates = Certificates::load(&[first, wild, exact]).unwrap();
        let table = certificates.current.load();
        let found = |name| table.find(name).cert[0].clone();
        assert_eq!(found(Some("www.example.org")), exact_der);
        assert_eq!(found(Some("other.example.org")), wild_der);
        assert_eq!(found(Some("example.org")), wild_der);
        assert_eq!(found(Some("a.b.example.org")), first_der, "a wildcard is one label");
        assert_eq!(found(Some("unknown.test")), first_der);
        assert_eq!(found(Some("org")), first_der);
        assert_eq!(found(None), first_der);
    }

    #[test]
    fn a_handshake_uses_the_hybrid_group_and_picks_h2() {
        let folder = tempfile::tempdir().unwrap();
        let (files, der) = make(folder.path(), &["a.example"]);
        let server = tcp_config(Certificates::load(&[files]).unwrap(), tickets(None).unwrap()).unwrap();
        let done = connect(client(&[der], &[b"http/1.1", b"h2"]), &server, "a.example").unwrap();
        assert_eq!(done.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(done.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn tls12_works_with_suites_and_groups_of_two_libraries() {
        let folder = tempfile::tempdir().unwrap();
        let (files, der) = make(folder.path(), &["a.example"]);
        let server = tcp_config(Certificates::load(&[files]).unwrap(), tickets(None).unwrap()).unwrap();
        let mut store = rustls::RootCertStore::empty();
        store.add(der).unwrap();
        let old = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(store)
            .with_no_client_auth();
        let done = connect(old, &server, "a.example").unwrap();
        assert_eq!(done.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
        assert_eq!(done.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519);
    }

    #[test]
    fn replaced_certificates_serve_the_next_handshake_and_an_error_keeps_the_old_ones() {
        let folder = tempfile::tempdir().unwrap();
        let (old, old_der) = make(folder.path(), &["a.example"]);
        let (new, new_der) = make(folder.path(), &["a.example"]);
        let certificates = Certificates::load(&[old]).unwrap();
        let server = tcp_config(certificates.clone(), tickets(None).unwrap()).unwrap();
        assert!(connect(client(std::slice::from_ref(&old_der), &[]), &server, "a.example").is_ok());
        let missing = TlsCertificate { cert: folder.path().join("gone"), key: new.key.clone() };
        assert!(certificates.replace(&[missing]).is_err());
        assert!(certificates.replace(&[]).is_err());
        assert!(connect(client(std::slice::from_ref(&old_der), &[]), &server, "a.example").is_ok());
        certificates.replace(&[new]).unwrap();
        assert!(connect(client(&[new_der], &[]), &server, "a.example").is_ok());
        assert!(connect(client(&[old_der], &[]), &server, "a.example").is_err());
    }
}
