//! `/ws`: a WebSocket echo, by HTTP/1.1 Upgrade (RFC 6455) or extended CONNECT over HTTP/2 (RFC 8441).

use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::body::{AnyBody, empty};
use super::journal::Open;
use super::routes::{plain, with_field};
use crate::task::Tasks;

/// Largest message that is echoed, bytes.
const MESSAGE_MAX: usize = 16 << 20;

/// Accepts the handshake and echoes in a task of `tasks`; `open` ends with the conversation.
pub fn websocket(mut request: Request<Incoming>, tasks: &Tasks, mut open: Open) -> Response<AnyBody> {
    let Some(mut response) = accept(&request) else {
        open.finish();
        let response = plain(StatusCode::UPGRADE_REQUIRED, "this path speaks WebSocket, version 13\n");
        return with_field(with_field(response, UPGRADE, "websocket"), CONNECTION, "upgrade");
    };
    if let Some(protocol) = first_protocol(request.headers()) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tasks.spawn(async move {
        if converse(upgrade).await.is_ok() {
            open.finish();
        }
    });
    response
}

/// The response to a valid handshake.
fn accept(request: &Request<Incoming>) -> Option<Response<AnyBody>> {
    let headers = request.headers();
    if headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version != "13") {
        return None;
    }
    let mut response = Response::new(empty());
    if request.version() == Version::HTTP_2 {
        let protocol = request.extensions().get::<hyper::ext::Protocol>()?;
        return (request.method() == Method::CONNECT && protocol.as_str() == "websocket").then_some(response);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY)?;
    if request.method() != Method::GET
        || !has_token(headers, &UPGRADE, "websocket")
        || !has_token(headers, &CONNECTION, "upgrade")
    {
        return None;
    }
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let response = with_field(with_field(response, UPGRADE, "websocket"), CONNECTION, "upgrade");
    Some(with_field(response, SEC_WEBSOCKET_ACCEPT, &derive_accept_key(key.as_bytes())))
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(token))
}

fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    HeaderValue::from_str(offered.split(',').next()?.trim()).ok()
}

/// Every text or binary message comes back; pings are answered and closing is completed by the library.
async fn converse(upgrade: OnUpgrade) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let io = TokioIo::new(upgrade.await?);
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}
