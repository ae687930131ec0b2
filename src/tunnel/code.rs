//! Codes with which tunnel streams are reset and links are closed. The one place that turns a [`Fault`] into a code
//! that crosses the tunnel and back.

use quinn::VarInt;

use crate::fault::{Fault, Kind, Retry, Side, Stage};

macro_rules! reset_codes {
    ($( $(#[$doc:meta])* $name:ident = $value:literal => $kind:expr, $retry:ident; )*) => {
        /// Why one end gave up an exchange. Crosses the tunnel as the application error code of RESET_STREAM and
        /// STOP_SENDING.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum ResetCode { $( $(#[$doc])* $name = $value, )* }

        impl ResetCode {
            /// The code with this number; an unknown one counts as [`ResetCode::Internal`].
            pub fn from_varint(code: VarInt) -> Self {
                match code.into_inner() {
                    $( $value => Self::$name, )*
                    _ => Self::Internal,
                }
            }

            fn kind_and_retry(self) -> (Kind, Retry) {
                match self { $( Self::$name => ($kind, Retry::$retry), )* }
            }

            #[cfg(test)]
            const ALL: &[Self] = &[$( Self::$name, )*];
        }
    };
}

reset_codes! {
    /// Nothing went wrong: the rest is not needed.
    Done = 0x20 => Kind::ClientGone, Never;
    /// The client went away.
    Cancelled = 0x21 => Kind::ClientGone, Never;
    /// Nothing was started (drain): safe elsewhere for any method.
    Rejected = 0x22 => Kind::DestinationUnavailable, Anywhere;
    /// Nothing was started: a queue or a budget is full.
    Overload = 0x23 => Kind::ConnectionLimitReached, Anywhere;
    /// This gateway does not serve that service.
    NoRoute = 0x24 => Kind::DestinationNotFound, Anywhere;
    /// The request came round in a circle.
    Loop = 0x25 => Kind::LoopDetected, Never;
    /// No upstream took a connection.
    UpstreamRefused = 0x26 => Kind::ConnectionRefused, Anywhere;
    /// Connecting to the upstream took too long.
    UpstreamConnectTimeout = 0x27 => Kind::ConnectionTimeout, Anywhere;
    /// The upstream's name did not resolve.
    UpstreamDns = 0x28 => Kind::DnsError, Anywhere;
    /// TLS with the upstream failed.
    UpstreamTls = 0x29 => Kind::TlsProtocolError, Anywhere;
    /// The upstream's certificate is not good.
    UpstreamCertificate = 0x2a => Kind::TlsCertificateError, Anywhere;
    /// The upstream sent no response head in time.
    UpstreamTimeout = 0x2b => Kind::ResponseTimeout, Idempotent;
    /// The upstream closed before a response head.
    UpstreamBroken = 0x2c => Kind::ConnectionTerminated, Idempotent;
    /// The upstream's response ended early.
    UpstreamIncomplete = 0x2d => Kind::ResponseIncomplete, Never;
    /// The upstream stalled in mid-body.
    UpstreamReadTimeout = 0x2e => Kind::ConnectionReadTimeout, Never;
    /// The upstream took no more of the request body.
    UpstreamWriteTimeout = 0x2f => Kind::ConnectionWriteTimeout, Never;
    /// The upstream does not speak HTTP as it should.
    UpstreamProtocol = 0x30 => Kind::ProtocolError, Never;
    /// The upstream's response head is too large.
    UpstreamHeadSize = 0x31 => Kind::ResponseHeaderSectionSize, Never;
    /// The upstream answered an upgrade wrongly.
    UpgradeFailed = 0x32 => Kind::UpgradeFailed, Never;
    /// The request is malformed in a way only the far end saw.
    BadRequest = 0x33 => Kind::RequestError(http::StatusCode::BAD_REQUEST), Never;
    /// A stale attachment of an exchange that goes on elsewhere.
    Stale = 0x34 => Kind::InternalError, Never;
    /// A resume of an exchange that is not known here.
    UnknownExchange = 0x35 => Kind::ConnectionTerminated, Idempotent;
    /// The exchange can't be resumed: its bytes are no longer kept.
    NotResumable = 0x36 => Kind::ConnectionTerminated, Idempotent;
    /// Malformed frames on the exchange.
    Protocol = 0x37 => Kind::ProtocolError, Never;
    /// Something that should not happen.
    Internal = 0x38 => Kind::InternalError, Never;
}

impl ResetCode {
    /// The number on the wire.
    pub fn varint(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    /// The fault that the end which receives this code sees.
    pub fn fault(self) -> Fault {
        let (kind, retry) = self.kind_and_retry();
        let (stage, side) = match self {
            Self::Done | Self::Cancelled | Self::BadRequest => (Stage::Listener, Side::Client),
            Self::Rejected | Self::Overload | Self::NoRoute | Self::Loop => (Stage::Gateway, Side::Gateway),
            Self::Stale | Self::UnknownExchange | Self::NotResumable | Self::Protocol | Self::Internal => {
                (Stage::Tunnel, Side::Tunnel)
            }
            _ => (Stage::Upstream, Side::Upstream),
        };
        Fault::new(stage, side, kind).with_retry(retry)
    }

    /// The code that tells the other end of `fault`.
    pub fn from_fault(fault: &Fault) -> Self {
        match fault.kind {
            Kind::ClientGone => Self::Cancelled,
            Kind::RequestError(_) | Kind::RequestDenied => Self::BadRequest,
            Kind::DestinationNotFound => Self::NoRoute,
            Kind::DestinationUnavailable => Self::Rejected,
            Kind::ConnectionLimitReached => Self::Overload,
            Kind::LoopDetected => Self::Loop,
            Kind::DnsError => Self::UpstreamDns,
            Kind::ConnectionRefused => Self::UpstreamRefused,
            Kind::ConnectionTerminated => Self::UpstreamBroken,
            Kind::ConnectionTimeout => Self::UpstreamConnectTimeout,
            Kind::ConnectionReadTimeout => Self::UpstreamReadTimeout,
            Kind::ConnectionWriteTimeout => Self::UpstreamWriteTimeout,
            Kind::TlsProtocolError => Self::UpstreamTls,
            Kind::TlsCertificateError => Self::UpstreamCertificate,
            Kind::ResponseIncomplete => Self::UpstreamIncomplete,
            Kind::ResponseHeaderSectionSize => Self::UpstreamHeadSize,
            Kind::ResponseTimeout => Self::UpstreamTimeout,
            Kind::UpgradeFailed => Self::UpgradeFailed,
            Kind::ProtocolError if fault.stage == Stage::Tunnel => Self::Protocol,
            Kind::ProtocolError => Self::UpstreamProtocol,
            Kind::InternalError => Self::Internal,
        }
    }
}

/// Why one end closed a link: the application error code of CONNECTION_CLOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// Orderly end after a drain.
    Done = 0,
    /// The other end does not follow the protocol.
    Protocol = 1,
    /// The other end's certificate does not allow what it does.
    Identity = 2,
    /// The handshake of the control stream took too long.
    Timeout = 3,
    /// This end is draining or has too many links.
    Busy = 4,
    /// This end convicted the link as dead.
    Dead = 5,
    /// Forced end of the process.
    Forced = 6,
}

impl CloseCode {
    /// The number on the wire.
    pub fn varint(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for &code in ResetCode::ALL {
            assert_eq!(ResetCode::from_varint(code.varint()), code);
        }
        assert_eq!(ResetCode::from_varint(VarInt::from_u32(7)), ResetCode::Internal);
    }

    #[test]
    fn a_fault_of_the_upstream_keeps_its_kind_and_retry_class_across_the_tunnel() {
        for &code in ResetCode::ALL {
            let fault = code.fault();
            if fault.side == Side::Upstream {
                assert_eq!(ResetCode::from_fault(&fault).fault(), fault, "{code:?}");
            }
        }
    }
}
