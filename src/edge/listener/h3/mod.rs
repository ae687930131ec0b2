//! Stage 1: HTTP/3 (RFC 9114) with QPACK's static table (RFC 9204), extended CONNECT (RFC 9220) and priorities (RFC 9218)
//! on an established QUIC connection.
//!
//! [`connection`] runs one connection: it spawns a task for each request stream (`request`) and one for the client's
//! unidirectional streams (`streams`). What can be decided without I/O is: `frame`, `qpack`, `fields`, `settings`,
//! `priority`. The socket, TLS and stream limits belong to the endpoint's owner.

mod body;
pub mod code;
mod connection;
mod control;
pub mod fields;
pub mod frame;
mod metrics;
pub mod priority;
pub mod qpack;
mod receive;
mod request;
mod respond;
mod send;
pub mod settings;
mod shared;
mod streams;
pub mod varint;
pub mod window;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use connection::connection;
pub use metrics::H3Metrics;

use super::alt_svc::AltSvc;
use super::parting::Parting;
use crate::config::Limits;
use crate::task::Tasks;
use crate::tunnel::exchange::retention::Budget;

/// What every HTTP/3 connection of a worker shares.
pub struct Context {
    /// Bounds on the client.
    pub limits: Arc<Limits>,
    /// This PoP's name, for `Proxy-Status` on the answers that the codec gives itself.
    pub name: Arc<str>,
    /// Counters.
    pub metrics: Arc<H3Metrics>,
    /// Memory for answers on their way, beyond what every connection starts with.
    pub send_budget: Arc<Budget>,
    /// Owner of the connections' tasks.
    pub tasks: Tasks,
    /// What answers announce while this PoP drains.
    pub alt_svc: AltSvc,
    /// When a connection hears of a drain.
    pub parting: Parting,
}
