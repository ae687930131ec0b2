//! HTTP fields that every hop must treat alike: what an intermediary removes, adds and passes on (RFC 9110).
//!
//! Called by the edge's spine, the gateway and the upstream client. Pure functions on a [`HeaderMap`]; no I/O, no
//! state but a cached date. Values that do not change are made once by the caller ([`Via`]).

mod forwarded;
mod stamp;

pub use forwarded::{Forwarding, set_forwarded};
pub use stamp::{REQUEST_ID, add_date, append_proxy_status, append_server_timing, set_request_id};

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
    UPGRADE, VIA,
};
use http::{HeaderMap, HeaderValue};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Times a message may pass the same hop. More than one: a service may call another by its public name with the
/// fields that it got; in a loop the count grows without end.
const PASSES_MAX: usize = 3;
/// Hops in `Via` altogether.
const HOPS_MAX: usize = 32;

/// Removes the fields that concern one connection only: those named in Connection and those of RFC 9110 section 7.6.1,
/// with the proxy credentials that are not ours. `te: trailers` stays, as HTTP/2 allows it (RFC 9113 section 8.2.2).
///
/// Framing fields named in Connection stay: naming them is an attack on the next hop.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let lines: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
        headers.remove(CONNECTION);
        lines.iter().for_each(|line| remove_named(headers, line));
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE, HTTP2_SETTINGS] {
        headers.remove(name);
    }
    headers.remove(PROXY_AUTHENTICATE);
    headers.remove(PROXY_AUTHORIZATION);
    keep_te_trailers(headers);
}

fn remove_named(headers: &mut HeaderMap, connection: &HeaderValue) {
    for name in tokens(connection.as_bytes()) {
        let Ok(name) = HeaderName::from_bytes(name) else { continue };
        if name != TE && name != HOST && name != CONTENT_LENGTH {
            headers.remove(name);
        }
    }
}

fn keep_te_trailers(headers: &mut HeaderMap) {
    let Some(te) = headers.get(TE) else { return };
    if te.as_bytes() == b"trailers" && headers.get_all(TE).iter().nth(1).is_none() {
        return;
    }
    let trailers = headers.get_all(TE).iter().flat_map(|value| tokens(value.as_bytes())).any(|token| {
        let name = token.split(|&byte| byte == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"trailers")
    });
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The members of a comma-separated list, without the empty ones (RFC 9110 section 5.6.1).
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// What one hop writes into `Via`, made once.
#[derive(Clone, Debug)]
pub struct Via {
    name: Box<[u8]>,
    lines: [(&'static str, HeaderValue); 4],
}

impl Via {
    /// `name` is this hop's pseudonym; characters that a token cannot have (RFC 9110 section 5.6.2) become `-`.
    pub fn new(name: &str) -> Self {
        let token = |c: char| if is_token(c) { c } else { '-' };
        let name: String = name.chars().map(token).collect();
        let line = |version| {
            let value = HeaderValue::from_str(&format!("{version} {name}"));
            (version, value.unwrap_or_else(|_| HeaderValue::from_static("1.1 trunkline")))
        };
        Self { lines: ["1.0", "1.1", "2", "3"].map(line), name: name.into_bytes().into_boxed_slice() }
    }

    /// Appends this hop, which received the message over HTTP `version` (`1.0`, `1.1`, `2` or `3`).
    pub fn append(&self, headers: &mut HeaderMap, version: &str) {
        let line = self.lines.iter().find(|(known, _)| *known == version).or(self.lines.get(1));
        if let Some((_, value)) = line {
            headers.append(VIA, value.clone());
        }
    }

    /// Whether the message goes round in a circle: it passed here several times, or dozens of hops.
    pub fn is_loop(&self, headers: &HeaderMap) -> bool {
        let (mut passes, mut hops) = (0, 0);
        for hop in headers.get_all(VIA).iter().flat_map(|value| tokens(value.as_bytes())) {
            hops += 1;
            let received_by = hop.split(u8::is_ascii_whitespace).filter(|part| !part.is_empty()).nth(1);
            passes += usize::from(received_by.is_some_and(|name| name.eq_ignore_ascii_case(&self.name)));
        }
        passes >= PASSES_MAX || hops >= HOPS_MAX
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests;
