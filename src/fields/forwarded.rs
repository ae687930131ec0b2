//! Who asked, told to the next hop: `Forwarded` (RFC 7239) and the `X-Forwarded-` fields that came before it.

use std::io::Write;
use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What is known of the peer that sent a request.
#[derive(Clone, Copy, Debug)]
pub struct Forwarding<'a> {
    /// Its address; IPv4 in IPv6 form is shown as IPv4.
    pub peer: IpAddr,
    /// The scheme it used.
    pub proto: &'static str,
    /// The authority it asked for.
    pub host: &'a str,
    /// Whether what it says of those before it is believed.
    pub trusted: bool,
}

/// Writes the forwarding fields: over whatever the peer sent, or after it if the peer is trusted. A trusted peer's
/// scheme and host stay, as they are the first client's.
pub fn set_forwarded(headers: &mut HeaderMap, forwarding: &Forwarding<'_>) {
    let Forwarding { proto, host, trusted, .. } = *forwarding;
    let peer = forwarding.peer.to_canonical();
    // One allocation for all three values.
    let mut buffer = BytesMut::with_capacity(2 * host.len() + 96);
    put(&mut buffer, peer);
    let address = buffer.split().freeze();
    put_element(&mut buffer, &address, peer.is_ipv6(), proto, host);
    let element = buffer.split().freeze();
    buffer.put_slice(host.as_bytes());
    let host = buffer.freeze();

    add(headers, X_FORWARDED_FOR, address, trusted);
    add(headers, FORWARDED, element, trusted);
    if !(trusted && headers.contains_key(&X_FORWARDED_PROTO)) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    if !(trusted && headers.contains_key(&X_FORWARDED_HOST)) {
        insert(headers, X_FORWARDED_HOST, host);
    }
}

/// By hand for IPv4: the formatting machinery costs more than everything else here.
fn put(buffer: &mut BytesMut, peer: IpAddr) {
    match peer {
        IpAddr::V4(peer) => {
            for (index, octet) in peer.octets().into_iter().enumerate() {
                if index > 0 {
                    buffer.put_u8(b'.');
                }
                put_octet(buffer, octet);
            }
        }
        // Writing into a buffer that grows does not fail.
        IpAddr::V6(peer) => drop(write!(buffer.writer(), "{peer}")),
    }
}

fn put_octet(buffer: &mut BytesMut, octet: u8) {
    if octet >= 100 {
        buffer.put_u8(b'0' + octet / 100);
    }
    if octet >= 10 {
        buffer.put_u8(b'0' + octet / 10 % 10);
    }
    buffer.put_u8(b'0' + octet % 10);
}

/// RFC 7239 section 4; the node of an IPv6 address is bracketed and quoted (section 6).
fn put_element(buffer: &mut BytesMut, address: &[u8], bracketed: bool, proto: &str, host: &str) {
    let (open, close): (&[u8], &[u8]) = if bracketed { (b"for=\"[", b"]\"") } else { (b"for=", b"") };
    for part in [open, address, close, b";proto=", proto.as_bytes(), b";host=\"", host.as_bytes(), b"\""] {
        buffer.put_slice(part);
    }
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: Bytes, trusted: bool) {
    if !trusted || !headers.contains_key(&name) {
        return insert(headers, name, value);
    }
    // One line: many programs read only the first.
    let mut joined = BytesMut::new();
    for line in headers.get_all(&name) {
        joined.put_slice(line.as_bytes());
        joined.put_slice(b", ");
    }
    joined.put_slice(&value);
    insert(headers, name, joined.freeze());
}

/// A value that cannot be a field's is left out, and with it what the peer sent.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: Bytes) {
    match HeaderValue::from_maybe_shared(value) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(_) => drop(headers.remove(name)),
    }
}
