use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use tempfile::TempDir;

use super::*;
use crate::tunnel::identity::{Identity, POP_SERVER_NAME, identity};

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn with_ca() -> TempDir {
    let dir = folder();
    init(dir.path()).expect("a CA");
    dir
}

fn pop() -> Subject {
    Subject::Pop { name: "pop-a".into() }
}

fn gateway() -> Subject {
    Subject::Gateway { name: "gw-1".into(), services: vec!["web".into(), "api".into()] }
}

fn site() -> Subject {
    Subject::Site { hosts: ["localhost", "*.example.org", "127.0.0.1", "::1"].map(String::from).to_vec() }
}

fn make(dir: &TempDir, subject: &Subject) -> Issued {
    issue(dir.path(), dir.path(), subject, DAYS).expect("a certificate")
}

fn roots(path: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(path).expect("a certificate")).expect("a root");
    Arc::new(roots)
}

fn chain(issued: &Issued) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let cert = CertificateDer::from_pem_file(&issued.cert).expect("a certificate");
    (vec![cert], PrivateKeyDer::from_pem_file(&issued.key).expect("a key"))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn server(issued: &Issued, client_ca: Option<&Path>) -> ServerConnection {
    let (chain, key) = chain(issued);
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().expect("versions");
    let builder = match client_ca {
        Some(ca) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(roots(ca), provider()).build().expect("a verifier"),
        ),
        None => builder.with_no_client_auth(),
    };
    ServerConnection::new(Arc::new(builder.with_single_cert(chain, key).expect("a pair"))).expect("a server")
}

fn client(issued: Option<&Issued>, ca: &Path, name: &str) -> ClientConnection {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots(ca));
    let config = match issued.map(chain) {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("a pair"),
        None => builder.with_no_client_auth(),
    };
    ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).expect("a name")).expect("a client")
}

/// Carries bytes from one end to the other.
fn carry(from: &mut Connection, to: &mut Connection) -> Result<(), rustls::Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).expect("memory");
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).expect("memory");
        to.process_new_packets()?;
    }
    Ok(())
}

/// What each end knows of the other after the handshake: (seen by client, seen by server).
fn handshake(client: ClientConnection, server: ServerConnection) -> Result<[Option<Vec<u8>>; 2], rustls::Error> {
    let (mut client, mut server) = (Connection::from(client), Connection::from(server));
    while client.is_handshaking() || server.is_handshaking() {
        carry(&mut client, &mut server)?;
        carry(&mut server, &mut client)?;
    }
    Ok([&client, &server].map(|end| end.peer_certificates().and_then(|chain| chain.first()).map(|cert| cert.to_vec())))
}

#[test]
fn a_gateway_and_a_pop_recognise_each_other() {
    let dir = with_ca();
    let ca = dir.path().join("tunnel-ca.pem");
    let (pop, gateway) = (make(&dir, &pop()), make(&dir, &gateway()));
    let seen = handshake(client(Some(&gateway), &ca, POP_SERVER_NAME), server(&pop, Some(&ca))).expect("a handshake");
    let [of_pop, of_gateway] = seen.map(|cert| identity(&cert.expect("a certificate")).expect("an identity"));
    assert_eq!(of_pop, Identity::Pop { name: "pop-a".into() });
    assert_eq!(of_gateway, Identity::Gateway { name: "gw-1".into(), services: vec!["web".into(), "api".into()] });
}

#[test]
fn a_pop_may_dial_a_pop() {
    let dir = with_ca();
    let ca = dir.path().join("tunnel-ca.pem");
    let (a, b) = (make(&dir, &pop()), make(&dir, &Subject::Pop { name: "pop-b".into() }));
    handshake(client(Some(&a), &ca, POP_SERVER_NAME), server(&b, Some(&ca))).expect("a handshake");
}

#[test]
fn a_gateway_cannot_pose_as_a_pop() {
    let dir = with_ca();
    let ca = dir.path().join("tunnel-ca.pem");
    let (one, other) =
        (make(&dir, &gateway()), make(&dir, &Subject::Gateway { name: "gw-2".into(), services: vec!["web".into()] }));
    let error = handshake(client(Some(&one), &ca, POP_SERVER_NAME), server(&other, Some(&ca))).expect_err("refused");
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn a_gateway_of_another_ca_is_refused() {
    let (ours, theirs) = (with_ca(), with_ca());
    let (our_ca, pop, gateway) = (ours.path().join("tunnel-ca.pem"), make(&ours, &pop()), make(&theirs, &gateway()));
    let error =
        handshake(client(Some(&gateway), &our_ca, POP_SERVER_NAME), server(&pop, Some(&our_ca))).expect_err("refused");
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn a_site_is_trusted_by_the_development_ca_alone() {
    let dir = with_ca();
    let site = make(&dir, &site());
    let site_ca = dir.path().join("site-ca.pem");
    for name in ["localhost", "www.example.org", "127.0.0.1", "::1"] {
        handshake(client(None, &site_ca, name), server(&site, None)).expect(name);
    }
    let foreign = [(site_ca.clone(), "other.example"), (dir.path().join("tunnel-ca.pem"), "localhost")];
    for (ca, name) in foreign {
        handshake(client(None, &ca, name), server(&site, None)).expect_err(name);
    }
}

#[test]
fn a_second_site_certificate_comes_from_the_same_ca() {
    let (dir, out) = (folder(), folder());
    make(&dir, &site());
    let ca = fs::read(dir.path().join("site-ca.pem")).expect("a CA");
    let second = issue(dir.path(), out.path(), &site(), 7).expect("a certificate");
    assert_eq!(fs::read(dir.path().join("site-ca.pem")).expect("a CA"), ca);
    handshake(client(None, &dir.path().join("site-ca.pem"), "localhost"), server(&second, None)).expect("a handshake");
}

#[test]
fn keys_are_for_the_owner_alone() {
    let dir = with_ca();
    make(&dir, &pop());
    make(&dir, &site());
    for key in ["tunnel-ca.key", "pop-a.key", "site-ca.key", "site.key"] {
        let mode = fs::metadata(dir.path().join(key)).expect(key).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_is_left_behind() {
    let dir = with_ca();
    let before = fs::read(dir.path().join("tunnel-ca.key")).expect("a key");
    assert!(matches!(init(dir.path()), Err(CaError::Exists(_))));
    assert_eq!(fs::read(dir.path().join("tunnel-ca.key")).expect("a key"), before);
    fs::write(dir.path().join("pop-a.pem"), "mine").expect("a file");
    assert!(
        matches!(issue(dir.path(), dir.path(), &pop(), DAYS), Err(CaError::Exists(path)) if path.ends_with("pop-a.pem"))
    );
    assert_eq!(fs::read(dir.path().join("pop-a.pem")).expect("a file"), b"mine");
    assert!(!dir.path().join("pop-a.key").exists());
}

#[test]
fn a_dangling_link_is_not_followed() {
    let dir = with_ca();
    let elsewhere = dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, dir.path().join("pop-a.key")).expect("a link");
    assert!(matches!(issue(dir.path(), dir.path(), &pop(), DAYS), Err(CaError::Exists(_))));
    assert!(!elsewhere.exists());
}

#[test]
fn a_ca_that_cannot_sign_is_refused() {
    let dir = folder();
    let attempt = |dir: &TempDir| issue(dir.path(), dir.path(), &pop(), DAYS);
    assert!(matches!(attempt(&dir), Err(CaError::NoCa(_))));
    let (ours, theirs) = (with_ca(), with_ca());
    fs::copy(theirs.path().join("tunnel-ca.key"), ours.path().join("tunnel-ca.key")).expect("a copy");
    assert!(matches!(attempt(&ours), Err(CaError::BrokenCa { .. })));
    let leaf = with_ca();
    let gateway = make(&leaf, &gateway());
    fs::rename(gateway.cert, leaf.path().join("tunnel-ca.pem")).expect("a move");
    fs::rename(gateway.key, leaf.path().join("tunnel-ca.key")).expect("a move");
    assert!(matches!(attempt(&leaf), Err(CaError::BrokenCa { .. })));
}

#[test]
fn names_that_no_certificate_should_have_are_refused() {
    let dir = with_ca();
    let attempt = |subject: Subject| issue(dir.path(), dir.path(), &subject, DAYS).expect_err("refused");
    for name in ["../evil", "Pop", "a/b", ""] {
        assert!(matches!(attempt(Subject::Pop { name: name.into() }), CaError::Name(_)), "{name}");
    }
    for name in ["tunnel-ca", "site", "site-ca"] {
        assert!(matches!(attempt(Subject::Pop { name: name.into() }), CaError::Reserved(_)), "{name}");
    }
    for host in ["a b", "", "*", "*.*.x", "https://x"] {
        assert!(matches!(attempt(Subject::Site { hosts: vec![host.into()] }), CaError::Host(_)), "{host}");
    }
    assert!(matches!(attempt(Subject::Gateway { name: "g".into(), services: vec![] }), CaError::Empty("service")));
    assert!(matches!(attempt(Subject::Site { hosts: vec![] }), CaError::Empty("host")));
    for days in [0, DAYS_MAX + 1, u32::MAX] {
        assert!(matches!(issue(dir.path(), dir.path(), &pop(), days), Err(CaError::Days(_))), "{days}");
    }
}
