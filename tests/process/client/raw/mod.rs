//! Bytes that no library would send, and what comes back.

mod http1;
mod http2;
mod http3;
mod status;

pub use http1::http1;
pub use http2::{Http2Frame, http2};
pub use http3::{Raw, first_status, frame, section, take_varint, varint};

/// How a server ended a raw exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status; the connection lives.
    Status(u16),
    /// The stream was reset with this code; the connection lives.
    Reset(u64),
    /// The whole connection was closed with this code.
    Closed(u64),
}
