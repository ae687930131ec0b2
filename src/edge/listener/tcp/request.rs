//! Stage 1, from hyper's request head to the seam's. The rules themselves are `listener::head`'s; here is what only
//! HTTP/1.1 and HTTP/2 have. Never does I/O.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::super::head::{self, Malformed};
use crate::config::Limits;
use crate::fields;
use crate::tunnel::message::RequestHead;

/// A request that goes no further; the listener answers with `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) reason: &'static str,
}

impl Refused {
    const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason }
    }

    const fn bad(reason: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }
}

impl From<Malformed> for Refused {
    fn from(Malformed(reason): Malformed) -> Self {
        Self::bad(reason)
    }
}

/// What becomes of the connection or stream when the spine answers 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// Nothing: an ordinary request.
    None,
    /// HTTP/1.1: 101 with this `Sec-WebSocket-Accept`.
    WebSocket(HeaderValue),
    /// HTTP/2: the stream becomes two byte streams (RFC 8441).
    Stream,
}

/// A head in the seam's form.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) head: RequestHead,
    pub(super) length: Option<u64>,
    pub(super) switch: Switch,
}

/// Validates and converts. `sni` stands in for the Host that HTTP/1.0 may lack.
pub(super) fn convert(mut parts: Parts, sni: Option<&str>, limits: &Limits) -> Result<Head, Refused> {
    if parts.headers.len() > limits.fields_max {
        return Err(Refused::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many fields"));
    }
    if parts.uri.scheme().is_some_and(|scheme| *scheme != http::uri::Scheme::HTTPS) {
        // Only https is served: for another scheme we have no authority (RFC 9110 section 7.4).
        return Err(Refused::new(StatusCode::MISDIRECTED_REQUEST, "scheme is not https"));
    }
    let length = head::content_length(&parts.headers)?;
    let switch =
        if parts.version == Version::HTTP_2 { of_http2(&parts, length)? } else { of_http1(&mut parts, sni, length)? };
    let protocol = match &switch {
        Switch::None => None,
        Switch::WebSocket(_) => Some(Bytes::from_static(b"websocket")),
        Switch::Stream => {
            parts.extensions.get::<hyper::ext::Protocol>().map(|it| Bytes::copy_from_slice(it.as_str().as_bytes()))
        }
    };
    let method = if protocol.is_some() { Method::CONNECT } else { parts.method };
    let authority = parts.uri.authority().map(|it| Bytes::copy_from_slice(it.as_str().as_bytes()));
    let authority = head::take_authority(authority, &mut parts.headers)?;
    let path = parts.uri.path_and_query().ok_or(Refused::bad("no path"))?.clone();
    let whole_server = path.as_str() == "*" && method == Method::OPTIONS;
    if !whole_server && !path.as_str().starts_with('/') {
        return Err(Refused::bad("path is not in origin form"));
    }
    head::join_cookies(&mut parts.headers);
    Ok(Head { head: RequestHead { method, authority, path, protocol, headers: parts.headers }, length, switch })
}

/// hyper and h2 have checked pseudo-fields and connection-specific ones (RFC 9113 section 8.2.2).
fn of_http2(parts: &Parts, length: Option<u64>) -> Result<Switch, Refused> {
    let protocol = parts.extensions.get::<hyper::ext::Protocol>();
    match (parts.method == Method::CONNECT, protocol) {
        (false, _) => Ok(Switch::None),
        (true, None) => Err(Refused::new(StatusCode::NOT_IMPLEMENTED, "CONNECT without :protocol")),
        (true, Some(_)) if length.is_some() => Err(Refused::bad("content-length in CONNECT")),
        (true, Some(_)) => Ok(Switch::Stream),
    }
}

fn of_http1(parts: &mut Parts, sni: Option<&str>, length: Option<u64>) -> Result<Switch, Refused> {
    if parts.method == Method::CONNECT {
        // An edge is no forward proxy: the method's function, not one resource, is what is lacking.
        return Err(Refused::new(StatusCode::NOT_IMPLEMENTED, "CONNECT"));
    }
    check_host(parts, sni)?;
    check_transfer_encoding(&parts.headers)?;
    let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
    let has_body = chunked || length.is_some_and(|length| length > 0);
    let switch = if has_body { Switch::None } else { websocket(parts)? };
    fields::strip_hop_by_hop(&mut parts.headers);
    if switch != Switch::None {
        parts.headers.remove(header::SEC_WEBSOCKET_KEY);
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    Ok(switch)
}

/// RFC 9112 section 3.2: HTTP/1.1 needs one Host, even beside a target in absolute form.
fn check_host(parts: &mut Parts, sni: Option<&str>) -> Result<(), Refused> {
    if parts.headers.contains_key(header::HOST) || (parts.version < Version::HTTP_11 && parts.uri.authority().is_some())
    {
        return Ok(());
    }
    let sni = sni.filter(|_| parts.version < Version::HTTP_11).ok_or(Refused::bad("no Host"))?;
    let host = HeaderValue::from_str(sni).map_err(|_| Refused::bad("no Host"))?;
    parts.headers.insert(header::HOST, host);
    Ok(())
}

/// Any coding besides chunked would be lost with the field, and the body garbled (RFC 9112 section 6.1).
fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), Refused> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refused::new(StatusCode::NOT_IMPLEMENTED, "transfer coding other than chunked")),
    }
}

/// Whether this asks for WebSocket (RFC 6455 section 4.2.1). Other upgrades are ignored, as any server may.
fn websocket(parts: &Parts) -> Result<Switch, Refused> {
    let asked = parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && has_token(&parts.headers, &header::CONNECTION, "upgrade")
        && has_token(&parts.headers, &header::UPGRADE, "websocket");
    if !asked {
        return Ok(Switch::None);
    }
    if parts.headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refused::new(StatusCode::UPGRADE_REQUIRED, "WebSocket version"));
    }
    let mut keys = parts.headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return Err(Refused::bad("not one Sec-WebSocket-Key"));
    };
    if !is_key(key.as_bytes()) {
        return Err(Refused::bad("invalid Sec-WebSocket-Key"));
    }
    let accept = HeaderValue::from_maybe_shared(derive_accept_key(key.as_bytes()).into_bytes());
    accept.map(Switch::WebSocket).map_err(|_| Refused::bad("invalid Sec-WebSocket-Key"))
}

/// 16 bytes in base64.
fn is_key(key: &[u8]) -> bool {
    key.len() == 24
        && key.strip_suffix(b"==").is_some_and(|digits| {
            digits.iter().all(|digit| digit.is_ascii_alphanumeric() || matches!(digit, b'+' | b'/'))
        })
}

/// The members of comma-separated fields, trimmed.
fn tokens<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|member| member.eq_ignore_ascii_case(token))
}

/// Removes the fields that speak about one connection.
pub(super) fn strip_connection_specific(headers: &mut HeaderMap) {
    headers.remove(header::CONNECTION);
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE);
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(version: Version, method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().version(version).method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn h1(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<Head, Refused> {
        convert(parts(Version::HTTP_11, method, uri, fields), Some("sni.example"), &Limits::default())
    }

    fn status(result: Result<Head, Refused>) -> u16 {
        result.map_or_else(|refused| refused.status.as_u16(), |_| 200)
    }

    #[test]
    fn host_becomes_the_authority_and_hop_by_hop_fields_go() {
        let head = h1(
            "GET",
            "/a?b",
            &[
                ("host", "a.example:8443"),
                ("connection", "keep-alive, X-Hop , host"),
                ("connection", "x-other"),
                ("keep-alive", "timeout=5"),
                ("x-hop", "1"),
                ("x-other", "1"),
                ("te", "trailers"),
                ("upgrade", "h2c"),
                ("proxy-connection", "close"),
                ("cookie", "a=1"),
                ("cookie", "b=2"),
                ("accept", "*/*"),
            ],
        )
        .unwrap()
        .head;
        assert_eq!(head.authority, "a.example:8443");
        assert_eq!(head.path, "/a?b");
        let mut left: Vec<_> = head.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["accept: */*", "cookie: a=1; b=2", "te: trailers"]);
    }

    #[test]
    fn what_is_refused_and_with_which_status() {
        let host = ("host", "a.example");
        for (expected, method, uri, fields) in [
            (200, "GET", "/", &[host][..]),
            (200, "GET", "https://a.example/x", &[host]),
            (200, "OPTIONS", "*", &[host]),
            (200, "POST", "/", &[host, ("transfer-encoding", "Chunked")]),
            (400, "GET", "/", &[]),
            (400, "GET", "https://a.example/x", &[]),
            (400, "GET", "https://b.example/x", &[host]),
            (400, "GET", "https://u@a.example/x", &[("host", "u@a.example")]),
            (400, "GET", "/", &[host, host]),
            (400, "GET", "/", &[("host", "u@a.example")]),
            (400, "GET", "/", &[("host", "")]),
            (400, "GET", "/", &[("host", "a.example/x")]),
            (400, "GET", "*", &[host]),
            (400, "GET", "a.example:80", &[host]),
            (421, "GET", "http://a.example/x", &[host]),
            (501, "CONNECT", "a.example:80", &[host]),
            (501, "POST", "/", &[host, ("transfer-encoding", "gzip, chunked")]),
            (501, "POST", "/", &[host, ("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")]),
            (400, "POST", "/", &[host, ("content-length", "5, 5")]),
        ] {
            assert_eq!(status(h1(method, uri, fields)), expected, "{method} {uri} {fields:?}");
        }
    }

    #[test]
    fn too_many_fields_are_431() {
        let names: Vec<String> = (0..101).map(|i| format!("x-{i}")).collect();
        let mut fields = vec![("host", "a.example")];
        fields.extend(names.iter().map(|name| (name.as_str(), "1")));
        assert_eq!(status(h1("GET", "/", &fields)), 431);
    }

    #[test]
    fn http10_without_host_takes_the_name_of_the_handshake() {
        let of = |sni| convert(parts(Version::HTTP_10, "GET", "/", &[]), sni, &Limits::default());
        assert_eq!(of(Some("sni.example")).unwrap().head.authority, "sni.example");
        assert_eq!(status(of(None)), 400);
    }

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    const VERSION: (&str, &str) = ("sec-websocket-version", "13");
    const WANT: [(&str, &str); 3] = [("host", "a.example"), ("connection", "Upgrade"), ("upgrade", "WebSocket")];

    #[test]
    fn a_websocket_upgrade_has_the_form_of_extended_connect() {
        let fields = [&WANT[..], &[KEY, VERSION, ("sec-websocket-protocol", "chat")]].concat();
        let converted = h1("GET", "/ws", &fields).unwrap();
        assert_eq!(
            converted.switch,
            Switch::WebSocket(HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")),
            "RFC 6455 section 1.3"
        );
        let head = converted.head;
        assert_eq!((head.method, head.protocol.as_deref()), (Method::CONNECT, Some(&b"websocket"[..])));
        let mut left: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["sec-websocket-protocol", "sec-websocket-version"]);
    }

    #[test]
    fn wrong_websocket_handshakes_are_refused_and_other_upgrades_ignored() {
        let with = |more: &[(&str, &str)]| h1("GET", "/", &[&WANT[..], more].concat());
        assert_eq!(status(with(&[KEY])), 426);
        assert_eq!(status(with(&[KEY, ("sec-websocket-version", "8")])), 426);
        assert_eq!(status(with(&[VERSION])), 400);
        assert_eq!(status(with(&[VERSION, KEY, KEY])), 400);
        assert_eq!(status(with(&[VERSION, ("sec-websocket-key", "short")])), 400);
        assert_eq!(with(&[VERSION, KEY, ("content-length", "3")]).unwrap().switch, Switch::None);
        let other = [("host", "a.example"), ("connection", "upgrade"), ("upgrade", "h2c")];
        let head = h1("GET", "/", &other).unwrap();
        assert_eq!((head.switch, head.head.method), (Switch::None, Method::GET));
    }

    #[test]
    fn extended_connect_keeps_its_protocol_and_plain_connect_is_501() {
        let mut extended = parts(Version::HTTP_2, "CONNECT", "https://a.example/ws", &[]);
        extended.extensions.insert(hyper::ext::Protocol::from_static("websocket"));
        let head = convert(extended, None, &Limits::default()).unwrap();
        assert_eq!(head.switch, Switch::Stream);
        assert_eq!(head.head.protocol.as_deref(), Some(&b"websocket"[..]));
        let plain = parts(Version::HTTP_2, "CONNECT", "a.example:443", &[]);
        assert_eq!(status(convert(plain, None, &Limits::default())), 501);
    }

    #[test]
    fn http2_host_and_authority_must_agree() {
        let of = |host| {
            convert(parts(Version::HTTP_2, "GET", "https://a.example/", &[("host", host)]), None, &Limits::default())
        };
        assert_eq!(status(of("a.example")), 200);
        assert_eq!(status(of("b.example")), 400);
    }
}
