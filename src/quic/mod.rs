//! What the QUIC endpoints of both binaries share: keys that survive a restart, connection IDs that name a worker,
//! groups of UDP sockets steered by them, congestion control, and the TLS sessions of clients.
//!
//! Called by the edge's HTTP/3 listener and by both ends of the tunnel. Knows nothing of what runs on a connection.

mod cid;
mod congestion;
mod copies;
mod datagrams;
mod keys;
mod padding;
mod preferred;
#[cfg(feature = "interop")]
mod qlog;
mod session;
mod socket;
mod transport;
mod unreachable;
mod update;

pub use cid::{CidGenerator, Worker, initial_cid};
pub use congestion::Congestion;
pub use copies::Copies;
pub use keys::{KeysError, QuicKeys};
pub use preferred::Preferred;
#[cfg(feature = "interop")]
pub use qlog::qlog;
pub use session::ServerTls;
#[cfg(feature = "interop")]
pub use socket::abstract_socket;
pub use socket::{
    BindError, Ties, WORKERS_MAX, bind_group, bind_udp, canonical, dialling_socket, endpoint, listen, rebind,
};
pub use transport::{Connecting, Connection, Endpoint, Incoming, RecvStream, SendStream, Stopped, ZeroRttAccepted};

/// The largest packet that paths are probed for, bytes. Ethernet takes 1,452 (over IPv6). With one byte less, what is sealed of a full
/// packet is a whole number of AES blocks: behind the first byte, a connection ID of 8 bytes, as each end of a tunnel has and some
/// clients do, and a packet number of 2, and before the tag of 16. The AEADs have a slower way for what is left of a block: 1,424 bytes take
/// 275 ns where 1,425 take 316 (AES-128-GCM of *ring*).
pub const PACKET_MAX: u16 = 1_451;
