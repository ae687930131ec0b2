//! Stage 1: HTTP/3 (RFC 9114) on an established QUIC connection.

pub mod code;
pub mod fields;
pub mod frame;
pub mod priority;
pub mod qpack;
pub mod varint;
