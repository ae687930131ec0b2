//! Stage 1, HTTP/3: error codes and the one error type of the codec. Every part of the codec says *what* to close (this
//! stream or the connection) and with which code; only `connection` and `request` act on it.

use quinn::VarInt;

use crate::edge::listener::head::Malformed;
use crate::fault::Fault;

/// An HTTP/3 or QPACK error code (RFC 9114 section 8.1, RFC 9204 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(u32);

impl Code {
    /// Nothing went wrong.
    pub const NO_ERROR: Self = Self(0x100);
    /// Broken rules without a code of their own.
    pub const GENERAL_PROTOCOL_ERROR: Self = Self(0x101);
    /// Our own failure.
    pub const INTERNAL_ERROR: Self = Self(0x102);
    /// A stream of a kind that a client must not open, or must not open twice.
    pub const STREAM_CREATION_ERROR: Self = Self(0x103);
    /// Control or QPACK stream closed.
    pub const CLOSED_CRITICAL_STREAM: Self = Self(0x104);
    /// A frame where it may not be.
    pub const FRAME_UNEXPECTED: Self = Self(0x105);
    /// A frame with a wrong size or layout.
    pub const FRAME_ERROR: Self = Self(0x106);
    /// The peer behaves as if to exhaust us.
    pub const EXCESSIVE_LOAD: Self = Self(0x107);
    /// A stream or push id used wrongly.
    pub const ID_ERROR: Self = Self(0x108);
    /// Wrong content of SETTINGS.
    pub const SETTINGS_ERROR: Self = Self(0x109);
    /// The control stream does not begin with SETTINGS.
    pub const MISSING_SETTINGS: Self = Self(0x10a);
    /// Not processed at all: safe to send again.
    pub const REQUEST_REJECTED: Self = Self(0x10b);
    /// A request begun and abandoned.
    pub const REQUEST_CANCELLED: Self = Self(0x10c);
    /// The stream ended within a request.
    pub const REQUEST_INCOMPLETE: Self = Self(0x10d);
    /// A malformed message.
    pub const MESSAGE_ERROR: Self = Self(0x10e);
    /// A field section that cannot be decoded.
    pub const QPACK_DECOMPRESSION_FAILED: Self = Self(0x200);
    /// Wrong content of the client's QPACK encoder stream.
    pub const QPACK_ENCODER_STREAM_ERROR: Self = Self(0x201);
    /// Wrong content of the client's QPACK decoder stream.
    pub const QPACK_DECODER_STREAM_ERROR: Self = Self(0x202);

    /// The code that a fault on the request path has.
    pub fn of_fault(fault: &Fault) -> Self {
        u32::try_from(fault.h3_code()).map_or(Self::INTERNAL_ERROR, Self)
    }

    /// The code as QUIC carries it.
    pub const fn varint(self) -> VarInt {
        VarInt::from_u32(self.0)
    }
}

/// Which thing must be closed, and why. The text goes to the log and, for connections, to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Only this stream is wrong (RFC 9114 section 8).
    #[error("stream error: {1}")]
    Stream(Code, &'static str),
    /// The connection cannot go on (RFC 9114 section 8).
    #[error("connection error: {1}")]
    Connection(Code, &'static str),
}

impl Error {
    /// A malformed message: an error of its stream (RFC 9114 section 4.1.2).
    pub const fn malformed(why: &'static str) -> Self {
        Self::Stream(Code::MESSAGE_ERROR, why)
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::malformed(malformed.0)
    }
}
