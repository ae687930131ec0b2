//! QUIC connections as the rest sees them: quinn-proto's state machines, driven by one task for each endpoint.
//!
//! Names and behaviour are those of the quinn crate, whose configuration and error types these share. What differs is how work is
//! done: everything an endpoint has to do in a turn of the event loop is done by its one task (`driver`): what came is read into memory
//! that packets keep, in as many packets as the kernel hands over, and what all of its connections have to send leaves in the
//! largest batches that the kernel takes, through one buffer that stays in the cache. Knows nothing of what runs on a connection.
//!
//! Locks are taken in this order: the endpoint's, a connection's, the list of connections that are due.

mod connection;
mod driver;
mod endpoint;
mod inbox;
mod incoming;
mod receive;
mod send;

pub use connection::Connection;
pub use endpoint::Endpoint;
pub use incoming::{Connecting, Incoming, ZeroRttAccepted};
pub use receive::RecvStream;
pub use send::{SendStream, Stopped};

#[cfg(test)]
mod tests;
