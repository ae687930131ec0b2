//! Paths, and the certificates and keys that they lead to.
//!
//! Called by the walks. Opens each file once, so that `check` finds what `run` would stumble over; keeps nothing of
//! the contents but what the checks between files need.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::item::Item;
use super::section::Section;

/// Largest certificate or key file, bytes.
const PEM_MAX: u64 = 4 << 20;

/// A path relative to the configuration file, made relative to the working folder.
pub(super) fn resolve(item: &Item<'_>, path: &str) -> PathBuf {
    item.sheet.base.join(path)
}

/// A path that need not be there yet, but must be a folder if it is.
pub(super) fn folder(item: &Item<'_>) -> Option<PathBuf> {
    const ALLOWED: &str = "the path of a folder";
    let path = path(item, ALLOWED)?;
    match fs::metadata(&path) {
        Ok(found) if !found.is_dir() => item.refuse(format!("`{}` is not a folder", path.display()), ALLOWED),
        _ => Some(path),
    }
}

/// A file that is there.
pub(super) fn file(item: &Item<'_>) -> Option<PathBuf> {
    const ALLOWED: &str = "the path of a file that can be read";
    let path = path(item, ALLOWED)?;
    match File::open(&path) {
        Ok(_) => Some(path),
        Err(error) => item.refuse(format!("cannot read `{}`: {error}", path.display()), ALLOWED),
    }
}

/// A PEM file with one or more certificates.
pub(super) fn certificates(item: &Item<'_>) -> Option<PathBuf> {
    chain(item).map(|(path, _)| path)
}

/// A certificate chain and its private key, read from the keys `cert` and `key`.
pub(super) struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// The first certificate of the chain.
    pub leaf: CertificateDer<'static>,
}

/// Reads `cert` and `key` of a section and checks that they belong together.
pub(super) fn pair(section: &mut Section<'_>, cert: &str, key: &str) -> Option<Pair> {
    let cert = section.required("cert", &format!("{cert:?}"), chain);
    let key = section.required("key", &format!("{key:?}"), private_key);
    let ((cert, chain), (key, private)) = (cert?, key?);
    let leaf = chain.first()?.clone();
    let signer = match any_supported_type(&private) {
        Ok(signer) => signer,
        Err(error) => {
            section.conflict("key", format!("the key cannot be used: {error}"), "an ECDSA, Ed25519 or RSA key".into());
            return None;
        }
    };
    if let Err(error) = CertifiedKey::new(chain, signer).keys_match() {
        let message = match error {
            rustls::Error::InconsistentKeys(_) => "the key does not belong to the certificate".to_owned(),
            other => format!("the certificate cannot be used: {other}"),
        };
        section.conflict("key", message, "the private key of the first certificate in `cert`".into());
        return None;
    }
    Some(Pair { cert, key, leaf })
}

fn chain(item: &Item<'_>) -> Option<(PathBuf, Vec<CertificateDer<'static>>)> {
    const ALLOWED: &str = "the path of a PEM file with one or more certificates";
    let (path, bytes) = contents(item, ALLOWED)?;
    match CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>() {
        Ok(chain) if !chain.is_empty() => Some((path, chain)),
        _ => item.refuse(format!("no certificate in `{}`", path.display()), ALLOWED),
    }
}

fn private_key(item: &Item<'_>) -> Option<(PathBuf, PrivateKeyDer<'static>)> {
    const ALLOWED: &str = "the path of a PEM file with a private key (PKCS #8, SEC 1 or PKCS #1, not encrypted)";
    let (path, bytes) = contents(item, ALLOWED)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Some((path, key)),
        Err(_) => item.refuse(format!("no private key in `{}`", path.display()), ALLOWED),
    }
}

fn path(item: &Item<'_>, allowed: &str) -> Option<PathBuf> {
    match item.text(allowed)? {
        "" => item.refuse(format!("`{}` is empty", item.key), allowed),
        text => Some(resolve(item, text)),
    }
}

fn contents(item: &Item<'_>, allowed: &str) -> Option<(PathBuf, Vec<u8>)> {
    let path = path(item, allowed)?;
    match read(&path) {
        Ok(bytes) => Some((path, bytes)),
        Err(error) => item.refuse(format!("`{}` cannot be read: {error}", path.display()), allowed),
    }
}

fn read(path: &PathBuf) -> io::Result<Vec<u8>> {
    // A FIFO would block the start for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(PEM_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}
