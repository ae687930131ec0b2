//! Stage 8: upgrades. Extended CONNECT becomes an HTTP/1.1 Upgrade, or stays one over HTTP/2 (RFC 8441).
//!
//! Called by [`super`] for CONNECT with a protocol. The handshake's key is this hop's own: the client's went no
//! further than the listener.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::Body;
use hyper::ext::Protocol;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::incoming::{UpstreamBody, check_head};
use super::lease::Lease;
use super::outgoing::Outgoing;
use super::wire::Prepared;
use super::{Sent, UpstreamResponse, switched};
use crate::fault::{Fault, Kind, Retry, Side, Stage};
use crate::fields;
use crate::tunnel::message::ResponseHead;

const WEBSOCKET: &[u8] = b"websocket";

/// What an answer is checked against.
pub(super) struct Handshake {
    protocol: Bytes,
    /// Over HTTP/1.1, for WebSocket: the value that `Sec-WebSocket-Accept` must have.
    accept: Option<String>,
    multiplexed: bool,
}

/// The request that asks for `protocol` on a connection of this kind, and what to expect.
pub(super) fn ask(
    mut prepared: Prepared,
    protocol: Bytes,
    lease: &Lease,
) -> Result<(Request<Outgoing>, Handshake), Fault> {
    let multiplexed = lease.is_multiplexed();
    let websocket = protocol.eq_ignore_ascii_case(WEBSOCKET);
    prepared.headers.remove(SEC_WEBSOCKET_KEY);
    prepared.headers.remove(CONTENT_LENGTH);
    if websocket {
        prepared.headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    if multiplexed {
        let name = std::str::from_utf8(&protocol).map_err(|_| bad_protocol())?;
        prepared.method = Method::CONNECT;
        let mut request = prepared.into_http2(lease.pool().scheme)?;
        request.extensions_mut().insert(Protocol::from(name));
        return Ok((request, Handshake { protocol, accept: None, multiplexed }));
    }
    prepared.method = Method::GET;
    let mut request = prepared.into_http1()?;
    let accept = websocket.then(|| insert_key(request.headers_mut())).transpose()?;
    let upgrade = HeaderValue::from_maybe_shared(protocol.clone()).map_err(|_| bad_protocol())?;
    request.headers_mut().insert(UPGRADE, upgrade);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    Ok((request, Handshake { protocol, accept, multiplexed }))
}

fn bad_protocol() -> Fault {
    Fault::bad_request(Stage::Upstream, StatusCode::BAD_REQUEST)
}

fn insert_key(headers: &mut HeaderMap) -> Result<String, Fault> {
    let key = generate_key();
    let accept = derive_accept_key(key.as_bytes());
    let value = HeaderValue::try_from(key).map_err(|_| Fault::internal(Stage::Upstream, Side::Gateway))?;
    headers.insert(SEC_WEBSOCKET_KEY, value);
    Ok(accept)
}

fn failed() -> Fault {
    Fault::new(Stage::Upstream, Side::Upstream, Kind::UpgradeFailed)
}

impl Handshake {
    fn is_accepted(&self, status: StatusCode) -> bool {
        if self.multiplexed { status == StatusCode::OK } else { status == StatusCode::SWITCHING_PROTOCOLS }
    }

    /// RFC 9110 section 7.8 and RFC 6455 section 4.1: the switch must be to what was asked, and proven.
    fn check(&self, headers: &HeaderMap) -> Result<(), Fault> {
        let switched_to = headers.get_all(UPGRADE).iter().any(|value| {
            value
                .as_bytes()
                .split(|&byte| byte == b',')
                .any(|name| name.trim_ascii().eq_ignore_ascii_case(&self.protocol))
        });
        let accepted = self.accept.as_ref().is_none_or(|accept| {
            headers.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|value| value.as_bytes() == accept.as_bytes())
        });
        if self.multiplexed || (switched_to && accepted) { Ok(()) } else { Err(failed()) }
    }
}

/// Turns the answer into two byte streams, or passes a refusal on as the ordinary response that it is.
///
/// # Errors
/// `http_upgrade_failed` for a switch to something else, and for a success that switches nothing.
pub(super) async fn answer<B>(sent: Sent, handshake: Handshake, body: B) -> Result<UpstreamResponse, Fault>
where
    B: Body<Data = Bytes, Error = Fault> + Send + 'static,
{
    let Sent { mut response, lease, watch } = sent;
    let pool = lease.pool().clone();
    if !handshake.is_accepted(response.status()) {
        let (head, incoming) = check_head(response, pool.limits.fields_max)?;
        if head.status.is_success() {
            return Err(failed());
        }
        let body = UpstreamBody::new(incoming, &head, &Method::GET, lease, watch);
        return Ok(UpstreamResponse { head, body });
    }
    handshake.check(response.headers())?;
    let mut headers = std::mem::take(response.headers_mut());
    fields::strip_hop_by_hop(&mut headers);
    headers.remove(SEC_WEBSOCKET_ACCEPT);
    headers.remove(CONTENT_LENGTH);
    let upgraded = tokio::time::timeout(pool.limits.connect_timeout, hyper::upgrade::on(response)).await;
    let upgraded = upgraded.map_err(|_| failed())?.map_err(|_| failed().with_retry(Retry::Never))?;
    let (received, sending) = switched::split(upgraded, body, lease);
    pool.tasks.spawn(sending);
    pool.metrics.upgrades.inc();
    let body = UpstreamBody::switched(received, watch, pool.metrics.clone());
    Ok(UpstreamResponse { head: ResponseHead { status: StatusCode::OK, headers }, body })
}
