//! Stage 1, QUIC connections of clients: limits, address validation, handshake. What runs on an established connection
//! (HTTP/3) is handed in.
//!
//! Called once per worker and client address. Owns the endpoint and the tasks of its connections.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::HandshakeData;
use quinn::{
    AckFrequencyConfig, ConnectionError, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
};

use super::admission::{Admission, Permit};
use super::alt_svc::AltSvc;
use super::h3::window;
use super::metrics::ListenerMetrics;
use super::{Client, Protocol};
use crate::config::Limits;
use crate::quic::{
    Congestion, Connecting, Connection, Endpoint, Incoming, PACKET_MAX, QuicKeys, ServerTls, ZeroRttAccepted,
};
use crate::task::Tasks;

/// HTTP/3 needs 3 (control and two for QPACK); the rest is for streams of unknown types, which clients open as grease.
const UNI_STREAMS_MAX: u32 = 8;
/// Streams for requests at once, until a client shows that it wants many (`h3::shared`): what RFC 9114 section 6.1 asks for at
/// least. quinn keeps a place for each stream that a client may open, in maps whose size is a power of two; with those
/// of one direction these fit into 128 places, and eight more would take 256, which are 5.4 KB of an idle connection.
pub(super) const STREAMS_FIRST: u32 = 100;
/// What one client may send before its first packet was looked at; we look at once.
const INCOMING_BUFFER_MAX: u64 = 16 << 10;
/// Packets that a client may receive without acknowledging them at once, where it knows of the extension
/// (draft-ietf-quic-ack-frequency); the others tell of every second one. Half of an initial congestion window, so that
/// slow start never waits for a delayed acknowledgement.
const ACK_THRESHOLD: VarInt = VarInt::from_u32(4);
/// Taken for the round trip until one is measured: what is lost of the first flight is sent again after three times that.
/// RFC 9002 section 6.2.2 recommends 333 ms, with which a client on a lossy link waits a second, then two and four more; of most
/// clients the round trip is below 100 ms. A client farther away than 300 ms gets the flight twice, within the limit of three
/// times what it sent.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// The least difference of two packet sizes that is worth a probe, bytes: half of what lies between 1,200, which every path takes,
/// and [`PACKET_MAX`], which Ethernet does. So the first probe is of that and mostly the only one; by quinn's default of 20 bytes it is
/// the fourth, and the three before it are a tenth of what a new connection with one request costs. A path that takes less is found
/// to take 1,325 or 1,200.
const MTU_CHANGE_MIN: u16 = 127;
/// H3_NO_ERROR.
const NO_ERROR: VarInt = VarInt::from_u32(0x100);
/// How long the last CONNECTION_CLOSE frames may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Everything the accept loop of one worker needs besides its endpoint.
#[derive(Clone)]
pub struct QuicListener {
    /// Bounds.
    pub limits: Arc<Limits>,
    /// Connections and handshakes of this worker.
    pub admission: Admission,
    /// Counters.
    pub metrics: ListenerMetrics,
    /// Owner of the connections; its signals end the loop.
    pub tasks: Tasks,
    /// Told when this endpoint stops taking connections.
    pub alt_svc: AltSvc,
    /// Whether connections begin with the client's first packet instead of with its last of the handshake.
    pub early_data: bool,
    /// A trace of each connection.
    #[cfg(feature = "interop")]
    pub qlog: Option<Qlog>,
}

/// The endpoint's socket failed: HTTP/3 is gone on this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the QUIC endpoint lost its socket")]
pub struct SocketLost;

/// The QUIC configuration for clients.
pub fn server_config(tls: Arc<ServerTls>, keys: &QuicKeys, limits: &Limits) -> ServerConfig {
    let mut config = ServerConfig::new(tls, keys.token_key());
    config
        .transport_config(Arc::new(transport_config(limits)))
        .migration(true)
        .max_incoming(limits.handshakes_max)
        .incoming_buffer_size(INCOMING_BUFFER_MAX)
        .incoming_buffer_size_total(INCOMING_BUFFER_MAX.saturating_mul(64));
    config
}

/// Windows and streams by `limits`, so that one client pins a known amount of memory. No keep-alive from our side: an
/// idle client may sleep.
fn transport_config(limits: &Limits) -> TransportConfig {
    let idle = IdleTimeout::try_from(limits.idle_timeout).unwrap_or(VarInt::MAX.into());
    let mut transport = TransportConfig::default();
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(ACK_THRESHOLD);
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.minimum_change(MTU_CHANGE_MIN).upper_bound(PACKET_MAX);
    transport
        .initial_rtt(INITIAL_RTT)
        .ack_frequency_config(Some(acks))
        .max_concurrent_bidi_streams(limits.streams_max.min(STREAMS_FIRST).into())
        .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
        .stream_receive_window(limits.stream_window.into())
        .receive_window(limits.connection_window.into())
        .send_window(limits.send_window.min(window::START))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(None)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(Congestion));
    // Behind the runner's simulator the kernel refuses a batch, and what should have gone with it is gone.
    #[cfg(feature = "interop")]
    transport.enable_segmentation_offload(false);
    transport
}

/// Accepts connections until drain has begun and the last one has ended. Every established connection is given to
/// `connection`, whose future is its life.
///
/// # Errors
/// When the socket fails for good; connections are lost then.
pub async fn serve_quic<F, R>(endpoint: Endpoint, listener: QuicListener, connection: F) -> Result<(), SocketLost>
where
    F: Fn(Connection, Arc<Client>) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = Arc::new(listener);
    let connections = listener.tasks.child();
    let bound = endpoint.local_addr().ok();
    let mut draining = false;
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                None => {
                    listener.alt_svc.withdraw();
                    return Err(SocketLost);
                }
                Some(incoming) if draining => {
                    listener.metrics.refused_draining.inc();
                    incoming.refuse();
                }
                Some(incoming) => {
                    if let Some((incoming, permits)) = listener.admit(incoming) {
                        // On the heap, whence it goes when it is over.
                        let handshake = Box::pin(listener.clone().establish(incoming));
                        connections.spawn(listener.clone().run(bound, handshake, permits, connection.clone()));
                    }
                }
            },
            () = listener.tasks.draining(), if !draining => {
                draining = true;
                listener.alt_svc.drain();
            }
            () = connections.wait(), if draining => break,
        }
    }
    endpoint.close(NO_ERROR, b"");
    // Late packets are only worth a short wait.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
    Ok(())
}

/// A connection's place, and its handshake's.
type Permits = (Permit, Permit);
/// A connection, and what tells of the end of its handshake if that is still under way.
type Established = (Connection, Option<ZeroRttAccepted>);

impl QuicListener {
    /// Validates the address first when handshakes pile up, so that spoofed packets never take a place.
    fn admit(&self, incoming: Incoming) -> Option<(Incoming, Permits)> {
        if !incoming.remote_address_validated() && self.admission.wants_retry() {
            self.metrics.retries.inc();
            // An unvalidated client may always be asked.
            incoming.retry();
            return None;
        }
        match self.admission.admit(incoming.remote_address().ip()) {
            Ok(permits) => Some((incoming, permits)),
            Err(refusal) => {
                self.metrics.refuse(refusal);
                incoming.refuse();
                None
            }
        }
    }

    /// A connection from its first packet to its end. Most of them are idle most of the time, so what only the beginning needs is
    /// in boxes of its own.
    async fn run<F, H, R>(
        self: Arc<Self>,
        bound: Option<SocketAddr>,
        handshake: Pin<Box<H>>,
        (place, permit): Permits,
        connection: F,
    ) where
        F: Fn(Connection, Arc<Client>) -> R,
        H: Future<Output = Option<Established>>,
        R: Future<Output = ()>,
    {
        let Some((established, early)) = handshake.await else { return };
        let client = Arc::new(client_of(&established, bound));
        let open = self.metrics.open(Protocol::Http3);
        let completed = async {
            if let Some(early) = early {
                Box::pin(self.complete(&established, early)).await;
            }
            drop(permit);
        };
        tokio::join!(completed, connection(established.clone(), client));
        drop((place, open));
    }

    async fn establish(self: Arc<Self>, incoming: Incoming) -> Option<Established> {
        if self.early_data {
            let (connection, early) = self.begin_early(incoming).await?;
            return Some((connection, Some(early)));
        }
        let address = incoming.remote_address();
        let connection = self.in_time(address, async { self.accept(incoming)?.await }).await?;
        Some((connection, None))
    }

    /// A connection as soon as the client has said what it wants, with its handshake still under way.
    async fn begin_early(&self, incoming: Incoming) -> Option<(Connection, ZeroRttAccepted)> {
        let address = incoming.remote_address();
        let hello = async {
            let mut connecting = self.accept(incoming)?;
            connecting.handshake_data().await?;
            Ok(connecting)
        };
        // A server can always begin.
        Some(self.in_time(address, hello).await?.into_0rtt())
    }

    /// Waits for the rest of the handshake and closes a connection that lets us wait for long.
    async fn complete(&self, connection: &Connection, early: ZeroRttAccepted) {
        if self.in_time(connection.remote_address(), early.completed()).await.is_none() {
            connection.close(NO_ERROR, b"");
        }
    }

    async fn in_time<T>(
        &self,
        address: SocketAddr,
        handshake: impl Future<Output = Result<T, ConnectionError>>,
    ) -> Option<T> {
        match tokio::time::timeout(self.limits.header_timeout, handshake).await {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => {
                self.metrics.handshakes_failed.inc();
                tracing::debug!(%address, %error, "QUIC handshake failed");
            }
            Err(_) => {
                self.metrics.handshakes_late.inc();
                tracing::debug!(%address, "QUIC handshake took too long");
            }
        }
        None
    }
}

#[cfg(not(feature = "interop"))]
impl QuicListener {
    fn accept(&self, incoming: Incoming) -> Result<Connecting, ConnectionError> {
        incoming.accept()
    }
}

#[cfg(feature = "interop")]
impl QuicListener {
    fn accept(&self, incoming: Incoming) -> Result<Connecting, ConnectionError> {
        match &self.qlog {
            Some(qlog) => {
                let config = qlog.server_config(&incoming.orig_dst_cid(), &self.limits);
                incoming.accept_with(config)
            }
            None => incoming.accept(),
        }
    }
}

/// Where traces of connections go.
#[cfg(feature = "interop")]
#[derive(Clone)]
pub struct Qlog {
    /// The folder.
    pub folder: Arc<std::path::Path>,
    /// The endpoint's configuration, which each connection gets with a trace of its own.
    pub server: ServerConfig,
}

#[cfg(feature = "interop")]
impl Qlog {
    /// Named after the connection ID that the client chose, as qlog wants it.
    fn server_config(&self, id: &quinn::ConnectionId, limits: &Limits) -> Arc<ServerConfig> {
        let mut transport = transport_config(limits);
        transport.qlog_stream(crate::quic::qlog(&self.folder, &format!("{id}_server")));
        let mut config = self.server.clone();
        config.transport_config(Arc::new(transport));
        Arc::new(config)
    }
}

fn client_of(connection: &Connection, bound: Option<SocketAddr>) -> Client {
    let address = connection.remote_address();
    let handshake = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let bound = bound.unwrap_or(SocketAddr::new(address.ip(), 0));
    Client {
        address,
        local: SocketAddr::new(connection.local_ip().unwrap_or(bound.ip()), bound.port()),
        protocol: Protocol::Http3,
        sni: handshake.and_then(|data| data.server_name),
        credit: Arc::default(),
    }
}

#[cfg(test)]
#[path = "quic_tests.rs"]
mod tests;
