//! SHA-256 from the crypto library that TLS already brings.

use rustls::crypto::hash::Context;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

/// A running SHA-256.
pub struct Sha256(Box<dyn Context>);

impl Sha256 {
    /// The hash of nothing so far.
    pub fn new() -> Self {
        // This suite's hash is SHA-256 by definition (RFC 8446 section B.4).
        let suite = TLS13_AES_128_GCM_SHA256.tls13();
        Self(suite.map_or_else(unavailable, |suite| suite.common.hash_provider.start()))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash in lower-case hexadecimal.
    pub fn finish(self) -> String {
        use std::fmt::Write;
        self.0.finish().as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

fn unavailable() -> Box<dyn Context> {
    unreachable!("a TLS 1.3 suite has TLS 1.3 parameters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_fips_180_4() {
        let mut hash = Sha256::new();
        hash.update(b"a");
        hash.update(b"bc");
        assert_eq!(hash.finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
