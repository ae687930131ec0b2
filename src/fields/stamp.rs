//! What Trunkline writes on a message: request id, date, timings, and the reason of an answer it made itself.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{DATE, HeaderName};
use http::{HeaderMap, HeaderValue};

use crate::clock;
use crate::fault::Fault;

/// `x-request-id`
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Longest request id that is taken from a peer, bytes.
const REQUEST_ID_MAX: usize = 128;

/// Sets the request id and returns it: the peer's if it is trusted and well formed, else a new one of 128 random bits.
pub fn set_request_id(headers: &mut HeaderMap, trusted: bool) -> HeaderValue {
    if trusted
        && let Some(id) = headers.get(&REQUEST_ID)
        && is_request_id(id.as_bytes())
    {
        let id = id.clone();
        if headers.get_all(&REQUEST_ID).iter().nth(1).is_some() {
            headers.insert(REQUEST_ID, id.clone());
        }
        return id;
    }
    let id = new_request_id();
    headers.insert(REQUEST_ID, id.clone());
    id
}

fn is_request_id(id: &[u8]) -> bool {
    let safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(byte);
    (1..=REQUEST_ID_MAX).contains(&id.len()) && id.iter().all(safe)
}

fn new_request_id() -> HeaderValue {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    let mut bits = fastrand::u128(..);
    let id = [0_u8; 32].map(|_| {
        bits = bits.rotate_left(4);
        HEX.get(usize::from(bits.to_le_bytes()[0] & 15)).copied().unwrap_or(b'0')
    });
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&id)).unwrap_or(HeaderValue::from_static("0"))
}

/// Adds `date` if it is missing (RFC 9110 section 6.6.1). Formatted once a second and thread.
pub fn add_date(headers: &mut HeaderMap) {
    if !headers.contains_key(DATE) {
        headers.insert(DATE, date(clock::wall()));
    }
}

fn date(now: SystemTime) -> HeaderValue {
    thread_local!(static CACHED: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) });
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    CACHED.with_borrow_mut(|cached| match cached {
        Some((cached, value)) if *cached == second => value.clone(),
        _ => {
            let value = format_date(now);
            *cached = Some((second, value.clone()));
            value
        }
    })
}

fn format_date(now: SystemTime) -> HeaderValue {
    let text = httpdate::fmt_http_date(now);
    HeaderValue::from_maybe_shared(Bytes::from(text))
        .unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

/// Appends one metric to `server-timing`: `name;dur=1.234`, milliseconds. `name` must be a token.
pub fn append_server_timing(headers: &mut HeaderMap, name: &str, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let mut text = Vec::with_capacity(name.len() + 28);
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b";dur=");
    push_millis(&mut text, micros);
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(text)) {
        headers.append(SERVER_TIMING, value);
    }
}

/// Appends milliseconds with three decimals. By hand: every response has two of them.
fn push_millis(text: &mut Vec<u8>, micros: u64) {
    let mut digits = [b'0'; 20];
    let mut left = micros;
    let mut length = 0;
    for digit in digits.iter_mut().rev() {
        if left == 0 && length >= 4 {
            break;
        }
        *digit = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
        length += 1;
    }
    let digits = digits.get(digits.len() - length..).unwrap_or_default();
    let (whole, fraction) = digits.split_at(length.saturating_sub(3));
    text.extend_from_slice(whole);
    text.push(b'.');
    text.extend_from_slice(fraction);
}

/// Appends what `proxy` says of `fault` to `proxy-status` (RFC 9209 section 2).
pub fn append_proxy_status(headers: &mut HeaderMap, proxy: &str, fault: &Fault) {
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(fault.proxy_status(proxy))) {
        headers.append(PROXY_STATUS, value);
    }
}
