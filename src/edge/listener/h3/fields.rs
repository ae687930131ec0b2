//! Stage 1, HTTP/3: from a field section to a validated head (RFC 9114 sections 4.2 and 4.3, RFC 9220), without I/O.
//!
//! What only a broken or hostile client sends is *malformed*: its stream is reset with H3_MESSAGE_ERROR (RFC 9114
//! section 4.1.2), because an answer would give request smuggling something to work with. What an honest client may run
//! into (too many fields, a method we do not have) gets an answer.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::code::Error;
use super::priority;
use super::qpack::decode::{Failure, Line, Name, Pseudo, Section, SectionLimits, StaticName};
use crate::config::Limits;
use crate::edge::listener::head;
use crate::tunnel::message::RequestHead;

/// A validated request head with what the codec itself needs of it.
#[derive(Debug)]
pub struct Head {
    /// For the spine.
    pub head: RequestHead,
    /// Declared length of the body.
    pub length: Option<u64>,
    /// quinn's priority for the response.
    pub priority: i32,
}

/// Why there is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Close the stream or connection with a code.
    Error(Error),
    /// Answer with this status.
    Answer(StatusCode),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::TooLarge => Self::Answer(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Failure::Broken(error) => Self::Error(error),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<head::Malformed> for Refusal {
    fn from(malformed: head::Malformed) -> Self {
        Self::Error(malformed.into())
    }
}

/// Decodes and validates the field section of a request.
pub fn request(encoded: Bytes, limits: &Limits) -> Result<Head, Refusal> {
    let (pseudo, headers) = section(encoded, limits, true)?;
    pseudo.into_head(headers)
}

/// Decodes and validates a trailer section (RFC 9114 section 4.1, RFC 9110 section 6.5.1).
pub fn trailers(encoded: Bytes, limits: &Limits) -> Result<HeaderMap, Refusal> {
    let (_, headers) = section(encoded, limits, false)?;
    if headers.keys().any(head::is_forbidden_trailer) {
        return Err(Error::malformed("field not allowed in trailers").into());
    }
    Ok(headers)
}

/// The pseudo-fields of a request.
#[derive(Default)]
struct PseudoFields {
    authority: Option<Bytes>,
    method: Option<Bytes>,
    path: Option<Bytes>,
    protocol: Option<Bytes>,
    scheme: Option<Bytes>,
}

impl PseudoFields {
    fn put(&mut self, pseudo: Pseudo, value: Bytes) -> Result<(), Error> {
        let slot = match pseudo {
            Pseudo::Authority => &mut self.authority,
            Pseudo::Method => &mut self.method,
            Pseudo::Path => &mut self.path,
            Pseudo::Protocol => &mut self.protocol,
            Pseudo::Scheme => &mut self.scheme,
            Pseudo::Status => return Err(Error::malformed(":status in a request")),
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(Error::malformed("pseudo-field twice")),
        }
    }

    fn into_head(self, mut headers: HeaderMap) -> Result<Head, Refusal> {
        let method = self.method.ok_or(Error::malformed("no :method"))?;
        let method = Method::from_bytes(&method).map_err(|_| Error::malformed("invalid :method"))?;
        check_connect(&method, &self.protocol, self.path.is_none() && self.scheme.is_none())?;
        check_scheme(self.scheme)?;
        let path = head::parse_path(self.path.ok_or(Error::malformed("no :path"))?, &method)?;
        let authority = head::take_authority(self.authority, &mut headers)?;
        let length = head::content_length(&headers)?;
        if length.is_some() && self.protocol.is_some() {
            return Err(Error::malformed("content-length in CONNECT").into());
        }
        head::join_cookies(&mut headers);
        let priority = headers.get("priority").map_or(priority::DEFAULT, |value| priority::parse(value.as_bytes()));
        let head = RequestHead { method, authority, path, protocol: self.protocol, headers };
        Ok(Head { head, length, priority })
    }
}

/// The rules of CONNECT (RFC 9114 section 4.4) and extended CONNECT (RFC 9220 section 3).
fn check_connect(method: &Method, protocol: &Option<Bytes>, bare: bool) -> Result<(), Refusal> {
    match (protocol, *method == Method::CONNECT) {
        (None, false) => Ok(()),
        // An edge is no forward proxy.
        (None, true) if bare => Err(Refusal::Answer(StatusCode::NOT_IMPLEMENTED)),
        (None, true) => Err(Error::malformed(":path or :scheme in CONNECT").into()),
        (Some(_), false) => Err(Error::malformed(":protocol without CONNECT").into()),
        (Some(protocol), true) if is_token(protocol) => Ok(()),
        (Some(_), true) => Err(Error::malformed("invalid :protocol").into()),
    }
}

/// Only https is served: for another scheme we have no authority (RFC 9110 section 7.4).
fn check_scheme(scheme: Option<Bytes>) -> Result<(), Refusal> {
    let scheme = scheme.ok_or(Error::malformed("no :scheme"))?;
    if scheme.eq_ignore_ascii_case(b"https") {
        return Ok(());
    }
    if scheme.is_empty() || !scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)) {
        return Err(Error::malformed("invalid :scheme").into());
    }
    Err(Refusal::Answer(StatusCode::MISDIRECTED_REQUEST))
}

fn is_token(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(byte))
}

/// Decodes lines and sorts them, as far as the rules are about single lines and their order.
fn section(encoded: Bytes, limits: &Limits, of_request: bool) -> Result<(PseudoFields, HeaderMap), Refusal> {
    let mut headers = HeaderMap::with_capacity((encoded.len() / 24).clamp(4, 24));
    let mut pseudo_fields = PseudoFields::default();
    let mut pseudo_over = !of_request;
    let mut count = 0usize;
    let mut section = Section::new(encoded, SectionLimits { bytes_max: limits.field_section_max })?;
    while let Some(line) = section.next_line()? {
        let (name, value) = match sort(line)? {
            Sorted::Pseudo(..) if pseudo_over => return Err(Error::malformed("pseudo-field out of place").into()),
            Sorted::Pseudo(pseudo, value) => {
                pseudo_fields.put(pseudo, value)?;
                continue;
            }
            Sorted::Field(name, value) => (name, value),
        };
        pseudo_over = true;
        // Cookie crumbs become one field and count as one; the section's size bounds them.
        if name != header::COOKIE || !headers.contains_key(header::COOKIE) {
            count += 1;
        }
        if count > limits.fields_max || headers.try_append(name, value).is_err() {
            return Err(Failure::TooLarge.into());
        }
    }
    Ok((pseudo_fields, headers))
}

enum Sorted {
    Pseudo(Pseudo, Bytes),
    Field(HeaderName, HeaderValue),
}

fn sort(line: Line) -> Result<Sorted, Error> {
    let name = match line.name {
        Name::Static(StaticName::Pseudo(pseudo)) => return Ok(Sorted::Pseudo(*pseudo, line.value)),
        Name::Static(StaticName::Field(name)) => name.clone(),
        Name::Literal(name) if name.first() == Some(&b':') => {
            let pseudo = Pseudo::from_name(&name).ok_or(Error::malformed("unknown pseudo-field"))?;
            return Ok(Sorted::Pseudo(pseudo, line.value));
        }
        Name::Literal(name) => HeaderName::from_lowercase(&name).map_err(|_| Error::malformed("invalid field name"))?,
    };
    let value = check_value(&name, line.value)?;
    Ok(Sorted::Field(name, value))
}

/// Characters of a value (RFC 9114 section 10.3) and fields that HTTP/3 does not have (RFC 9114 section 4.2).
fn check_value(name: &HeaderName, value: Bytes) -> Result<HeaderValue, Error> {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if blank(value.first()) || blank(value.last()) {
        return Err(Error::malformed("blank around a field value"));
    }
    if head::is_connection_specific(name) || (name == header::TE && value.as_ref() != b"trailers") {
        return Err(Error::malformed("connection-specific field"));
    }
    HeaderValue::from_maybe_shared(value).map_err(|_| Error::malformed("invalid field value"))
}

#[cfg(test)]
pub mod tests {
    use super::super::code::Code;
    use super::super::qpack::tests::encode;
    use super::*;
    use proptest::prelude::*;

    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "example.com"), (":path", "/")];

    fn limits() -> Limits {
        Limits { fields_max: 10, field_section_max: 1000, ..Limits::default() }
    }

    fn of(fields: &[(&str, &str)]) -> Result<Head, Refusal> {
        request(encode(fields), &limits())
    }

    /// GET with more fields behind, or a pseudo-field's value replaced.
    fn with(extra: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut fields: Vec<_> = GET.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        for (name, value) in extra {
            match fields.iter_mut().find(|(n, _)| n == name && n.starts_with(':')) {
                Some((_, old)) => *old = value.to_string(),
                None => {
                    let at = if name.starts_with(':') { 0 } else { fields.len() };
                    fields.insert(at, (name.to_string(), value.to_string()));
                }
            }
        }
        fields
    }

    fn of_get_with(extra: &[(&str, &str)]) -> Result<Head, Refusal> {
        let fields = with(extra);
        of(&fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>())
    }

    fn assert_malformed(result: Result<Head, Refusal>, what: &dyn std::fmt::Debug) {
        assert!(
            matches!(result, Err(Refusal::Error(Error::Stream(Code::MESSAGE_ERROR, _)))),
            "{what:?} gave {:?}",
            result.map(|head| head.head)
        );
    }

    #[test]
    fn a_plain_request_becomes_a_head() {
        let head = of_get_with(&[
            (":path", "/a?b"),
            ("host", "example.com"),
            ("cookie", "a=1"),
            ("content-length", "5"),
            ("te", "trailers"),
            ("cookie", "b=2"),
            ("priority", "u=1"),
        ])
        .unwrap();
        assert_eq!((head.length, head.priority), (Some(5), 2));
        assert_eq!(head.head.authority, "example.com");
        assert_eq!(head.head.path, "/a?b");
        assert_eq!(head.head.headers["cookie"], "a=1; b=2");
        assert!(!head.head.headers.contains_key("host"));
    }

    #[test]
    fn extended_connect_becomes_a_head_with_a_protocol() {
        let head = of_get_with(&[(":method", "CONNECT"), (":protocol", "websocket")]).unwrap();
        assert_eq!(head.head.protocol.as_deref(), Some(&b"websocket"[..]));
        assert_eq!(head.head.method, Method::CONNECT);
    }

    #[test]
    fn malformed_requests_are_errors_of_their_stream() {
        let cases: &[&[(&str, &str)]] = &[
            &[("connection", "close")],
            &[("keep-alive", "5")],
            &[("proxy-connection", "close")],
            &[("transfer-encoding", "chunked")],
            &[("upgrade", "websocket")],
            &[("te", "gzip")],
            &[("te", "trailers, gzip")],
            &[("X-Upper", "1")],
            &[("x bad", "1")],
            &[("", "1")],
            &[("x", "a\r\nb: c")],
            &[("x", "a\0b")],
            &[("x", "a\nb")],
            &[("x", " a")],
            &[("x", "a\t")],
            &[("content-length", "1"), ("content-length", "1")],
            &[("content-length", "1, 1")],
            &[("content-length", "+1")],
            &[("content-length", "99999999999999999999")],
            &[("host", "other.example")],
            &[("host", "example.com"), ("host", "example.com")],
            &[(":authority", "user@example.com")],
            &[(":authority", "example.com#x")],
            &[(":authority", "example.com/x")],
            &[(":authority", "")],
            &[(":path", "")],
            &[(":path", "x")],
            &[(":path", "*")],
            &[(":path", "/a#b")],
            &[(":path", "/a b")],
            &[(":path", "/a\r\nx: y")],
            &[(":method", "")],
            &[(":method", "G T")],
            &[(":scheme", "ht tp")],
            &[(":scheme", "")],
            &[(":status", "200")],
            &[(":unknown", "1")],
            &[(":protocol", "websocket")],
            &[(":method", "CONNECT")],
            &[(":method", "CONNECT"), (":protocol", "")],
            &[(":method", "CONNECT"), (":protocol", "web socket")],
            &[(":method", "CONNECT"), (":protocol", "websocket"), ("content-length", "0")],
        ];
        for case in cases {
            assert_malformed(of_get_with(case), case);
        }
    }

    #[test]
    fn pseudo_fields_come_once_and_first() {
        for missing in [0, 1, 2, 3] {
            let mut fields = GET.to_vec();
            let gone = fields.remove(missing);
            assert_malformed(of(&fields), &gone);
        }
        for twice in GET {
            assert_malformed(of(&[&GET[..], &[twice]].concat()), &twice);
            let mut late: Vec<_> = GET.iter().copied().filter(|field| *field != twice).collect();
            late.extend([("x", "1"), twice]);
            assert_malformed(of(&late), &late);
        }
    }

    #[test]
    fn what_an_honest_client_may_do_gets_an_answer() {
        let answer = |result: Result<Head, Refusal>| match result {
            Err(Refusal::Answer(status)) => status.as_u16(),
            other => panic!("{other:?}"),
        };
        assert_eq!(answer(of(&[(":method", "CONNECT"), (":authority", "example.com:443")])), 501);
        assert_eq!(answer(of_get_with(&[(":scheme", "http")])), 421);
        assert_eq!(answer(of_get_with(&[("x", "1"); 11])), 431);
        assert_eq!(answer(of_get_with(&[("x", &"y".repeat(1000))])), 431);
        assert!(of_get_with(&[("x", "1"); 10]).is_ok());
        assert!(of_get_with(&[("cookie", "a=1"); 11]).is_ok());
    }

    #[test]
    fn trailers_have_no_pseudo_fields_and_do_not_frame() {
        let check = |fields: &[(&str, &str)]| trailers(encode(fields), &limits());
        assert_eq!(check(&[("grpc-status", "0")]).unwrap()["grpc-status"], "0");
        for bad in [":path", ":status", "connection", "content-length", "host", "te", "transfer-encoding", "X"] {
            let result = check(&[("a", "b"), (bad, "trailers")]);
            assert!(matches!(result, Err(Refusal::Error(Error::Stream(Code::MESSAGE_ERROR, _)))), "{bad}: {result:?}");
        }
        assert!(matches!(check(&[("x", "1"); 11]), Err(Refusal::Answer(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes: Bytes = [&[0, 0], &bytes[..]].concat().into();
            let _ = request(bytes.clone(), &limits());
            let _ = trailers(bytes, &limits());
        }
    }
}
