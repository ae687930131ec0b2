//! Stage 1, the rules of request heads that do not depend on the protocol: authority, `content-length`, cookie crumbs,
//! connection-specific fields. Called by the HTTP/3, HTTP/2 and HTTP/1.1 listeners; owns nothing, never does I/O.

use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};

/// Why a head or body is malformed (RFC 9114 section 4.1.2, RFC 9113 section 8.1.1); the text is for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Parses `Host` or `:authority`: host with an optional port and nothing else (RFC 9110 section 7.2).
///
/// An empty port is dropped, since it means the default (RFC 9110 section 4.2.3).
pub fn parse_authority(mut value: Bytes) -> Result<Authority, Malformed> {
    if value.contains(&b'@') {
        return Err(Malformed("userinfo in authority"));
    }
    let empty_port = value.last() == Some(&b':');
    if empty_port {
        value.truncate(value.len().saturating_sub(1));
    }
    let authority = Authority::from_maybe_shared(value).map_err(|_| Malformed("invalid authority"))?;
    if authority.host().is_empty() {
        return Err(Malformed("empty host"));
    }
    // `Authority` takes any digits for a port, and text between a bracket and its colon.
    let port = authority.as_str().strip_prefix(authority.host()).ok_or(Malformed("invalid authority"))?;
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(authority),
        Some(digits) if !empty_port && !digits.starts_with('+') && digits.parse::<u16>().is_ok() => Ok(authority),
        _ => Err(Malformed("invalid port")),
    }
}

/// One authority from `:authority` and the `Host` field, which must agree when both are there (RFC 9114 section 4.3.1).
/// Removes `Host`.
pub fn take_authority(pseudo: Option<Bytes>, headers: &mut HeaderMap) -> Result<Authority, Malformed> {
    let host = take_single(headers, &header::HOST).map_err(|_| Malformed("more than one Host"))?;
    match (pseudo, host) {
        (None, None) => Err(Malformed("no authority")),
        (Some(authority), None) => parse_authority(authority),
        (None, Some(host)) => parse_authority(Bytes::copy_from_slice(host.as_bytes())),
        (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host.as_bytes()) => parse_authority(authority),
        (Some(_), Some(_)) => Err(Malformed("Host and authority differ")),
    }
}

/// Parses `:path` or a request target in origin form: it begins with `/`, or is `*` for OPTIONS; a fragment is never sent
/// (RFC 9114 section 4.3.1, RFC 9110 section 7.1).
pub fn parse_path(value: Bytes, method: &Method) -> Result<PathAndQuery, Malformed> {
    let form = value.first() == Some(&b'/') || (value.as_ref() == b"*" && *method == Method::OPTIONS);
    if !form {
        return Err(Malformed("path is not in origin form"));
    }
    if value.contains(&b'#') {
        return Err(Malformed("fragment in path"));
    }
    PathAndQuery::from_maybe_shared(value).map_err(|_| Malformed("invalid path"))
}

/// Removes a field that may occur once at most; an error if it occurs more often.
fn take_single(headers: &mut HeaderMap, name: &HeaderName) -> Result<Option<HeaderValue>, ()> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    if headers.get_all(name).iter().nth(1).is_some() {
        return Err(());
    }
    Ok(headers.remove(name))
}

/// The declared length: one field with one decimal number that fits. Duplicates and lists are refused even when their
/// members are equal (RFC 9110 section 8.6 leaves the choice).
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Malformed("more than one content-length"));
    }
    let mut length: u64 = 0;
    if value.is_empty() {
        return Err(Malformed("invalid content-length"));
    }
    for digit in value.as_bytes() {
        if !digit.is_ascii_digit() {
            return Err(Malformed("invalid content-length"));
        }
        length = length
            .checked_mul(10)
            .and_then(|n| n.checked_add(u64::from(digit - b'0')))
            .ok_or(Malformed("content-length overflows"))?;
    }
    Ok(Some(length))
}

/// Says that the request came before the handshake was complete, so that the upstream may answer 425 (RFC 8470 section 5.1).
pub fn mark_early(headers: &mut HeaderMap) {
    headers.insert("early-data", HeaderValue::from_static("1"));
}

/// Joins cookie crumbs into one field with `"; "` (RFC 9114 section 4.2.1, RFC 9113 section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let mut joined = BytesMut::new();
    for crumb in headers.get_all(header::COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    // Crumbs are valid values and so is "; ": the conversion cannot fail; without it the cookies would be lost.
    if let Ok(value) = HeaderValue::from_maybe_shared(joined.freeze()) {
        headers.insert(header::COOKIE, value);
    }
}

/// Fields that speak about one connection and have no place in HTTP/2 or HTTP/3 (RFC 9114 section 4.2).
pub fn is_connection_specific(name: &HeaderName) -> bool {
    // Standard names compare as numbers; the other two as short strings.
    name == header::CONNECTION
        || name == header::TRANSFER_ENCODING
        || name == header::UPGRADE
        || name == "keep-alive"
        || name == "proxy-connection"
}

/// Fields that must not come in a trailer section, because they frame or route the message (RFC 9110 section 6.5.1).
pub fn is_forbidden_trailer(name: &HeaderName) -> bool {
    is_connection_specific(name)
        || name == header::CONTENT_LENGTH
        || name == header::HOST
        || name == header::TE
        || name == header::TRAILER
}

/// Compares the bytes of a body with the declared length as they come.
#[derive(Clone, Copy, Debug)]
pub struct BodyLength {
    left: Option<u64>,
}

impl BodyLength {
    /// A check against `declared`; without a declared length everything passes.
    pub fn new(declared: Option<u64>) -> Self {
        Self { left: declared }
    }

    /// Bytes still due, if known.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Whether every declared byte came: what came last must be held back until the end is seen.
    pub fn is_complete(&self) -> bool {
        self.left == Some(0)
    }

    /// Counts bytes; an error if they are more than declared.
    pub fn count(&mut self, bytes: usize) -> Result<(), Malformed> {
        let Some(left) = self.left else { return Ok(()) };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.left = Some(left.checked_sub(bytes).ok_or(Malformed("body longer than content-length"))?);
        Ok(())
    }

    /// The body ended; an error if it is shorter than declared.
    pub fn finish(&self) -> Result<(), Malformed> {
        match self.left {
            None | Some(0) => Ok(()),
            Some(_) => Err(Malformed("body shorter than content-length")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(text: &'static str) -> Option<String> {
        parse_authority(Bytes::from_static(text.as_bytes())).ok().map(|a| a.to_string())
    }

    #[test]
    fn authority_is_a_host_with_an_optional_port() {
        for good in ["example.com", "example.com:443", "[::1]", "[::1]:8443", "10.0.0.1:0", "xn--bcher-kva.example"] {
            assert_eq!(authority(good).as_deref(), Some(good));
        }
        assert_eq!(authority("example.com:").as_deref(), Some("example.com"));
    }

    #[test]
    fn authority_with_anything_else_is_refused() {
        for bad in [
            "",
            ":",
            ":80",
            "user@example.com",
            "@example.com",
            "a@b@c",
            "example.com:65536",
            "example.com:+1",
            "example.com:8x",
            "example.com/path",
            "example.com#f",
            "example.com?q",
            "exam ple.com",
            "[::1",
            "[::1]x",
            "[::1]x:80",
            "a:b:1",
            "exa\u{7f}mple",
            "example.com:80:",
        ] {
            assert_eq!(authority(bad), None, "{bad:?}");
        }
    }

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn host_and_authority_must_agree() {
        let mut agree = map(&[("host", "Example.com")]);
        assert_eq!(take_authority(Some(Bytes::from_static(b"example.com")), &mut agree).unwrap(), "example.com");
        assert!(agree.is_empty());
        let mut only_host = map(&[("host", "example.com:8443")]);
        assert_eq!(take_authority(None, &mut only_host).unwrap(), "example.com:8443");
        assert!(take_authority(Some(Bytes::from_static(b"a")), &mut map(&[("host", "b")])).is_err());
        assert!(take_authority(Some(Bytes::from_static(b"a")), &mut map(&[("host", "a"), ("host", "a")])).is_err());
        assert!(take_authority(None, &mut map(&[])).is_err());
    }

    #[test]
    fn paths_are_in_origin_form() {
        let path = |text: &'static str, method| parse_path(Bytes::from_static(text.as_bytes()), &method).is_ok();
        assert!(path("/", Method::GET) && path("/a?b=c", Method::GET) && path("*", Method::OPTIONS));
        for bad in ["", "a", "*", "?q", "http://a/", "/a#b", "/a b", "/\n", "/\0"] {
            assert!(!path(bad, Method::GET), "{bad:?}");
        }
    }

    #[test]
    fn content_length_is_one_number_that_fits() {
        assert_eq!(content_length(&map(&[])), Ok(None));
        assert_eq!(content_length(&map(&[("content-length", "0")])), Ok(Some(0)));
        assert_eq!(content_length(&map(&[("content-length", "18446744073709551615")])), Ok(Some(u64::MAX)));
        for bad in ["", "+1", "-1", " 1", "1 ", "1, 1", "0x10", "1.0", "18446744073709551616"] {
            assert!(content_length(&map(&[("content-length", bad)])).is_err(), "{bad:?}");
        }
        assert!(content_length(&map(&[("content-length", "1"), ("content-length", "1")])).is_err());
    }

    #[test]
    fn cookie_crumbs_become_one_field() {
        let mut headers = map(&[("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2; c=3")]);
        join_cookies(&mut headers);
        let cookies: Vec<_> = headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn body_length_finds_overrun_and_underrun() {
        let mut length = BodyLength::new(Some(5));
        assert_eq!(length.count(3), Ok(()));
        assert!(!length.is_complete() && length.finish().is_err());
        assert!(length.count(3).is_err());
        assert_eq!(length.count(2), Ok(()));
        assert!(length.is_complete() && length.finish().is_ok());
        assert_eq!(BodyLength::new(None).count(usize::MAX), Ok(()));
    }
}
