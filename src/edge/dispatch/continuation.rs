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
    total: u64,
    used: u32,
}

impl Continuation {
    /// Whether this response could be continued: a whole 200 to a plain GET, with a strong ETag and a length.
    pub fn of(request: &RequestHead, response: &ResponseHead) -> Option<Self> {
        let conditional = request.headers.contains_key(RANGE) || request.headers.contains_key(IF_RANGE);
        if request.method != Method::GET || conditional || response.status != StatusCode::OK {
            return None;
        }
        let etag = response.headers.get(ETAG).filter(|etag| is_strong(etag))?.clone();
        let total = number(&response.headers, &CONTENT_LENGTH)?;
        Some(Self { etag, total, used: 0 })
    }

    /// Makes `request` ask for the rest, from byte `sent` on; false if there is nothing to ask for or it was asked too
    /// often.
    pub fn ask(&mut self, request: &mut RequestHead, sent: u64) -> bool {
        if sent >= self.total || self.used >= CONTINUATIONS_MAX {
            return false;
        }
        let Ok(range) = HeaderValue::try_from(format!("bytes={sent}-")) else { return false };
        self.used += 1;
        request.headers.insert(RANGE, range);
        request.headers.insert(IF_RANGE, self.etag.clone());
        true
    }

    /// Whether `response` is exactly the rest.
    pub fn fits(&self, response: &ResponseHead, sent: u64) -> bool {
        let headers = &response.headers;
        let range = format!("bytes {sent}-{}/{}", self.total.saturating_sub(1), self.total);
        response.status == StatusCode::PARTIAL_CONTENT
            && headers.get(ETAG) == Some(&self.etag)
            && headers.get(CONTENT_RANGE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(range.as_bytes()))
    }
}

/// RFC 9110 section 8.8.3: a quoted tag without `W/`.
fn is_strong(etag: &HeaderValue) -> bool {
    let bytes = etag.as_bytes();
    bytes.len() > 2 && bytes.starts_with(b"\"") && bytes.ends_with(b"\"")
}

fn number(headers: &HeaderMap, name: &http::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
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
    fn only_a_whole_get_with_a_strong_validator_and_a_length_can_be_continued() {
        let whole = response(200, &[(ETAG, "\"v1\""), (CONTENT_LENGTH, "1000")]);
        assert!(Continuation::of(&request(Method::GET), &whole).is_some());
        assert_eq!(Continuation::of(&request(Method::POST), &whole), None);
        for fields in
            [vec![(ETAG, "W/\"v1\""), (CONTENT_LENGTH, "1000")], vec![(ETAG, "\"v1\"")], vec![(CONTENT_LENGTH, "1000")]]
        {
            assert_eq!(Continuation::of(&request(Method::GET), &response(200, &fields)), None, "{fields:?}");
        }
        let mut partial = request(Method::GET);
        partial.headers.insert(RANGE, HeaderValue::from_static("bytes=5-"));
        assert_eq!(Continuation::of(&partial, &whole), None);
    }

    #[test]
    fn what_does_not_begin_where_the_client_waits_or_has_changed_is_refused() {
        let whole = response(200, &[(ETAG, "\"v1\""), (CONTENT_LENGTH, "1000")]);
        let mut continuation = Continuation::of(&request(Method::GET), &whole).unwrap();
        let mut rest = request(Method::GET);
        assert!(continuation.ask(&mut rest, 400));
        assert_eq!(
            (&rest.headers[RANGE], &rest.headers[IF_RANGE]),
            (&"bytes=400-".parse().unwrap(), &"\"v1\"".parse().unwrap())
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
    fn a_complete_response_and_a_third_continuation_are_not_asked_for() {
        let whole = response(200, &[(ETAG, "\"v1\""), (CONTENT_LENGTH, "1000")]);
        let mut continuation = Continuation::of(&request(Method::GET), &whole).unwrap();
        assert!(!continuation.ask(&mut request(Method::GET), 1000));
        assert!(continuation.ask(&mut request(Method::GET), 1));
        assert!(continuation.ask(&mut request(Method::GET), 2));
        assert!(!continuation.ask(&mut request(Method::GET), 3));
    }
}
