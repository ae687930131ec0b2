//! Connections that are not established yet: asked for by a peer, or under way in either direction.

use std::any::Any;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use quinn::{ConnectionError, ServerConfig};

use super::connection::{Connection, Handle, State};
use super::endpoint::Endpoint;

/// A peer's first packet. Dropped, it is refused.
pub struct Incoming {
    endpoint: Endpoint,
    /// Until it was decided.
    proto: Option<quinn_proto::Incoming>,
}

impl Incoming {
    pub(super) fn new(endpoint: Endpoint, proto: quinn_proto::Incoming) -> Self {
        Self { endpoint, proto: Some(proto) }
    }

    /// Begins the handshake.
    ///
    /// # Errors
    /// When the packet is wrong.
    pub fn accept(self) -> Result<Connecting, ConnectionError> {
        self.decide(None)
    }

    /// Begins the handshake with a configuration of its own.
    ///
    /// # Errors
    /// When the packet is wrong.
    pub fn accept_with(self, config: Arc<ServerConfig>) -> Result<Connecting, ConnectionError> {
        self.decide(Some(config))
    }

    fn decide(mut self, config: Option<Arc<ServerConfig>>) -> Result<Connecting, ConnectionError> {
        match self.proto.take() {
            Some(proto) => self.endpoint.establish(proto, config),
            None => Err(ConnectionError::LocallyClosed),
        }
    }

    /// Says CONNECTION_REFUSED.
    pub fn refuse(self) {}

    /// Asks the peer to prove its address with a Retry packet (RFC 9000 section 8.1.2); refuses one that has.
    pub fn retry(mut self) {
        if let Some(proto) = self.proto.take() {
            self.endpoint.retry(proto);
        }
    }

    /// Where it came from.
    pub fn remote_address(&self) -> SocketAddr {
        self.proto.as_ref().map_or_else(unspecified, quinn_proto::Incoming::remote_address)
    }

    /// Whether that address is known not to be forged.
    pub fn remote_address_validated(&self) -> bool {
        self.proto.as_ref().is_some_and(quinn_proto::Incoming::remote_address_validated)
    }

    /// The connection ID that the peer chose for us.
    #[cfg(feature = "interop")]
    pub fn orig_dst_cid(&self) -> quinn::ConnectionId {
        self.proto.as_ref().map_or_else(|| quinn::ConnectionId::new(&[]), |proto| *proto.orig_dst_cid())
    }
}

fn unspecified() -> SocketAddr {
    ([0, 0, 0, 0], 0).into()
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(proto) = self.proto.take() {
            self.endpoint.refuse(proto);
        }
    }
}

/// A connection whose handshake is under way; await it. Dropped, it is closed.
pub struct Connecting(Handle);

impl Connecting {
    pub(super) fn new(connection: Handle) -> Self {
        Self(connection)
    }

    /// Waits for what the peer's TLS said first: [`HandshakeData`](quinn::crypto::rustls::HandshakeData) of our sessions.
    ///
    /// # Errors
    /// When the handshake failed.
    pub async fn handshake_data(&mut self) -> Result<Box<dyn Any>, ConnectionError> {
        let look = |state: &mut State| {
            let data = state.proto.crypto_session().handshake_data().map(Ok);
            data.or_else(|| state.error.clone().map(Err))
        };
        self.0.until(look).await
    }

    /// The connection before its handshake is complete, as a server can use it at any time.
    pub fn into_0rtt(self) -> (Connection, ZeroRttAccepted) {
        let completed = ZeroRttAccepted(self.0.clone());
        (Connection(self.0), completed)
    }
}

impl IntoFuture for Connecting {
    type Output = Result<Connection, ConnectionError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            completed(&self.0).await?;
            Ok(Connection(self.0))
        })
    }
}

async fn completed(connection: &Handle) -> Result<(), ConnectionError> {
    let look = |state: &mut State| match &state.error {
        _ if state.is_connected() => Some(Ok(())),
        Some(error) => Some(Err(error.clone())),
        None => None,
    };
    connection.until(look).await
}

/// The end of a handshake; await [`completed`](Self::completed).
pub struct ZeroRttAccepted(Handle);

impl ZeroRttAccepted {
    /// Waits for it.
    ///
    /// # Errors
    /// When the handshake failed.
    pub async fn completed(self) -> Result<(), ConnectionError> {
        completed(&self.0).await
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("peer", &self.remote_address()).finish_non_exhaustive()
    }
}
