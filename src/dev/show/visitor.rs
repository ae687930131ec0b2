//! A client of the show: speaks HTTP/3, knows the addresses of all PoPs as a browser knows those of a name, and turns to
//! the next one when its own is gone. Called by the errands; owns one connection.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use http::header::{IF_RANGE, RANGE};
use http::{HeaderValue, Request, StatusCode};

use super::tally::Tally;
use crate::dev::{Failure, probe};
use crate::task::Tasks;

/// For a handshake, before the next PoP is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For the next piece of an answer: what takes longer is given up like a connection that is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// H3_NO_ERROR: the end of a connection that was told to go.
const NO_ERROR: quinn::VarInt = quinn::VarInt::from_u32(0x100);

type Answer = RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// See the module.
pub struct Visitor {
    endpoint: quinn::Endpoint,
    host: String,
    peers: Vec<SocketAddr>,
    tally: Arc<Tally>,
    tasks: Tasks,
    /// The PoP to try first.
    pop: usize,
    connected: Option<Connected>,
}

struct Connected {
    connection: quinn::Connection,
    requests: SendRequest<h3_quinn::OpenStreams, Bytes>,
    /// Deaths of its PoP when it began.
    deaths: u64,
}

/// Why a request was not answered.
#[derive(Debug)]
pub enum Trouble {
    /// The connection is over; the client opens another one and asks again.
    Gone(String),
    /// The PoP said that it did not begin: asked again elsewhere.
    Unbegun,
    /// An answer that is none.
    Wrong(String),
}

/// A part of a resource that a client has already.
#[derive(Clone, Debug)]
pub struct Part {
    /// Bytes that it has.
    pub from: u64,
    /// The strong validator that they came with.
    pub etag: HeaderValue,
}

impl Visitor {
    /// A client that trusts the CA in `ca` and asks for `host` at `peers`.
    ///
    /// # Errors
    /// When the CA cannot be read or no socket be bound.
    pub fn new(
        ca: &Path,
        host: &str,
        peers: Vec<SocketAddr>,
        tally: Arc<Tally>,
        tasks: Tasks,
    ) -> Result<Self, Failure> {
        let peer = *peers.first().ok_or("no PoP")?;
        let endpoint = probe::endpoint(ca, peer)?;
        Ok(Self { endpoint, host: host.to_owned(), peers, tally, tasks, pop: 0, connected: None })
    }

    /// Sends a GET and waits for its head.
    pub async fn get(&mut self, path: &str, part: Option<&Part>) -> Result<Reply, Trouble> {
        let peer = *self.peers.get(self.pop).ok_or_else(|| Trouble::Wrong("no PoP".into()))?;
        let uri = format!("https://{}:{}{path}", self.host, peer.port());
        let mut request = Request::get(uri).body(()).map_err(|error| Trouble::Wrong(error.to_string()))?;
        if let Some(Part { from, etag }) = part
            && let Ok(range) = HeaderValue::try_from(format!("bytes={from}-"))
        {
            request.headers_mut().insert(RANGE, range);
            request.headers_mut().insert(IF_RANGE, etag.clone());
        }
        let connected = self.connected(peer).await?;
        let (connection, mut requests) = (connected.connection.clone(), connected.requests.clone());
        let asked = async {
            let mut stream = requests.send_request(request).await?;
            stream.finish().await?;
            let head = stream.recv_response().await?;
            Ok::<_, h3::error::StreamError>((head, stream))
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok((head, stream))) => {
                let (status, etag) = (head.status(), head.headers().get(http::header::ETAG).cloned());
                Ok(Reply { status, etag, connection, stream })
            }
            Ok(Err(error)) => Err(trouble(&connection, &error)),
            Err(_) => Err(Trouble::Gone(format!("no answer in {PATIENCE:?}"))),
        }
    }

    /// Leaves the connection after `trouble`, and counts what the client noticed: nothing where the PoP sent it away, a
    /// reconnect where the PoP was killed, a failure otherwise.
    pub fn leave(&mut self, what: &str, trouble: &Trouble) {
        let Some(connected) = self.connected.take() else {
            self.pop = (self.pop + 1) % self.peers.len().max(1);
            return;
        };
        let sent_away = match connected.connection.close_reason() {
            Some(quinn::ConnectionError::ApplicationClosed(close)) => close.error_code == NO_ERROR,
            _ => false,
        };
        let died = self.tally.deaths(self.pop, false) > connected.deaths;
        match trouble {
            Trouble::Unbegun => {}
            Trouble::Gone(_) if sent_away => {}
            Trouble::Gone(_) if died => self.tally.note(|seen| seen.reconnects += 1),
            Trouble::Gone(why) | Trouble::Wrong(why) => self.tally.fail(format!("{what}: {why}")),
        }
        connected.connection.close(NO_ERROR, b"");
        self.pop = (self.pop + 1) % self.peers.len().max(1);
    }

    async fn connected(&mut self, peer: SocketAddr) -> Result<&Connected, Trouble> {
        if self.connected.is_none() {
            let deaths = self.tally.deaths(self.pop, false);
            let connect = self.connect(peer, deaths);
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
            self.connected = Some(connected.unwrap_or_else(|_| Err("no handshake in time".into())).map_err(gone)?);
        }
        self.connected.as_ref().ok_or(Trouble::Unbegun)
    }

    async fn connect(&self, peer: SocketAddr, deaths: u64) -> Result<Connected, Failure> {
        let connection = self.endpoint.connect(peer, &self.host)?.await?;
        let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(connection.clone())).await?;
        self.tasks.spawn(async move {
            // Its error is that of the requests too.
            let _ = std::future::poll_fn(|cx| driver.poll_close(cx)).await;
        });
        Ok(Connected { connection, requests, deaths })
    }
}

fn gone(error: Failure) -> Trouble {
    Trouble::Gone(error.to_string())
}

fn trouble(connection: &quinn::Connection, error: &h3::error::StreamError) -> Trouble {
    // h3 0.0.8 shows its variants to nobody.
    let text = format!("{error:?}");
    if connection.close_reason().is_some() || text.starts_with("ConnectionError") {
        Trouble::Gone(text)
    } else if text.contains("H3_REQUEST_REJECTED") || text.contains("RemoteClosing") {
        Trouble::Unbegun
    } else {
        Trouble::Wrong(text)
    }
}

/// An answer whose head is there.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The validator.
    pub etag: Option<HeaderValue>,
    connection: quinn::Connection,
    stream: Answer,
}

impl Reply {
    /// The next piece of the body; none at its end.
    pub async fn data(&mut self) -> Result<Option<Bytes>, Trouble> {
        match tokio::time::timeout(PATIENCE, self.stream.recv_data()).await {
            Ok(Ok(data)) => Ok(data.map(|mut data| data.copy_to_bytes(data.remaining()))),
            Ok(Err(error)) => Err(trouble(&self.connection, &error)),
            Err(_) => Err(Trouble::Gone(format!("nothing in {PATIENCE:?}"))),
        }
    }
}
