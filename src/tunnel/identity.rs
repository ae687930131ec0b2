//! Stage 6: who is at the other end of a tunnel, read from its certificate.
//!
//! Called by both ends after the TLS handshake verified the chain against the tunnel CA, by the configuration and by
//! `edge ca`. Owns the form of the SAN URIs and of names; verifies no signature.

use std::fmt;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The TLS server name that every dialler sends and every PoP certificate has as a DNS SAN. Which PoP it is, the SAN
/// URI says; DNS names of PoPs may change without new certificates.
pub const POP_SERVER_NAME: &str = "pop.trunkline.internal";

/// Longest name of a PoP, gateway or service, bytes.
pub const NAME_MAX: usize = 63;

const SCHEME: &str = "trunkline://";

/// Who a tunnel certificate belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A PoP: `trunkline://pop/NAME`.
    Pop {
        /// Its name.
        name: String,
    },
    /// A gateway: `trunkline://gateway/NAME`.
    Gateway {
        /// Its name.
        name: String,
        /// What it may serve: each `trunkline://service/SERVICE`, in the order of the certificate, without duplicates.
        services: Vec<String>,
    },
}

impl Identity {
    /// The name of the PoP or gateway.
    pub fn name(&self) -> &str {
        match self {
            Self::Pop { name } | Self::Gateway { name, .. } => name,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pop { name } => write!(f, "PoP {name}"),
            Self::Gateway { name, .. } => write!(f, "gateway {name}"),
        }
    }
}

/// Why a certificate does not say who it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not an X.509 certificate, or its SAN extension is broken or there twice.
    #[error("not a readable certificate")]
    Unreadable,
    /// No `trunkline://pop/…` and no `trunkline://gateway/…`.
    #[error(
        "no trunkline://pop/NAME or trunkline://gateway/NAME among its alternative names: not a tunnel certificate"
    )]
    Absent,
    /// More than one of them.
    #[error("more than one trunkline://pop/NAME or trunkline://gateway/NAME among its alternative names")]
    Ambiguous,
    /// A PoP that also claims services.
    #[error("a PoP's certificate with trunkline://service/ names")]
    PopWithServices,
    /// A name outside the grammar of [`is_name`].
    #[error("{0:?} is not a name: {NAME_RULE}")]
    Name(String),
}

/// What [`is_name`] asks for, in words.
pub const NAME_RULE: &str =
    "1 to 63 of the letters a-z, digits, `-`, `_` and `.`, with a letter or digit at both ends and no `..`";

/// Whether `name` may name a PoP, gateway or service. Such a name is a token of RFC 9110 section 5.6.2 (it goes into
/// `Via`), a path segment of a URI and a file name without escaping, and has one spelling only.
pub fn is_name(name: &str) -> bool {
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= NAME_MAX
        && end(name.chars().next())
        && end(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
        && !name.contains("..")
}

/// The SAN URI of a PoP.
pub fn pop_uri(name: &str) -> String {
    format!("{SCHEME}pop/{name}")
}

/// The SAN URI of a gateway.
pub fn gateway_uri(name: &str) -> String {
    format!("{SCHEME}gateway/{name}")
}

/// The SAN URI that lets a gateway serve `service`.
pub fn service_uri(service: &str) -> String {
    format!("{SCHEME}service/{service}")
}

/// Reads the identity from a certificate (DER). The caller has verified the chain. URIs of other schemes and unknown
/// kinds of `trunkline://` names are ignored, so that later versions may add some.
pub fn identity(cert_der: &[u8]) -> Result<Identity, IdentityError> {
    let (_, cert) = X509Certificate::from_der(cert_der).map_err(|_| IdentityError::Unreadable)?;
    let san = cert.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?.ok_or(IdentityError::Absent)?;
    let mut node = None;
    let mut services = Vec::new();
    for uri in san.value.general_names.iter().filter_map(uri) {
        match uri.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')) {
            Some((kind @ ("pop" | "gateway"), text)) if node.is_none() => node = Some((kind == "pop", name(text)?)),
            Some(("pop" | "gateway", _)) => return Err(IdentityError::Ambiguous),
            Some(("service", text)) => services.push(name(text)?),
            _ => {}
        }
    }
    match node {
        None => Err(IdentityError::Absent),
        Some((true, _)) if !services.is_empty() => Err(IdentityError::PopWithServices),
        Some((true, name)) => Ok(Identity::Pop { name }),
        Some((false, name)) => Ok(Identity::Gateway { name, services: without_duplicates(services) }),
    }
}

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    }
}

fn name(text: &str) -> Result<String, IdentityError> {
    if is_name(text) { Ok(text.to_owned()) } else { Err(IdentityError::Name(text.chars().take(NAME_MAX).collect())) }
}

fn without_duplicates(names: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    names.into_iter().filter(|name| seen.insert(name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("ASCII"))).collect();
        let key = KeyPair::generate().expect("key");
        params.self_signed(&key).expect("certificate").der().to_vec()
    }

    fn read(uris: &[&str]) -> Result<Identity, IdentityError> {
        identity(&certificate(uris))
    }

    #[test]
    fn a_pop_has_a_name() {
        assert_eq!(read(&[&pop_uri("pop-a")]), Ok(Identity::Pop { name: "pop-a".into() }));
    }

    #[test]
    fn a_gateway_has_a_name_and_its_services_once_each() {
        let uris = [gateway_uri("gw-1"), service_uri("web"), service_uri("api.v2"), service_uri("web")];
        let services = vec!["web".to_owned(), "api.v2".to_owned()];
        assert_eq!(read(&uris.each_ref().map(String::as_str)), Ok(Identity::Gateway { name: "gw-1".into(), services }));
    }

    #[test]
    fn other_uris_and_unknown_kinds_are_ignored() {
        let uris = ["spiffe://x/pop/evil", "trunkline://region/eu", "trunkline://pop", &pop_uri("pop-a")];
        assert_eq!(read(&uris), Ok(Identity::Pop { name: "pop-a".into() }));
    }

    #[test]
    fn a_certificate_without_a_clear_identity_is_refused() {
        assert_eq!(read(&[]), Err(IdentityError::Absent));
        assert_eq!(read(&[&service_uri("web")]), Err(IdentityError::Absent));
        assert_eq!(read(&[&pop_uri("a"), &pop_uri("b")]), Err(IdentityError::Ambiguous));
        assert_eq!(read(&[&gateway_uri("a"), &pop_uri("a")]), Err(IdentityError::Ambiguous));
        assert_eq!(read(&[&pop_uri("a"), &service_uri("web")]), Err(IdentityError::PopWithServices));
        for bad in ["", "A", "a/b", "a b", "-a", "a..b", "%61"] {
            assert_eq!(read(&[&pop_uri(bad)]), Err(IdentityError::Name(bad.into())), "{bad}");
        }
    }

    #[test]
    fn names_have_one_spelling_and_a_bound() {
        assert!(["a", "pop-a", "api.v2", "gw_1", "0"].iter().all(|name| is_name(name)));
        assert!(is_name(&"a".repeat(NAME_MAX)) && !is_name(&"a".repeat(NAME_MAX + 1)));
        assert!(!["", ".", "..", "a.", "Ä", "a\n", "a\0b", "a\"b"].iter().any(|name| is_name(name)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_identity_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = identity(&bytes);
        }

        #[test]
        fn a_damaged_certificate_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            static GOOD: std::sync::LazyLock<Vec<u8>> =
                std::sync::LazyLock::new(|| certificate(&["trunkline://gateway/gw-1", "trunkline://service/web"]));
            let mut bytes = GOOD.clone();
            let at = at.index(bytes.len());
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = identity(&bytes);
        }
    }
}
