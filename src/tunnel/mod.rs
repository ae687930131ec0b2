//! Stage 6, shared by both ends: one protocol between `edge` and `origin` in three layers, each ignorant of the one
//! above: link (one QUIC connection), exchange (a resumable pair of byte streams), message (HTTP on an exchange).
//!
//! Imports neither `edge` nor `origin`.

pub mod block;
pub mod code;
pub mod control;
pub mod endpoint;
pub mod exchange;
pub mod identity;
pub mod link;
pub mod liveness;
pub mod load;
pub mod message;
pub mod metrics;
pub mod peer;
mod resume;
#[cfg(test)]
mod tests;
pub mod wire;
