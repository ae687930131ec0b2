//! Certificates of a run: a CA, as many between as the case asks for, and the server's.
//!
//! Called by the matrix, once for each run. Nothing outlives the run's folder.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

use super::Outcome;

/// Names by which servers are called.
const NAMES: [&str; 4] = ["server", "server4", "server6", "server46"];
/// Names in a chain that shall be large, and their letters.
const LARGE: (usize, usize) = (20, 250);

/// Writes ca.pem, cert.pem with a chain of `length` certificates, and priv.key into `folder`.
pub fn write(folder: &Path, length: usize, seed: u64) -> Outcome<()> {
    fs::create_dir_all(folder)?;
    let key = KeyPair::generate()?;
    let root = authority(0);
    fs::write(folder.join("ca.pem"), root.self_signed(&key)?.pem())?;
    let mut issuer = Issuer::new(root, key);
    let mut chain = String::new();
    for number in 1..length {
        let (params, key) = (authority(number), KeyPair::generate()?);
        chain = params.signed_by(&key, &issuer)?.pem() + &chain;
        issuer = Issuer::new(params, key);
    }
    let key = KeyPair::generate()?;
    let leaf = server(length > 1, seed)?.signed_by(&key, &issuer)?;
    fs::write(folder.join("cert.pem"), leaf.pem() + &chain)?;
    fs::write(folder.join("priv.key"), key.serialize_pem())?;
    Ok(())
}

fn authority(number: usize) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, format!("interop runner {number}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn server(large: bool, seed: u64) -> Outcome<CertificateParams> {
    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    params.distinguished_name.push(DnType::OrganizationName, "interop runner leaf");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..if large { LARGE.0 } else { 0 } {
        let name: String = (0..LARGE.1).map(|_| random.alphanumeric()).collect();
        params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
    }
    Ok(params)
}
