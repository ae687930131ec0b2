//! Clients of the three protocols behind one interface: whatever a test does, it can do over each of them.

pub mod curl;
mod http3;
pub mod raw;
mod tcp;
pub mod tls;

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::chain::{Chain, HOST, in_time};

/// Why a request failed; only its being there matters.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    Http3,
}

/// Every protocol.
pub const ALL: [Protocol; 3] = [Protocol::Http1, Protocol::Http2, Protocol::Http3];
/// Those with streams.
pub const MULTIPLEXED: [Protocol; 2] = [Protocol::Http2, Protocol::Http3];

/// One connection.
pub struct Client {
    /// What it speaks.
    pub protocol: Protocol,
    peer: SocketAddr,
    requests: Requests,
    /// Drivers and uploads; they end with the client.
    tasks: JoinSet<()>,
}

enum Requests {
    Http1(hyper::client::conn::http1::SendRequest<Queue>),
    Http2(hyper::client::conn::http2::SendRequest<Queue>),
    Http3(http3::Connection),
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// A field as text; empty if it is not there.
    pub fn field(&self, name: &str) -> String {
        let values = self.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        values.collect::<Vec<_>>().join(", ")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Client {
    /// Connects to the first PoP.
    pub async fn connect(chain: &Chain, protocol: Protocol) -> Self {
        Self::connect_to(chain, protocol, 0).await
    }

    /// Connects to PoP number `edge`.
    pub async fn connect_to(chain: &Chain, protocol: Protocol, edge: usize) -> Self {
        Self::try_connect(chain, protocol, edge).await.expect("connect")
    }

    /// Connects to PoP number `edge`, if it is there.
    pub async fn try_connect(chain: &Chain, protocol: Protocol, edge: usize) -> Result<Self, Failure> {
        let peer = if protocol == Protocol::Http3 { chain.http3(edge) } else { chain.http2(edge) };
        in_time("connect", Self::dial(&chain.site_ca(), protocol, peer)).await
    }

    /// Connects to `peer`, without a deadline.
    pub async fn dial(ca: &Path, protocol: Protocol, peer: SocketAddr) -> Result<Self, Failure> {
        let mut tasks = JoinSet::new();
        let requests = match protocol {
            Protocol::Http1 => Requests::Http1(tcp::http1(ca, peer, &mut tasks).await?),
            Protocol::Http2 => Requests::Http2(tcp::http2(ca, peer, &mut tasks).await?),
            Protocol::Http3 => Requests::Http3(http3::Connection::new(ca, peer, &mut tasks).await?),
        };
        Ok(Self { protocol, peer, requests, tasks })
    }

    /// A request for `path` of the test host.
    pub fn request(&self, method: &str, path: &str) -> Request<()> {
        let authority = format!("{HOST}:{}", self.peer.port());
        let builder = Request::builder().method(method);
        let builder = match self.protocol {
            Protocol::Http1 => builder.uri(path).header("host", authority),
            Protocol::Http2 | Protocol::Http3 => builder.uri(format!("https://{authority}{path}")),
        };
        builder.body(()).expect("request")
    }

    /// Sends a head; the body follows as the caller likes.
    pub async fn open(&mut self, request: Request<()>) -> Result<Exchange, Failure> {
        match &mut self.requests {
            Requests::Http1(requests) => {
                let (queue, body) = Queue::new();
                requests.ready().await?;
                let response = requests.send_request(request.map(|()| body));
                Ok(Exchange { upload: Upload::Tcp(queue), response: Box::pin(tcp::response(response)) })
            }
            Requests::Http2(requests) => {
                let (queue, body) = Queue::new();
                requests.ready().await?;
                let response = requests.send_request(request.map(|()| body));
                Ok(Exchange { upload: Upload::Tcp(queue), response: Box::pin(tcp::response(response)) })
            }
            Requests::Http3(connection) => connection.open(request).await,
        }
    }

    /// Sends a request without a body and gives the response with its body still to come.
    pub async fn stream(&mut self, request: Request<()>) -> Result<Response<Download>, Failure> {
        let mut exchange = self.open_empty(request).await?;
        exchange.response().await
    }

    async fn open_empty(&mut self, request: Request<()>) -> Result<Exchange, Failure> {
        match &mut self.requests {
            // hyper must know that there is no body, or it frames an empty one.
            Requests::Http1(requests) => {
                requests.ready().await?;
                let response = requests.send_request(request.map(|()| Queue::ended()));
                Ok(Exchange { upload: Upload::None, response: Box::pin(tcp::response(response)) })
            }
            Requests::Http2(requests) => {
                requests.ready().await?;
                let response = requests.send_request(request.map(|()| Queue::ended()));
                Ok(Exchange { upload: Upload::None, response: Box::pin(tcp::response(response)) })
            }
            Requests::Http3(_) => {
                let mut exchange = self.open(request).await?;
                exchange.upload.finish().await?;
                Ok(exchange)
            }
        }
    }

    /// One whole exchange; `body` has its length announced unless it is empty.
    pub async fn send(&mut self, mut request: Request<()>, body: impl Into<Bytes>) -> Result<Answer, Failure> {
        let body: Bytes = body.into();
        if body.is_empty() {
            return collect(self.stream(request).await?).await;
        }
        request.headers_mut().entry("content-length").or_insert(body.len().into());
        let mut exchange = self.open(request).await?;
        let (mut upload, response) = (exchange.upload, &mut exchange.response);
        let sent = async {
            // An upload that fails is told by the response, or by its absence.
            let _ = upload.data(body).await;
            let _ = upload.finish().await;
        };
        let (response, ()) = tokio::join!(response, sent);
        collect(response?).await
    }

    /// GET `path`, whole.
    pub async fn get(&mut self, path: &str) -> Answer {
        let request = self.request("GET", path);
        in_time(path, self.send(request, Bytes::new())).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Runs `future` as long as the client lives.
    pub fn spawn(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(future);
    }

    /// The hyper client of an HTTP/2 connection, for what only it can do.
    pub fn as_http2(&mut self) -> &mut hyper::client::conn::http2::SendRequest<Queue> {
        match &mut self.requests {
            Requests::Http2(requests) => requests,
            _ => panic!("not an HTTP/2 client"),
        }
    }
}

/// Reads a response to its end.
pub async fn collect(response: Response<Download>) -> Result<Answer, Failure> {
    let (head, mut download) = response.into_parts();
    let (mut body, mut trailers) = (Vec::new(), None);
    while let Some(frame) = download.frame().await {
        match frame?.into_data() {
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.into(), trailers })
}

type PendingResponse = Pin<Box<dyn Future<Output = Result<Response<Download>, Failure>> + Send>>;

/// A request under way, both directions apart.
pub struct Exchange {
    /// The request body.
    pub upload: Upload,
    /// The response head, when it comes.
    pub response: PendingResponse,
}

impl Exchange {
    /// Waits for the response head.
    pub async fn response(&mut self) -> Result<Response<Download>, Failure> {
        in_time("a response head", &mut self.response).await
    }
}

/// The rest of a request body. Dropped without [`Upload::finish`], it is cut.
pub enum Upload {
    None,
    Tcp(mpsc::Sender<Result<Frame<Bytes>, Failure>>),
    Http3(Box<http3::SendStream>),
}

impl Upload {
    /// Sends some bytes.
    pub async fn data(&mut self, data: Bytes) -> Result<(), Failure> {
        match self {
            Self::None => Err("the request has no body".into()),
            Self::Tcp(queue) => Ok(queue.send(Ok(Frame::data(data))).await?),
            Self::Http3(stream) => Ok(stream.send_data(data).await?),
        }
    }

    /// Sends trailers and ends the body.
    pub async fn trailers(&mut self, trailers: HeaderMap) -> Result<(), Failure> {
        match self {
            Self::None => Err("the request has no body".into()),
            Self::Tcp(queue) => {
                queue.send(Ok(Frame::trailers(trailers))).await?;
                self.finish().await
            }
            Self::Http3(stream) => {
                stream.send_trailers(trailers).await?;
                self.finish().await
            }
        }
    }

    /// Ends the body.
    pub async fn finish(&mut self) -> Result<(), Failure> {
        match std::mem::replace(self, Self::None) {
            Self::None | Self::Tcp(_) => Ok(()),
            Self::Http3(mut stream) => Ok(stream.finish().await?),
        }
    }

    /// Breaks the body off.
    pub async fn abort(self) {
        match self {
            Self::None => {}
            Self::Tcp(queue) => drop(queue.send(Err("the test breaks it off".into())).await),
            Self::Http3(mut stream) => stream.stop_stream(h3::error::Code::H3_REQUEST_CANCELLED),
        }
    }
}

/// A response body. Dropped before its end, it cancels the request.
pub enum Download {
    Tcp(Incoming),
    Http3(http3::Receiving),
}

impl Download {
    /// The next piece, or the trailers.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, Failure>> {
        match self {
            Self::Tcp(body) => loop {
                match http_body_util::BodyExt::frame(body).await {
                    // The DATA frame that only ends an HTTP/2 stream; it is no piece of the body.
                    Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                    frame => return frame.map(|frame| frame.map_err(Into::into)),
                }
            },
            Self::Http3(stream) => stream.frame().await,
        }
    }

    /// The next piece, which must be data.
    pub async fn data(&mut self) -> Bytes {
        let frame = in_time("data", self.frame()).await.expect("more data").expect("no error");
        frame.into_data().unwrap_or_else(|frame| panic!("data, not {frame:?}"))
    }
}

/// A request body that a test fills; room for one piece, so that backpressure is felt.
pub struct Queue(Option<mpsc::Receiver<Result<Frame<Bytes>, Failure>>>);

impl Queue {
    fn new() -> (mpsc::Sender<Result<Frame<Bytes>, Failure>>, Self) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Self(Some(receiver)))
    }

    /// No body at all.
    pub fn ended() -> Self {
        Self(None)
    }
}

impl Body for Queue {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |queue| queue.poll_recv(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}
