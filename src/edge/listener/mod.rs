//! Stage 1: from the bytes of HTTP/3, HTTP/2 or HTTP/1.1 to a [`Request`], and from a response back to bytes.
//!
//! This is the one seam between protocols and the spine: a listener makes a [`Request`], calls the [`Serve`] it was
//! given, and writes what comes back. Protocol rules are enforced here; nothing behind the seam knows the protocol.

pub mod admission;
pub mod alt_svc;
pub mod h3;
pub mod head;
#[cfg(feature = "interop")]
pub mod hq;
pub mod metrics;
pub mod parting;
pub mod quic;
pub mod socket;
pub mod tcp;
pub mod tickets;
pub mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::fault::Fault;
use crate::observe::record::Wire;
use crate::tunnel::exchange::credit::Credit;
use crate::tunnel::message::{RequestHead, ResponseHead};

/// The protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 (or 1.0) over TLS.
    Http1,
    /// HTTP/2 over TLS.
    Http2,
    /// HTTP/3.
    Http3,
}

impl Protocol {
    /// The protocol's version as `Via` has it (RFC 9110 section 7.6.3): `1.1`, `2`, `3`.
    pub fn version(self) -> &'static str {
        match self {
            Self::Http1 => "1.1",
            Self::Http2 => "2",
            Self::Http3 => "3",
        }
    }
}

impl From<Protocol> for Wire {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
            Protocol::Http3 => Self::Http3,
        }
    }
}

/// What is known of a client connection; shared by its requests.
#[derive(Debug)]
pub struct Client {
    /// Its address when the connection was accepted.
    pub address: SocketAddr,
    /// The local address it reached.
    pub local: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// The server name of its handshake.
    pub sni: Option<String>,
    /// What may be sent here of answers that it has not taken yet.
    pub credit: Arc<Credit>,
}

/// One request on its way to the spine.
pub struct Request {
    /// The validated head. Field names and values are valid; a `content-length`, if any, is one valid number.
    pub head: RequestHead,
    /// The body; for an upgrade the bytes from the client after the switch.
    pub body: RequestBody,
    /// The connection it came on.
    pub client: Arc<Client>,
    /// When its first byte was seen.
    pub started: Instant,
}

/// A request body, whatever the protocol. Ends with an error if it is cut or does not match `content-length`; never
/// with a clean end then.
pub enum RequestBody {
    /// The request ended with its head.
    Empty,
    /// A body from a listener.
    Stream(Pin<Box<dyn Body<Data = Bytes, Error = Fault> + Send>>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

/// Takes interim (1xx) responses for the client while the request is being served. A protocol whose library cannot
/// send them drops them.
pub trait Interim: Send {
    /// Sends one interim response. Best effort: a client that is gone is noticed elsewhere.
    fn send(&mut self, head: ResponseHead) -> impl Future<Output = ()> + Send;
}

/// Drops interim responses.
pub struct NoInterim;

impl Interim for NoInterim {
    async fn send(&mut self, _head: ResponseHead) {}
}

/// What the spine answers. Dropping the body before its end tells the spine that the client went away; an error from
/// the body means the rest cannot come, and the listener must reset the stream, never end it cleanly.
pub struct Response<B> {
    /// The final head. `date` is set; for an upgrade 200 means accepted.
    pub head: ResponseHead,
    /// The body; for an upgrade the bytes towards the client.
    pub body: B,
}

/// The spine as listeners see it. Cheap to clone. Dropping the returned future cancels the request.
pub trait Serve: Clone + Send + Sync + 'static {
    /// The response body.
    type Body: Body<Data = Bytes, Error = Fault> + Send + Unpin + 'static;

    /// Answers one request. Never fails: a fault becomes a response here.
    fn serve<I: Interim>(&self, request: Request, interim: &mut I)
    -> impl Future<Output = Response<Self::Body>> + Send;
}
