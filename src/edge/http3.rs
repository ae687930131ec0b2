//! What QUIC connections of clients are: HTTP/3 on the spine. Called by `run`; `interop.rs` takes its place in a build with the
//! feature `interop`.

use std::future::Future;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;

use super::listener::tls::{Certificates, Resumption, quic_tls};
use super::listener::{Client, h3};
use super::serve::Spine;
use crate::config::EdgeConfig;
use crate::quic::Connection;
use crate::tls::{TlsError, provider};

/// The TLS of these connections.
///
/// # Errors
/// When rustls refuses it.
pub fn tls(_: &EdgeConfig, certificates: Arc<Certificates>, resumption: Resumption) -> Result<ServerConfig, TlsError> {
    quic_tls(provider(), certificates, resumption)
}

/// What every connection of a worker gets.
#[derive(Clone)]
pub struct Connections {
    spine: Spine,
    context: Arc<h3::Context>,
}

impl Connections {
    /// Connections whose requests go to `spine`.
    ///
    /// # Errors
    /// None.
    pub fn new(_: &EdgeConfig, spine: Spine, context: h3::Context) -> io::Result<Self> {
        Ok(Self { spine, context: Arc::new(context) })
    }

    /// Runs an established connection until its end.
    pub fn run(self, quinn: Connection, client: Arc<Client>) -> impl Future<Output = ()> + Send + 'static {
        h3::connection(quinn, client, self.spine, self.context)
    }
}
