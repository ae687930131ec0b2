//! The one rustls crypto provider of the product.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The provider: TLS 1.3 suites, X25519MLKEM768 first.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
