//! What the QUIC endpoints of both binaries share: keys that survive a restart, connection IDs that name a worker,
//! groups of UDP sockets steered by them, congestion control, and the TLS sessions of clients.
//!
//! Called by the edge's HTTP/3 listener and by both ends of the tunnel. Knows nothing of what runs on a connection.

mod batch;
mod cid;
mod congestion;
mod copies;
mod datagrams;
mod keys;
mod padding;
mod preferred;
#[cfg(feature = "interop")]
mod qlog;
mod received;
mod session;
mod socket;
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
pub use socket::{
    BindError, Ties, WORKERS_MAX, bind_group, bind_udp, canonical, dialling_socket, endpoint, listen, rebind,
};
