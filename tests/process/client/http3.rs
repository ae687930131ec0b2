//! HTTP/3 with the h3 crate.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3_quinn::OpenStreams;
use http::{Request, Response};
use http_body::Frame;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::task::JoinSet;

use super::{Download, Exchange, Failure, Upload, tls};
use crate::chain::HOST;

/// The sending half of a request.
pub type SendStream = RequestStream<h3_quinn::SendStream<Bytes>, Bytes>;
type ReceiveStream = RequestStream<h3_quinn::RecvStream, Bytes>;

/// One connection.
pub struct Connection {
    requests: SendRequest<OpenStreams, Bytes>,
    /// Its socket.
    _endpoint: quinn::Endpoint,
}

/// A QUIC connection that agreed on `h3`, with nothing sent on it.
pub async fn quic(ca: &Path, peer: SocketAddr) -> Result<(quinn::Endpoint, quinn::Connection), Failure> {
    let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into())?;
    let tls = QuicClientConfig::try_from(tls::config(ca, b"h3"))?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let connection = endpoint.connect(peer, HOST)?.await?;
    Ok((endpoint, connection))
}

impl Connection {
    pub async fn new(ca: &Path, peer: SocketAddr, tasks: &mut JoinSet<()>) -> Result<Self, Failure> {
        let (endpoint, connection) = quic(ca, peer).await?;
        let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
        tasks.spawn(async move { drop(std::future::poll_fn(|cx| driver.poll_close(cx)).await) });
        Ok(Self { requests, _endpoint: endpoint })
    }

    pub async fn open(&mut self, request: Request<()>) -> Result<Exchange, Failure> {
        let (send, mut receive) = self.requests.send_request(request).await?.split();
        let response = async move {
            let response: Response<()> = receive.recv_response().await?;
            Ok(response.map(|()| Download::Http3(Receiving { stream: receive, ended: false })))
        };
        Ok(Exchange { upload: Upload::Http3(Box::new(send)), response: Box::pin(response) })
    }
}

/// The receiving half of a request. Dropped before its end, quinn tells the server to stop, with code 0: h3-quinn 0.0.10
/// reads ahead, and panics when it is asked to stop a stream that it reads.
pub struct Receiving {
    stream: ReceiveStream,
    ended: bool,
}

impl Receiving {
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, Failure>> {
        if self.ended {
            return None;
        }
        match self.stream.recv_data().await {
            Ok(Some(mut data)) => Some(Ok(Frame::data(data.copy_to_bytes(data.remaining())))),
            Ok(None) => {
                self.ended = true;
                match self.stream.recv_trailers().await {
                    Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
                    Err(error) => Some(Err(error.into())),
                }
            }
            Err(error) => {
                self.ended = true;
                Some(Err(error.into()))
            }
        }
    }
}
