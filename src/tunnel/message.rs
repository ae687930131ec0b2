//! Layer 3: HTTP messages on an exchange.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, StatusCode};

/// A request head in the one form that every listener makes and every upstream connection is made from.
///
/// Connection-specific fields are already gone, `Host` has become `authority`, cookie crumbs are joined.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method. Upgrades of all protocols have the form of extended CONNECT (RFC 8441, RFC 9220): method CONNECT
    /// and `protocol`.
    pub method: Method,
    /// Host and optional port; no userinfo.
    pub authority: Authority,
    /// Path and query in origin form, or `*` (OPTIONS).
    pub path: PathAndQuery,
    /// `:protocol` of an upgrade, such as `websocket`.
    pub protocol: Option<Bytes>,
    /// The other fields.
    pub headers: HeaderMap,
}

/// A response head; also of interim (1xx) responses.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status code. An accepted upgrade is 200, whatever the client's protocol (the listener turns it into 101).
    pub status: StatusCode,
    /// The fields, without connection-specific ones.
    pub headers: HeaderMap,
}
