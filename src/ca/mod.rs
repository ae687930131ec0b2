//! The certificate authority behind `edge ca`: makes the tunnel CA, the certificates of PoPs and gateways, and a
//! development CA with site certificates.
//!
//! Called by `bin/edge` and `edge dev`. Owns the form of the certificates (who reads them: `tunnel::identity`) and the
//! file names; never overwrites a file and never runs inside a serving process.

mod files;
mod issue;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use self::files::write_pair;
pub use self::issue::DAYS_MAX;
use self::issue::{Authority, Leaf};
use crate::tunnel::identity::{NAME_RULE, is_name};

/// The tunnel CA: signs PoPs and gateways, nothing else.
pub const TUNNEL_CA: &str = "tunnel-ca";
/// The development CA: signs the site certificate where no public CA can.
pub const SITE_CA: &str = "site-ca";
/// The development certificate that clients see.
pub const SITE: &str = "site";

/// Days that a certificate is valid unless told otherwise.
pub const DAYS: u32 = 365;
/// Days that a CA is valid: ten years.
const CA_DAYS: u32 = 3_652;

/// Whom to make a certificate for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A PoP, signed by the tunnel CA; server and client side, since PoPs will dial each other.
    Pop {
        /// Its name: the `name` of its edge.toml.
        name: String,
    },
    /// A gateway, signed by the tunnel CA; client side.
    Gateway {
        /// Its name: the `name` of its origin.toml.
        name: String,
        /// The services that it may serve; at least one.
        services: Vec<String>,
    },
    /// What clients see during development, signed by the development CA, which is made when it is first needed.
    Site {
        /// DNS names and IP addresses; at least one.
        hosts: Vec<String>,
    },
}

/// A certificate and its key in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Certificate (PEM), readable by everyone.
    pub cert: PathBuf,
    /// Private key (PKCS #8 PEM), mode 0600.
    pub key: PathBuf,
}

impl fmt::Display for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.cert.display(), self.key.display())
    }
}

/// Why no certificate was made. Nothing is left behind then.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file is there already: keys are never overwritten.
    #[error("`{}` is there already; move it away or choose another folder, nothing is ever overwritten", .0.display())]
    Exists(PathBuf),
    /// A file or folder cannot be read or written.
    #[error("`{}`: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder holds no CA.
    #[error("no CA in `{}`: make one with `edge ca init`", .0.display())]
    NoCa(PathBuf),
    /// The CA's files are damaged or do not belong together.
    #[error("`{}` is no usable CA: {why}", path.display())]
    BrokenCa {
        /// The CA's certificate.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A name that no certificate should have.
    #[error("`{0}` is not a name: {NAME_RULE}")]
    Name(String),
    /// A name that is a file of the CA itself.
    #[error("`{0}` is reserved: the CA's own files are called so")]
    Reserved(String),
    /// A host that no certificate can have.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    Host(String),
    /// A gateway without services or a site without hosts.
    #[error("at least one {0} is needed")]
    Empty(&'static str),
    /// Days out of range.
    #[error("{0} days is out of range: 1 to {DAYS_MAX}")]
    Days(u32),
    /// The crypto library refused.
    #[error("the certificate could not be made: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// Makes a new tunnel CA in `dir`, which is created (0700) if it is not there.
pub fn init(dir: &Path) -> Result<Issued, CaError> {
    files::folder(dir)?;
    create_ca(dir, TUNNEL_CA, "Trunkline tunnel CA")
}

/// Makes a key and a certificate for `subject` with the CA in `dir` and writes them to `out`, valid for `days`.
///
/// A PoP's or gateway's files are called after it, a site's `site.pem` and `site.key`.
pub fn issue(dir: &Path, out: &Path, subject: &Subject, days: u32) -> Result<Issued, CaError> {
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(CaError::Days(days));
    }
    let (file, leaf) = leaf(subject)?;
    let authority = match subject {
        Subject::Site { .. } => site_authority(dir)?,
        Subject::Pop { .. } | Subject::Gateway { .. } => Authority::open(dir, TUNNEL_CA)?,
    };
    let made = authority.sign(&leaf, days)?;
    files::folder(out)?;
    write_pair(out, file, &made.cert, &made.key)
}

fn create_ca(dir: &Path, file: &str, title: &str) -> Result<Issued, CaError> {
    let made = issue::new_authority(title, CA_DAYS)?;
    write_pair(dir, file, &made.cert, &made.key)
}

fn site_authority(dir: &Path) -> Result<Authority, CaError> {
    match Authority::open(dir, SITE_CA) {
        Err(CaError::NoCa(_)) => {
            files::folder(dir)?;
            create_ca(dir, SITE_CA, "Trunkline development CA")?;
            Authority::open(dir, SITE_CA)
        }
        other => other,
    }
}

/// The file name and the contents of the certificate that `subject` gets.
fn leaf(subject: &Subject) -> Result<(&str, Leaf), CaError> {
    match subject {
        Subject::Pop { name } => Ok((node(name)?, Leaf::pop(name)?)),
        Subject::Gateway { services, .. } if services.is_empty() => Err(CaError::Empty("service")),
        Subject::Gateway { name, services } => {
            services.iter().try_for_each(|service| valid(service))?;
            Ok((node(name)?, Leaf::gateway(name, services)?))
        }
        Subject::Site { hosts } if hosts.is_empty() => Err(CaError::Empty("host")),
        Subject::Site { hosts } => {
            hosts.iter().try_for_each(|host| host_name(host))?;
            Ok((SITE, Leaf::site(hosts)?))
        }
    }
}

fn valid(name: &str) -> Result<(), CaError> {
    if is_name(name) { Ok(()) } else { Err(CaError::Name(name.to_owned())) }
}

fn node(name: &str) -> Result<&str, CaError> {
    valid(name)?;
    match [TUNNEL_CA, SITE_CA, SITE].contains(&name) {
        true => Err(CaError::Reserved(name.to_owned())),
        false => Ok(name),
    }
}

/// rustls and browsers want a valid DNS name, with `*` at most as the whole first label.
fn host_name(host: &str) -> Result<(), CaError> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    match host.parse::<IpAddr>().is_ok() || rustls::pki_types::DnsName::try_from(name).is_ok() {
        true => Ok(()),
        false => Err(CaError::Host(host.to_owned())),
    }
}

#[cfg(test)]
mod tests;
