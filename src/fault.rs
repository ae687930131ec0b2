//! What went wrong with a request: one type on the whole request path.
//!
//! Status code, `Proxy-Status` (RFC 9209), HTTP/3 and HTTP/2 reset codes, the tunnel's reset code, log field and metric
//! label are all derived here and nowhere else.

use std::fmt;

use http::StatusCode;

/// The stage of the request's way at which the fault was seen. The numbers are those of the crate's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// 1: bytes from a client.
    Listener,
    /// 2: early refusals.
    Filter,
    /// 3: authority to service.
    Route,
    /// 5: choice of a tunnel.
    Dispatch,
    /// 6: the tunnel itself.
    Tunnel,
    /// 7: exchange to upstream request.
    Gateway,
    /// 8: the upstream connection.
    Upstream,
}

impl Stage {
    /// Log field and metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Filter => "filter",
            Self::Route => "route",
            Self::Dispatch => "dispatch",
            Self::Tunnel => "tunnel",
            Self::Gateway => "gateway",
            Self::Upstream => "upstream",
        }
    }
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client sent something wrong or went away.
    Client,
    /// This edge.
    Edge,
    /// The tunnel between edge and origin.
    Tunnel,
    /// The gateway in the origin process.
    Gateway,
    /// The upstream server.
    Upstream,
}

impl Side {
    /// Log field.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Edge => "edge",
            Self::Tunnel => "tunnel",
            Self::Gateway => "gateway",
            Self::Upstream => "upstream",
        }
    }
}

/// Error types of RFC 9209 section 2.3, as far as Trunkline produces them, and the ends a client causes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `dns_error`
    DnsError,
    /// `destination_not_found`: no service has this authority.
    DestinationNotFound,
    /// `destination_unavailable`: the service has no tunnel now, or refuses work.
    DestinationUnavailable,
    /// `connection_refused`
    ConnectionRefused,
    /// `connection_terminated`
    ConnectionTerminated,
    /// `connection_timeout`
    ConnectionTimeout,
    /// `connection_read_timeout`
    ConnectionReadTimeout,
    /// `connection_write_timeout`
    ConnectionWriteTimeout,
    /// `connection_limit_reached`
    ConnectionLimitReached,
    /// `tls_protocol_error`
    TlsProtocolError,
    /// `tls_certificate_error`
    TlsCertificateError,
    /// `http_request_error`: the request is malformed. The status says how.
    RequestError(StatusCode),
    /// `http_request_denied`
    RequestDenied,
    /// `http_response_incomplete`
    ResponseIncomplete,
    /// `http_response_header_section_size`
    ResponseHeaderSectionSize,
    /// `http_response_timeout`
    ResponseTimeout,
    /// `http_upgrade_failed`
    UpgradeFailed,
    /// `http_protocol_error`
    ProtocolError,
    /// `proxy_internal_error`
    InternalError,
    /// `proxy_loop_detected`
    LoopDetected,
    /// Not an error type of RFC 9209: the client cancelled or vanished. Never answered, only logged.
    ClientGone,
}

/// May the request be sent again?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Nothing was started: safe elsewhere for any method.
    Anywhere,
    /// It may have been executed: safe for idempotent methods only (RFC 9110 section 9.2.2).
    Idempotent,
    /// No use, or a response head already went on.
    Never,
}

/// One failure of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it was seen.
    pub stage: Stage,
    /// Whose fault.
    pub side: Side,
    /// What it is.
    pub kind: Kind,
    /// May it be sent again.
    pub retry: Retry,
}

impl Fault {
    /// A fault that says nothing about sending again: [`Retry::Never`].
    pub const fn new(stage: Stage, side: Side, kind: Kind) -> Self {
        Self { stage, side, kind, retry: Retry::Never }
    }

    /// The same fault with another retry class.
    pub const fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// The client's request is malformed; answered with `status`.
    pub const fn bad_request(stage: Stage, status: StatusCode) -> Self {
        Self::new(stage, Side::Client, Kind::RequestError(status))
    }

    /// The client went away or cancelled.
    pub const fn client_gone(stage: Stage) -> Self {
        Self::new(stage, Side::Client, Kind::ClientGone)
    }

    /// Something inside Trunkline that should not happen.
    pub const fn internal(stage: Stage, side: Side) -> Self {
        Self::new(stage, side, Kind::InternalError)
    }

    /// The status code a client gets if no response head went on yet (RFC 9209's recommended codes).
    pub fn status(&self) -> StatusCode {
        match self.kind {
            Kind::RequestError(status) => status,
            Kind::RequestDenied => StatusCode::FORBIDDEN,
            // RFC 9110 section 15.5.20: this server is not able to produce responses for this authority.
            Kind::DestinationNotFound => StatusCode::MISDIRECTED_REQUEST,
            Kind::DestinationUnavailable | Kind::ConnectionLimitReached => StatusCode::SERVICE_UNAVAILABLE,
            Kind::ConnectionTimeout
            | Kind::ConnectionReadTimeout
            | Kind::ConnectionWriteTimeout
            | Kind::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Kind::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::DnsError
            | Kind::ConnectionRefused
            | Kind::ConnectionTerminated
            | Kind::TlsProtocolError
            | Kind::TlsCertificateError
            | Kind::ResponseIncomplete
            | Kind::ResponseHeaderSectionSize
            | Kind::UpgradeFailed
            | Kind::ProtocolError
            | Kind::LoopDetected
            | Kind::ClientGone => StatusCode::BAD_GATEWAY,
        }
    }

    /// The error type token of RFC 9209 section 2.3; also the log field and metric label.
    pub fn error_type(&self) -> &'static str {
        match self.kind {
            Kind::DnsError => "dns_error",
            Kind::DestinationNotFound => "destination_not_found",
            Kind::DestinationUnavailable => "destination_unavailable",
            Kind::ConnectionRefused => "connection_refused",
            Kind::ConnectionTerminated => "connection_terminated",
            Kind::ConnectionTimeout => "connection_timeout",
            Kind::ConnectionReadTimeout => "connection_read_timeout",
            Kind::ConnectionWriteTimeout => "connection_write_timeout",
            Kind::ConnectionLimitReached => "connection_limit_reached",
            Kind::TlsProtocolError => "tls_protocol_error",
            Kind::TlsCertificateError => "tls_certificate_error",
            Kind::RequestError(_) => "http_request_error",
            Kind::RequestDenied => "http_request_denied",
            Kind::ResponseIncomplete => "http_response_incomplete",
            Kind::ResponseHeaderSectionSize => "http_response_header_section_size",
            Kind::ResponseTimeout => "http_response_timeout",
            Kind::UpgradeFailed => "http_upgrade_failed",
            Kind::ProtocolError => "http_protocol_error",
            Kind::InternalError => "proxy_internal_error",
            Kind::LoopDetected => "proxy_loop_detected",
            Kind::ClientGone => "client_gone",
        }
    }

    /// The value of the `Proxy-Status` field (RFC 9209 section 2) that `proxy` writes for this fault.
    pub fn proxy_status(&self, proxy: &str) -> String {
        let mut name = String::with_capacity(proxy.len());
        for c in proxy.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()) {
            if matches!(c, '"' | '\\') {
                name.push('\\');
            }
            name.push(c);
        }
        format!("\"{name}\"; error={}", self.error_type())
    }

    /// The HTTP/3 error code (RFC 9114 section 8.1) with which a stream is reset when the head already went on, or
    /// when the request itself is malformed.
    pub fn h3_code(&self) -> u64 {
        match self.kind {
            Kind::ClientGone => 0x10c,                            // H3_REQUEST_CANCELLED
            Kind::RequestError(StatusCode::BAD_REQUEST) => 0x10e, // H3_MESSAGE_ERROR
            _ => 0x102,                                           // H3_INTERNAL_ERROR
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?} at {:?})", self.error_type(), self.side, self.stage)
    }
}

impl std::error::Error for Fault {}
