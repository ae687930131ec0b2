//! Conditional and range requests (RFC 9110 sections 13 and 14) on one representation; pure decisions.
//!
//! Called by static files and `/bytes`. It never touches the content: it says which bytes to send.

use std::ops::Range;
use std::time::SystemTime;

use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use super::body::{AnyBody, empty};

/// What is known of a representation without reading it.
pub struct Representation {
    /// Content length, bytes.
    pub length: u64,
    /// Strong entity tag with its quotes.
    pub etag: String,
    /// When it changed last, if that is known.
    pub modified: Option<SystemTime>,
    /// Media type.
    pub content_type: String,
}

/// What to answer.
#[derive(Debug, PartialEq, Eq)]
enum Selection {
    Whole,
    Part(Range<u64>),
    NotModified,
    PreconditionFailed,
    NotSatisfiable,
}

impl Representation {
    /// The response to a GET or HEAD; `content` gives the body of a byte range and is called for GET only.
    pub fn respond(
        &self,
        method: &Method,
        headers: &HeaderMap,
        content: impl FnOnce(Range<u64>) -> AnyBody,
    ) -> Response<AnyBody> {
        let (status, range) = match self.select(method, headers) {
            Selection::Whole => (StatusCode::OK, Some(0..self.length)),
            Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, Some(range)),
            Selection::NotModified => (StatusCode::NOT_MODIFIED, None),
            Selection::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, None),
            Selection::NotSatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, None),
        };
        let mut response = Response::new(empty());
        *response.status_mut() = status;
        self.describe(response.headers_mut(), status, range.as_ref());
        if let (Some(range), &Method::GET) = (range, method) {
            *response.body_mut() = content(range);
        }
        response
    }

    fn describe(&self, headers: &mut HeaderMap, status: StatusCode, range: Option<&Range<u64>>) {
        insert(headers, ETAG, &self.etag);
        insert(headers, ACCEPT_RANGES, "bytes");
        if let Some(modified) = self.modified {
            insert(headers, LAST_MODIFIED, &httpdate::fmt_http_date(modified));
        }
        if let Some(range) = range {
            insert(headers, CONTENT_TYPE, &self.content_type);
            insert(headers, CONTENT_LENGTH, &(range.end - range.start).to_string());
        }
        match (status, range) {
            (StatusCode::PARTIAL_CONTENT, Some(range)) if range.end > 0 => {
                insert(headers, CONTENT_RANGE, &format!("bytes {}-{}/{}", range.start, range.end - 1, self.length));
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, _) => {
                insert(headers, CONTENT_RANGE, &format!("bytes */{}", self.length));
            }
            _ => {}
        }
    }

    /// RFC 9110 section 13.2.2, in its order.
    fn select(&self, method: &Method, headers: &HeaderMap) -> Selection {
        if headers.contains_key(IF_MATCH) {
            if !self.matches(headers, &IF_MATCH, false) {
                return Selection::PreconditionFailed;
            }
        } else if date(headers, &IF_UNMODIFIED_SINCE).is_some_and(|since| self.changed_after(since)) {
            return Selection::PreconditionFailed;
        }
        if headers.contains_key(IF_NONE_MATCH) {
            if self.matches(headers, &IF_NONE_MATCH, true) {
                return Selection::NotModified;
            }
        } else if date(headers, &IF_MODIFIED_SINCE)
            .is_some_and(|since| self.modified.is_some() && !self.changed_after(since))
        {
            return Selection::NotModified;
        }
        // RFC 9110 section 14.2: Range has a meaning for GET only.
        if *method != Method::GET || !self.range_applies(headers) {
            return Selection::Whole;
        }
        headers.get(RANGE).and_then(|range| range.to_str().ok()).map_or(Selection::Whole, |range| self.range(range))
    }

    /// RFC 9110 sections 13.1.1 and 13.1.2; our tag is strong, so weak ones of the client differ in strong comparison.
    fn matches(&self, headers: &HeaderMap, name: &HeaderName, weak: bool) -> bool {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(
            |tag| {
                let tag = tag.trim();
                tag == "*" || tag == self.etag || (weak && tag.strip_prefix("W/") == Some(&self.etag))
            },
        )
    }

    fn changed_after(&self, since: SystemTime) -> bool {
        // HTTP dates have whole seconds.
        self.modified.is_some_and(|modified| seconds(modified) > seconds(since))
    }

    /// RFC 9110 section 13.1.5: without If-Range, or when its validator is exactly ours.
    fn range_applies(&self, headers: &HeaderMap) -> bool {
        let Some(condition) = headers.get(IF_RANGE) else { return true };
        if condition.as_bytes() == self.etag.as_bytes() {
            return true;
        }
        match (date(headers, &IF_RANGE), self.modified) {
            (Some(condition), Some(modified)) => seconds(condition) == seconds(modified),
            _ => false,
        }
    }

    /// RFC 9110 section 14.1.2. Several ranges are answered with the whole, which section 14.2 allows.
    fn range(&self, value: &str) -> Selection {
        let Some(spec) = value.strip_prefix("bytes=").map(str::trim) else { return Selection::Whole };
        let Some((first, last)) = spec.split_once('-') else { return Selection::Whole };
        let (first, last) = (number(first), number(last));
        let range = match (first, last) {
            (Ok(Some(first)), Ok(None)) => first..self.length,
            (Ok(Some(first)), Ok(Some(last))) if first <= last => first..last.saturating_add(1).min(self.length),
            (Ok(None), Ok(Some(suffix))) => self.length.saturating_sub(suffix)..self.length,
            _ => return Selection::Whole,
        };
        if range.start < range.end { Selection::Part(range) } else { Selection::NotSatisfiable }
    }
}

/// Digits, or nothing at all.
fn number(text: &str) -> Result<Option<u64>, ()> {
    match text {
        "" => Ok(None),
        // A position beyond u64 is beyond any length.
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Some(text.parse().unwrap_or(u64::MAX))),
        _ => Err(()),
    }
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    headers.get(name).and_then(|value| value.to_str().ok()).and_then(|value| httpdate::parse_http_date(value).ok())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // The values are made here or come from a media type table; one that were no field value would just be left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn select(method: &Method, fields: &[(&'static str, &str)]) -> Selection {
        let representation = Representation {
            length: 1_000,
            etag: "\"v1\"".into(),
            // The fraction of a second must not make a difference.
            modified: Some(httpdate::parse_http_date(DATE).expect("date") + Duration::from_millis(700)),
            content_type: "text/plain".into(),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().expect("value"));
        }
        representation.select(method, &headers)
    }

    #[test]
    fn ranges_follow_rfc_9110_section_14_1_2() {
        let cases = [
            ("bytes=0-0", Selection::Part(0..1)),
            ("bytes=500-", Selection::Part(500..1_000)),
            ("bytes=-1", Selection::Part(999..1_000)),
            ("bytes=-5000", Selection::Part(0..1_000)),
            ("bytes=990-5000", Selection::Part(990..1_000)),
            ("bytes=1-18446744073709551615", Selection::Part(1..1_000)),
            ("bytes=99999999999999999999999-", Selection::NotSatisfiable),
            ("bytes=1000-", Selection::NotSatisfiable),
            ("bytes=-0", Selection::NotSatisfiable),
            ("bytes=5-4", Selection::Whole),
            ("bytes=-", Selection::Whole),
            ("bytes=0-1,3-4", Selection::Whole),
            ("bytes=+1-2", Selection::Whole),
            ("lines=1-2", Selection::Whole),
        ];
        for (value, expected) in cases {
            assert_eq!(select(&Method::GET, &[("range", value)]), expected, "{value}");
        }
        assert_eq!(select(&Method::HEAD, &[("range", "bytes=0-0")]), Selection::Whole);
    }

    #[test]
    fn conditions_follow_the_order_of_rfc_9110_section_13_2_2() {
        let later = "Sun, 06 Nov 1994 08:49:38 GMT";
        let earlier = "Sun, 06 Nov 1994 08:49:36 GMT";
        let cases: [(&[(&str, &str)], Selection); 13] = [
            (&[("if-none-match", "\"v1\"")], Selection::NotModified),
            (&[("if-none-match", "\"v0\", W/\"v1\"")], Selection::NotModified),
            (&[("if-none-match", "\"v0\""), ("if-modified-since", DATE)], Selection::Whole),
            (&[("if-modified-since", DATE)], Selection::NotModified),
            (&[("if-modified-since", earlier)], Selection::Whole),
            (&[("if-match", "W/\"v1\"")], Selection::PreconditionFailed),
            (&[("if-match", "*")], Selection::Whole),
            (&[("if-match", "\"v0\""), ("if-none-match", "\"v1\"")], Selection::PreconditionFailed),
            (&[("if-unmodified-since", earlier)], Selection::PreconditionFailed),
            (&[("if-range", "\"v1\""), ("range", "bytes=0-1")], Selection::Part(0..2)),
            (&[("if-range", "W/\"v1\""), ("range", "bytes=0-1")], Selection::Whole),
            (&[("if-range", DATE), ("range", "bytes=0-1")], Selection::Part(0..2)),
            (&[("if-range", later), ("range", "bytes=0-1")], Selection::Whole),
        ];
        for (fields, expected) in cases {
            assert_eq!(select(&Method::GET, fields), expected, "{fields:?}");
        }
    }
}
