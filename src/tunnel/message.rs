//! Layer 3: HTTP messages on an exchange, as frames of type, length and payload. Codec only (sans-IO).
//!
//! A direction of an exchange is HEAD, then BODY frames, then END or TRAILERS; towards the edge ACCEPTED and
//! INFORMATIONAL may come before HEAD. A direction without END or TRAILERS is cut, whatever the stream below says.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, StatusCode};

use super::block;
use super::wire::{
    WireError, get_bytes, get_item, get_varint, put_bytes, put_item, put_varint, put_varint_item, text, unknown,
};

/// Largest HEAD, INFORMATIONAL or TRAILERS payload, bytes: above every limit on field sections in the configuration.
pub const HEAD_MAX: u64 = 1 << 20;

pub(super) const HEAD: u64 = 0x01;
pub(super) const BODY: u64 = 0x03;
pub(super) const TRAILERS: u64 = 0x05;
pub(super) const INFORMATIONAL: u64 = 0x07;
pub(super) const ACCEPTED: u64 = 0x08;
pub(super) const END: u64 = 0x09;

/// A request head in the one form that every listener makes and every upstream connection is made from.
///
/// Connection-specific fields are already gone, `Host` has become `authority`, cookie crumbs are joined.
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseHead {
    /// The status code. An accepted upgrade is 200, whatever the client's protocol (the listener turns it into 101).
    pub status: StatusCode,
    /// The fields, without connection-specific ones.
    pub headers: HeaderMap,
}

/// What travels with a request head beside HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    /// The service that the edge's route named.
    pub service: String,
    /// The request id, also in the access logs of both ends.
    pub request_id: Bytes,
    /// 0 for the first attempt, then counted.
    pub attempt: u64,
    /// How many more PoPs it may pass.
    pub hops: u64,
    /// Time left for the whole request.
    pub deadline: Option<Duration>,
    /// Who asked.
    pub client: Option<SocketAddr>,
    /// RFC 9218 urgency, 0 (first) to 7.
    pub urgency: u8,
    /// RFC 9218 incremental.
    pub incremental: bool,
    /// The request has no body: END follows HEAD.
    pub bodiless: bool,
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            service: String::new(),
            request_id: Bytes::new(),
            attempt: 0,
            hops: 1,
            deadline: None,
            client: None,
            urgency: 3,
            incremental: false,
            bodiless: false,
        }
    }
}

fn put_frame(out: &mut BytesMut, kind: u64, payload: &[u8]) {
    put_varint(out, kind);
    put_bytes(out, payload);
}

/// Appends a request's HEAD frame.
pub fn put_request(out: &mut BytesMut, head: &RequestHead, meta: &Meta) {
    let mut payload = BytesMut::with_capacity(512);
    let mut fields = BytesMut::with_capacity(96);
    meta.encode(&mut fields);
    put_bytes(&mut payload, &fields);
    put_bytes(&mut payload, head.method.as_str().as_bytes());
    put_bytes(&mut payload, head.authority.as_str().as_bytes());
    put_bytes(&mut payload, head.path.as_str().as_bytes());
    put_bytes(&mut payload, head.protocol.as_deref().unwrap_or_default());
    block::encode(&head.headers, &mut payload);
    put_frame(out, HEAD, &payload);
}

/// Reads a request's HEAD payload.
pub fn get_request(mut payload: Bytes) -> Result<(RequestHead, Meta), WireError> {
    let meta = Meta::decode(get_bytes(&mut payload)?)?;
    let method = Method::from_bytes(&get_bytes(&mut payload)?).map_err(|_| WireError::Range("method"))?;
    let authority =
        Authority::from_maybe_shared(get_bytes(&mut payload)?).map_err(|_| WireError::Range("authority"))?;
    let path = PathAndQuery::from_maybe_shared(get_bytes(&mut payload)?).map_err(|_| WireError::Range("path"))?;
    let protocol = Some(get_bytes(&mut payload)?).filter(|protocol| !protocol.is_empty());
    let headers = block::decode(payload)?;
    Ok((RequestHead { method, authority, path, protocol, headers }, meta))
}

/// Appends a response's HEAD frame, or INFORMATIONAL for a 1xx status.
pub fn put_response(out: &mut BytesMut, head: &ResponseHead) {
    let mut payload = BytesMut::with_capacity(256);
    payload.put_u16(head.status.as_u16());
    block::encode(&head.headers, &mut payload);
    let kind = if head.status.is_informational() { INFORMATIONAL } else { HEAD };
    put_frame(out, kind, &payload);
}

/// Reads the payload of a response's HEAD or INFORMATIONAL.
pub fn get_response(mut payload: Bytes) -> Result<ResponseHead, WireError> {
    let status = super::wire::take(&mut payload, 2)?;
    let status = StatusCode::from_u16(status.iter().fold(0, |n, b| n << 8 | u16::from(*b)));
    Ok(ResponseHead { status: status.map_err(|_| WireError::Range("status"))?, headers: block::decode(payload)? })
}

/// Appends a TRAILERS frame, which also ends the direction.
pub fn put_trailers(out: &mut BytesMut, trailers: &HeaderMap) {
    let mut payload = BytesMut::new();
    block::encode(trailers, &mut payload);
    put_frame(out, TRAILERS, &payload);
}

/// Appends an ACCEPTED frame: the upstream connection has taken the request.
pub fn put_accepted(out: &mut BytesMut) {
    put_frame(out, ACCEPTED, &[]);
}

/// Appends an END frame.
pub fn put_end(out: &mut BytesMut) {
    put_frame(out, END, &[]);
}

/// Appends the type and length of a BODY frame of `length` bytes; its payload follows.
pub fn put_body_header(out: &mut BytesMut, length: usize) {
    put_varint(out, BODY);
    put_varint(out, length as u64);
}

impl Meta {
    fn encode(&self, out: &mut BytesMut) {
        put_item(out, 1, self.service.as_bytes());
        put_item(out, 2, &self.request_id);
        put_varint_item(out, 3, self.hops);
        if self.attempt != 0 {
            put_varint_item(out, 4, self.attempt);
        }
        if let Some(deadline) = self.deadline {
            put_varint_item(out, 5, u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        }
        if let Some(client) = self.client {
            put_client(out, client);
        }
        if (self.urgency, self.incremental) != (3, false) {
            put_varint_item(out, 8, u64::from(self.urgency) << 1 | u64::from(self.incremental));
        }
        if self.bodiless {
            put_item(out, 10, &[]);
        }
    }

    fn decode(mut fields: Bytes) -> Result<Self, WireError> {
        let mut meta = Self::default();
        while let Some((kind, mut value)) = get_item(&mut fields)? {
            match kind {
                1 => meta.service = text(&value)?,
                2 => meta.request_id = value,
                3 => meta.hops = get_varint(&mut value)?,
                4 => meta.attempt = get_varint(&mut value)?,
                5 => meta.deadline = Some(Duration::from_millis(get_varint(&mut value)?)),
                6 => meta.client = Some(get_client(&value)?),
                8 => {
                    let priority = get_varint(&mut value)?;
                    meta.urgency = u8::try_from(priority >> 1).unwrap_or(u8::MAX).min(7);
                    meta.incremental = priority & 1 != 0;
                }
                10 => meta.bodiless = true,
                other => unknown(other)?,
            }
        }
        Ok(meta)
    }
}

/// An address as its 4 or 16 bytes and the port's 2.
fn put_client(out: &mut BytesMut, client: SocketAddr) {
    let port = client.port().to_be_bytes();
    put_varint(out, 6);
    match client.ip() {
        IpAddr::V4(address) => {
            put_varint(out, 6);
            out.put_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            put_varint(out, 18);
            out.put_slice(&address.octets());
        }
    }
    out.put_slice(&port);
}

fn get_client(value: &[u8]) -> Result<SocketAddr, WireError> {
    let (address, port) = value.split_last_chunk::<2>().ok_or(WireError::Range("client"))?;
    let address = <[u8; 4]>::try_from(address)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(address).map(IpAddr::from))
        .map_err(|_| WireError::Range("client"))?;
    Ok(SocketAddr::new(address, u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> RequestHead {
        RequestHead {
            method: Method::from_bytes(b"REPORT").unwrap(),
            authority: Authority::from_static("example.org:8443"),
            path: PathAndQuery::from_static("/a?b=c"),
            protocol: Some(Bytes::from_static(b"websocket")),
            headers: HeaderMap::from_iter([(http::header::ACCEPT, http::HeaderValue::from_static("*/*"))]),
        }
    }

    fn payload_of(frame: BytesMut) -> (u64, Bytes) {
        let mut bytes = frame.freeze();
        get_item(&mut bytes).unwrap().unwrap()
    }

    #[test]
    fn a_request_head_reads_back_as_written() {
        let meta = Meta {
            service: "web".into(),
            request_id: Bytes::from_static(b"id-1"),
            attempt: 2,
            hops: 1,
            deadline: Some(Duration::from_millis(1500)),
            client: Some("[2001:db8::1]:443".parse().unwrap()),
            urgency: 0,
            incremental: true,
            bodiless: true,
        };
        let mut out = BytesMut::new();
        put_request(&mut out, &head(), &meta);
        let (kind, payload) = payload_of(out);
        assert_eq!(kind, HEAD);
        assert_eq!(get_request(payload).unwrap(), (head(), meta));
    }

    #[test]
    fn interim_responses_have_a_frame_type_of_their_own() {
        for (status, kind) in [(103, INFORMATIONAL), (200, HEAD), (503, HEAD)] {
            let head = ResponseHead { status: StatusCode::from_u16(status).unwrap(), headers: head().headers };
            let mut out = BytesMut::new();
            put_response(&mut out, &head);
            let (got, payload) = payload_of(out);
            assert_eq!(got, kind);
            assert_eq!(get_response(payload).unwrap(), head);
        }
    }

    proptest! {
        #[test]
        fn any_payload_gives_a_head_or_an_error(input in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = get_request(Bytes::from(input.clone()));
            let _ = get_response(Bytes::from(input));
        }
    }
}
