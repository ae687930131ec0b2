//! Going on with a cut download through another gateway (sans-IO): Range and If-Range with a strong validator
//! (RFC 9110 sections 13.1.5 and 14). The one place that decides whether that is exact.
//!
//! Invariant: what is spliced has the same strong ETag, begins at the byte that the client waits for, and ends where the
//! first response said it would.

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderValue, IF_RANGE, RANGE};
use http::{HeaderMap, Method, StatusCode};

use crate::tunnel::message::{RequestHead, ResponseHead};

/// Continuations of one response at most.
pub const CONTINUATIONS_MAX: u32 = 2;

/// What must be known of a response to go on with it elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    etag: HeaderValue,
    range: ByteRange,
    used: u32,
}

/// The part of a representation that the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ByteRange {
    first: u64,
    last: u64,
    complete: u64,
}

impl Continuation {
    /// Whether this response could be continued: a 200 with a length or one part (206) to a GET, with a strong ETag.
    pub fn of(request: &RequestHead, response: &ResponseHead) -> Option<Self> {
        let range = match response.status {
            _ if request.method != Method::GET => return None,
            StatusCode::OK => {
                let complete: u64 = response.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
                ByteRange { first: 0, last: complete.checked_sub(1)?, complete }
            }
            // Several parts have no Content-Range of their own.
            StatusCode::PARTIAL_CONTENT => ByteRange::of(&response.headers)?,
            _ => return None,
        };
        let etag = response.headers.get(ETAG).filter(|etag| is_strong(etag))?.clone();
        Some(Self { etag, range, used: 0 })
    }

    /// Makes `request` ask for the rest after `sent` bytes; false if there is nothing to ask for or it was asked too often.
    pub fn ask(&mut self, request: &mut RequestHead, sent: u64) -> bool {
        let Some(ByteRange { first, last, .. }) = self.range.after(sent) else { return false };
        let Ok(range) = HeaderValue::try_from(format!("bytes={first}-{last}")) else { return false };
        if self.used >= CONTINUATIONS_MAX {
            return false;
        }
        self.used += 1;
        request.headers.insert(RANGE, range);
        request.headers.insert(IF_RANGE, self.etag.clone());
        true
    }

    /// Whether `response` is exactly the rest.
    pub fn fits(&self, response: &ResponseHead, sent: u64) -> bool {
        let headers = &response.headers;
        response.status == StatusCode::PARTIAL_CONTENT
            && headers.get(ETAG) == Some(&self.etag)
            && self.range.after(sent).is_some_and(|rest| ByteRange::of(headers) == Some(rest))
    }
}

impl ByteRange {
    /// `Content-Range: bytes first-last/complete` (RFC 9110 section 14.4).
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
        let (unit, range) = text.split_once(' ')?;
        let (range, complete) = range.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let range = Self { first: digits(first)?, last: digits(last)?, complete: digits(complete)? };
        let is_range = unit.eq_ignore_ascii_case("bytes") && range.first <= range.last && range.last < range.complete;
        is_range.then_some(range)
    }

    /// What is left of it after `sent` bytes, if anything.
    fn after(self, sent: u64) -> Option<Self> {
        let first = self.first.checked_add(sent).filter(|first| *first <= self.last)?;
        Some(Self { first, ..self })
    }
}

/// A number without a sign.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// RFC 9110 section 8.8.3: a quoted tag without `W/`.
fn is_strong(etag: &HeaderValue) -> bool {
    let bytes = etag.as_bytes();
    bytes.len() > 2 && bytes.starts_with(b"\"") && bytes.ends_with(b"\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::uri::{Authority, PathAndQuery};

    fn request(method: Method) -> RequestHead {
        RequestHead {
            method,
            authority: Authority::from_static("a"),
            path: PathAndQuery::from_static("/"),
            protocol: None,
            headers: HeaderMap::new(),
        }
    }

    fn response(status: u16, fields: &[(http::HeaderName, &str)]) -> ResponseHead {
        let fields = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        ResponseHead { status: StatusCode::from_u16(status).unwrap(), headers: fields.collect() }
    }

    #[test]
    fn only_a_get_with_a_strong_validator_and_a_length_can_be_continued() {
        let whole = response(200, &[(ETAG, "\"v1\""), (CONTENT_LENGTH, "1000")]);
        assert!(Continuation::of(&request(Method::GET), &whole).is_some());
        assert_eq!(Continuation::of(&request(Method::POST), &whole), None);
        for fields in
            [vec![(ETAG, "W/\"v1\""), (CONTENT_LENGTH, "1000")], vec![(ETAG, "\"v1\"")], vec![(CONTENT_LENGTH, "1000")]]
        {
            assert_eq!(Continuation::of(&request(Method::GET), &response(200, &fields)), None, "{fields:?}");
        }
        let empty = response(200, &[(ETAG, "\"v1\""), (CONTENT_LENGTH, "0")]);
        assert_eq!(Continuation::of(&request(Method::GET), &empty), None);
    }

    #[test]
    fn what_does_not_begin_where_the_client_waits_or_has_changed_is_refused() {
        let whole = response(200, &[(ETAG, "\"v1\""), (CONTENT_LENGTH, "1000")]);
        let mut continuation = Continuation::of(&request(Method::GET), &whole).unwrap();
        let mut rest = request(Method::GET);
        assert!(continuation.ask(&mut rest, 400));
        assert_eq!(
            (&rest.headers[RANGE], &rest.headers[IF_RANGE]),
            (&"bytes=400-999".parse().unwrap(), &"\"v1\"".parse().unwrap())
        );
        assert!(continuation.fits(&response(206, &[(ETAG, "\"v1\""), (CONTENT_RANGE, "bytes 400-999/1000")]), 400));
        for (status, etag, range) in [
            (200, "\"v1\"", "bytes 400-999/1000"),
            (206, "\"v2\"", "bytes 400-999/1000"),
            (206, "\"v1\"", "bytes 399-999/1000"),
            (206, "\"v1\"", "bytes 400-998/1000"),
            (206, "\"v1\"", "bytes 400-999/1001"),
        ] {
            assert!(!continuation.fits(&response(status, &[(ETAG, etag), (CONTENT_RANGE, range)]), 400));
        }
    }

    #[test]
    fn a_part_is_continued_within_the_part() {
        let mut partial = request(Method::GET);
        partial.headers.insert(RANGE, HeaderValue::from_static("bytes=100-299"));
        let part = response(206, &[(ETAG, "\"v1\""), (CONTENT_RANGE, "bytes 100-299/1000")]);
        let mut continuation = Continuation::of(&partial, &part).unwrap();
        assert!(continuation.ask(&mut partial, 50));
        assert_eq!(partial.headers[RANGE], "bytes=150-299");
        for (range, fits) in [("bytes 150-299/1000", true), ("bytes 150-999/1000", false), ("bytes 150-299/*", false)] {
            assert_eq!(continuation.fits(&response(206, &[(ETAG, "\"v1\""), (CONTENT_RANGE, range)]), 50), fits);
        }
        assert!(!continuation.ask(&mut partial, 200), "all of it was sent");
        for range in
            ["bytes 5-4/9", "bytes 0-9/9", "bytes +1-2/9", "lines 1-2/9", "bytes */9", "bytes 1-2/99999999999999999999"]
        {
            let odd = response(206, &[(ETAG, "\"v1\""), (CONTENT_RANGE, range)]);
            assert_eq!(Continuation::of(&request(Method::GET), &odd), None, "{range}");
        }
    }

    #[test]
    fn a_complete_response_and_a_third_continuation_are_not_asked_for() {
        let whole = response(200, &[(ETAG, "\"v1\""), (CONTENT_LENGTH, "1000")]);
        let mut continuation = Continuation::of(&request(Method::GET), &whole).unwrap();
        assert!(!continuation.ask(&mut request(Method::GET), 1000));
        assert!(continuation.ask(&mut request(Method::GET), 1));
        assert!(continuation.ask(&mut request(Method::GET), 2));
        assert!(!continuation.ask(&mut request(Method::GET), 3));
    }
}
