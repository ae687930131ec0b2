//! What stands in the certificates.
//!
//! Called by the CA. ECDSA P-256 throughout: every TLS library verifies it, and it is the fastest to verify.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CaError, files};
use crate::tunnel::identity::{POP_SERVER_NAME, gateway_uri, pop_uri, service_uri};

/// Most days that a certificate may be valid: as long as a CA.
pub const DAYS_MAX: u32 = 3_652;

/// A certificate is valid from a little before it was made: the clock of a peer may be behind.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// A certificate and its key, PEM.
pub(super) struct Made {
    pub cert: String,
    pub key: String,
}

/// A CA that can sign.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads `NAME.pem` and `NAME.key`.
    pub fn open(dir: &Path, name: &str) -> Result<Self, CaError> {
        let path = dir.join(format!("{name}.pem"));
        let cert = files::read(&path)?.ok_or_else(|| CaError::NoCa(dir.to_owned()))?;
        let key_path = dir.join(format!("{name}.key"));
        let key = files::read(&key_path)?.ok_or_else(|| broken(&path, "its key is missing"))?;
        let key = KeyPair::from_pem(&key).map_err(|_| broken(&key_path, "no private key in it"))?;
        let cert =
            CertificateDer::from_pem_slice(cert.as_bytes()).map_err(|_| broken(&path, "no certificate in it"))?;
        check(&cert, &key).map_err(|why| broken(&path, why))?;
        let issuer =
            Issuer::from_ca_cert_der(&cert, key).map_err(|_| broken(&path, "its certificate is unreadable"))?;
        Ok(Self { issuer })
    }

    /// Makes a key and signs a certificate for it.
    pub fn sign(&self, leaf: &Leaf, days: u32) -> Result<Made, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(&leaf.name, days);
        params.subject_alt_names = leaf.names.clone();
        params.extended_key_usages = leaf.usages.clone();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Made { cert: cert.pem(), key: key.serialize_pem() })
    }
}

fn broken(path: &Path, why: &str) -> CaError {
    CaError::BrokenCa { path: PathBuf::from(path), why: why.to_owned() }
}

/// What rcgen does not check, and what would make certificates that nobody accepts.
fn check(cert: &[u8], key: &KeyPair) -> Result<(), &'static str> {
    let (_, cert) = X509Certificate::from_der(cert).map_err(|_| "its certificate is unreadable")?;
    if cert.public_key().raw != key.subject_public_key_info() {
        return Err("its key does not belong to its certificate");
    }
    if !cert.is_ca() {
        return Err("its certificate is not that of a CA");
    }
    if !cert.validity().is_valid() {
        return Err("its certificate is not valid now");
    }
    Ok(())
}

/// A new self-signed CA. Its subject ends in the start of its key's identifier: an old and a new CA can be told apart.
pub(super) fn new_authority(title: &str, days: u32) -> Result<Made, CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = params(title, days);
    let id: String = params.key_identifier(&key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, format!("{title} {id}"));
    // It signs certificates, never another CA.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let cert = params.self_signed(&key)?;
    Ok(Made { cert: cert.pem(), key: key.serialize_pem() })
}

fn params(name: &str, days: u32) -> CertificateParams {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + Duration::from_secs(u64::from(days) * 86_400);
    params
}

/// The contents of a certificate that is not a CA's.
pub(super) struct Leaf {
    name: String,
    names: Vec<SanType>,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Leaf {
    /// A PoP: its URI, and the DNS name that every dialler asks for.
    pub fn pop(name: &str) -> Result<Self, CaError> {
        Ok(Self {
            name: name.to_owned(),
            names: vec![uri(pop_uri(name))?, SanType::DnsName(POP_SERVER_NAME.try_into()?)],
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        })
    }

    /// A gateway: its URI, and one for each service.
    pub fn gateway(name: &str, services: &[String]) -> Result<Self, CaError> {
        let mut names = vec![uri(gateway_uri(name))?];
        for service in services {
            names.push(uri(service_uri(service))?);
        }
        Ok(Self { name: name.to_owned(), names, usages: vec![ExtendedKeyUsagePurpose::ClientAuth] })
    }

    /// A site: its hosts.
    pub fn site(hosts: &[String]) -> Result<Self, CaError> {
        let names = hosts.iter().map(|host| match host.parse::<IpAddr>() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => Ok(SanType::DnsName(host.to_ascii_lowercase().try_into()?)),
        });
        Ok(Self {
            name: hosts.first().cloned().unwrap_or_default(),
            names: names.collect::<Result<_, CaError>>()?,
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
        })
    }
}

fn uri(text: String) -> Result<SanType, CaError> {
    Ok(SanType::URI(text.try_into()?))
}
