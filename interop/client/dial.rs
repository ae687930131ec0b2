//! Connections: one socket, TLS by the case, a trace of each. The socket is that which the origin dials with,
//! the endpoint quinn's own, as the h3 crate needs it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use quinn::{Connection, Endpoint, IdleTimeout, TransportConfig, VarInt, ZeroRttAccepted};
use trunkline::quic::{self, initial_cid};

use crate::Failure;
use crate::contract::Contract;
use crate::tls::Tls;

/// Small, so that they must be opened further in the middle of a file.
const STREAM_WINDOW: VarInt = VarInt::from_u32(256 << 10);
const WINDOW: VarInt = VarInt::from_u32(512 << 10);
/// Longer than links are black or handshakes fail under 30 % loss.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// For the last CONNECTION_CLOSE.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Dials one server.
pub struct Dialler {
    endpoint: Endpoint,
    tls: Tls,
    host: String,
    peer: SocketAddr,
    qlog: Option<PathBuf>,
}

impl Dialler {
    /// For the server that `url` names.
    pub async fn new(contract: &Contract, url: &Uri) -> Result<Self, Failure> {
        let host = url.host().ok_or("a URL has no host")?.trim_matches(['[', ']']).to_owned();
        let port = url.port_u16().unwrap_or(contract.port);
        let peer = tokio::net::lookup_host((host.as_str(), port)).await?.next();
        let peer = peer.ok_or_else(|| format!("{host} has no address"))?;
        let socket = quic::abstract_socket(quic::dialling_socket(peer)?)?;
        let (config, runtime) = (quinn::EndpointConfig::default(), Arc::new(quinn::TokioRuntime));
        let endpoint = Endpoint::new_with_abstract_socket(config, None, socket, runtime)?;
        Ok(Self { endpoint, tls: Tls::new(contract)?, host, peer, qlog: contract.qlog.clone() })
    }

    /// A connection after its handshake.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        Ok(self.dial()?.await?)
    }

    /// A connection that sends before its handshake, and whether the server took that.
    pub async fn connect_early(&self) -> Result<(Connection, ZeroRttAccepted), Failure> {
        self.dial()?.into_0rtt().map_err(|_| "the ticket does not allow 0-RTT".into())
    }

    fn dial(&self) -> Result<quinn::Connecting, Failure> {
        let id = initial_cid(fastrand::u8(..));
        let mut transport = TransportConfig::default();
        transport
            .stream_receive_window(STREAM_WINDOW)
            .receive_window(WINDOW)
            // Requests are small, and one case counts the bytes that are not in 0-RTT packets: no probes.
            .mtu_discovery_config(None)
            // Behind the runner's simulator the kernel refuses a batch, and the first flight would be gone.
            .enable_segmentation_offload(false)
            .max_idle_timeout(Some(IdleTimeout::try_from(IDLE_TIMEOUT)?));
        if let Some(folder) = &self.qlog {
            transport.qlog_stream(quic::qlog(folder, &format!("{id}_client")));
        }
        let mut config = quinn::ClientConfig::new(self.tls.client_config()?);
        config.transport_config(Arc::new(transport)).initial_dst_cid_provider(Arc::new(move || id));
        Ok(self.endpoint.connect_with(config, self.peer, &self.host)?)
    }

    /// Handshakes in which the server showed its certificate.
    pub fn full_handshakes(&self) -> usize {
        self.tls.full_handshakes()
    }

    /// Waits for a session ticket.
    pub async fn ticket(&self) -> Result<(), Failure> {
        self.tls.ticket().await
    }

    /// Goes on from another port, with another connection ID (RFC 9000 section 9). True when it is done.
    pub fn migrate(&self) -> bool {
        let moved = quic::dialling_socket(self.peer).and_then(quic::abstract_socket);
        let moved = moved.and_then(|socket| self.endpoint.rebind_abstract(socket));
        moved.inspect_err(|error| tracing::error!(%error, "cannot migrate")).is_ok()
    }

    /// Closes every connection.
    pub async fn end(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await;
    }
}

/// Closes a connection without an error.
pub fn close(connection: &Connection) {
    connection.close(VarInt::from_u32(0), b"");
}
