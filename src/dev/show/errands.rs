//! What clients of the show do all the time: short requests, a long download, a WebSocket. Each is a loop until the show
//! ends; each checks every byte and tells the tally what a client would notice.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::tally::Tally;
use super::visitor::{Part, Trouble, Visitor};
use crate::clock;
use crate::dev::upstream::pattern_fill;
use crate::dev::{Failure, probe};

/// Between short requests.
const REQUEST_PAUSE: Duration = Duration::from_millis(20);
/// Longest body of a short request, bytes.
const REQUEST_MAX: u64 = 32 << 10;
/// Length of the download, bytes.
const DOWNLOAD: u64 = 32 << 20;
/// Bytes a second that the download takes: a line of some 70 Mbit/s.
const DOWNLOAD_RATE: u64 = 8 << 20;
/// How far the download may be ahead of its rate.
const PACE: Duration = Duration::from_millis(20);
/// Messages of one conversation: it ends well before the time of a drain, which no client of a WebSocket hears of.
const ECHOES: usize = 60;
/// Between messages on the WebSocket.
const ECHO_PAUSE: Duration = Duration::from_millis(50);
/// For an echo, and for the WebSocket's handshake.
const ECHO_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries of anything.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Tries of one thing, before it failed.
const TRIES_MAX: usize = 20;

/// Who answers, and whether it is known what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The built-in upstream: `/bytes/N` is known.
    BuiltIn,
    /// Another one: its front page must not be an error.
    Other,
}

/// Short requests, one after the other.
pub async fn requests(mut visitor: Visitor, tally: Arc<Tally>, target: Target) {
    loop {
        let length = fastrand::u64(1..REQUEST_MAX);
        let path = match target {
            Target::BuiltIn => format!("/bytes/{length}"),
            Target::Other => "/".to_owned(),
        };
        let asked = clock::now();
        let mut tries = 0;
        while let Err(trouble) = request(&mut visitor, &path, target, length).await {
            tries += 1;
            visitor.leave(&path, &trouble);
            if tries == TRIES_MAX {
                tally.fail(format!("{path}: {trouble:?} after {tries} tries"));
                break;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        if tries < TRIES_MAX {
            let took = clock::now().saturating_duration_since(asked);
            tally.note(|seen| (seen.requests, seen.slowest) = (seen.requests + 1, seen.slowest.max(took)));
        }
        tokio::time::sleep(REQUEST_PAUSE).await;
    }
}

async fn request(visitor: &mut Visitor, path: &str, target: Target, length: u64) -> Result<(), Trouble> {
    let mut reply = visitor.get(path, None).await?;
    if reply.status.is_server_error() || (target == Target::BuiltIn && reply.status != StatusCode::OK) {
        return Err(Trouble::Wrong(reply.status.to_string()));
    }
    let mut at = 0;
    while let Some(data) = reply.data().await? {
        if target == Target::BuiltIn {
            check(at, &data)?;
        }
        at += data.len() as u64;
    }
    match target {
        Target::BuiltIn if at != length => Err(Trouble::Wrong(format!("a clean end after {at} of {length} bytes"))),
        _ => Ok(()),
    }
}

fn check(at: u64, data: &[u8]) -> Result<(), Trouble> {
    let mut expected = vec![0; data.len()];
    pattern_fill(at, &mut expected);
    if expected == data { Ok(()) } else { Err(Trouble::Wrong(format!("wrong bytes at {at}"))) }
}

/// A long download, again and again; where its PoP dies it goes on as a browser's does, with `Range`.
pub async fn downloads(mut visitor: Visitor, tally: Arc<Tally>) {
    let path = format!("/bytes/{DOWNLOAD}");
    loop {
        let (mut have, mut tries) = (None, 0);
        while let Err(trouble) = download(&mut visitor, &path, &mut have, &tally).await {
            visitor.leave(&path, &trouble);
            tries += 1;
            if tries == TRIES_MAX || matches!(trouble, Trouble::Wrong(_)) {
                break;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        if have.is_some_and(|part| part.from == DOWNLOAD) {
            tally.note(|seen| seen.downloads += 1);
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn download(visitor: &mut Visitor, path: &str, have: &mut Option<Part>, tally: &Tally) -> Result<(), Trouble> {
    let mut reply = visitor.get(path, have.as_ref()).await?;
    let etag = reply.etag.clone().ok_or_else(|| Trouble::Wrong("no ETag".into()))?;
    let part = match (reply.status, have) {
        (StatusCode::OK, have) => have.insert(Part { from: 0, etag }),
        (StatusCode::PARTIAL_CONTENT, Some(part)) => part,
        (status, _) => return Err(Trouble::Wrong(status.to_string())),
    };
    let (begun, mut taken) = (clock::now(), 0);
    while let Some(data) = reply.data().await? {
        let length = data.len() as u64;
        check(part.from, &data)?;
        (part.from, taken) = (part.from + length, taken + length);
        tally.note(|seen| seen.bytes += length);
        let due = begun + Duration::from_micros(taken * 1_000_000 / DOWNLOAD_RATE);
        if due > clock::now() + PACE {
            tokio::time::sleep_until(due.into()).await;
        }
    }
    if part.from == DOWNLOAD { Ok(()) } else { Err(Trouble::Wrong(format!("a clean end at {}", part.from))) }
}

/// A client that speaks WebSocket, over HTTP/1.1.
pub struct Socket {
    tls: TlsConnector,
    host: String,
    /// TCP addresses of the PoPs.
    peers: Vec<SocketAddr>,
    tally: Arc<Tally>,
    pop: usize,
}

type Open = WebSocketStream<TlsStream<TcpStream>>;

impl Socket {
    /// A client that trusts the CA in `ca` and asks for `host` at `peers`.
    ///
    /// # Errors
    /// When the CA cannot be read.
    pub fn new(ca: &Path, host: &str, peers: Vec<SocketAddr>, tally: Arc<Tally>) -> Result<Self, Failure> {
        let tls = TlsConnector::from(Arc::new(probe::tls_config(ca, b"http/1.1")?));
        Ok(Self { tls, host: host.to_owned(), peers, tally, pop: 0 })
    }

    /// Conversations, one after the other. A conversation that is cut is a failure, unless a process on its way was killed:
    /// nobody else can know what was said.
    pub async fn run(mut self) {
        let mut closed = 0;
        loop {
            let deaths = self.tally.deaths(self.pop, true);
            let opened = tokio::time::timeout(ECHO_TIMEOUT, self.open()).await;
            let result = match opened.unwrap_or_else(|_| Err("no handshake in time".into())) {
                Ok(open) => {
                    closed = 0;
                    self.converse(open).await
                }
                Err(_) if closed < TRIES_MAX => {
                    closed += 1;
                    self.pop = (self.pop + 1) % self.peers.len().max(1);
                    Ok(())
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => {}
                Err(_) if self.tally.deaths(self.pop, true) > deaths => self.tally.note(|seen| seen.reconnects += 1),
                Err(error) => self.tally.fail(format!("WebSocket: {error}")),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn open(&self) -> Result<Open, Failure> {
        let peer = *self.peers.get(self.pop).ok_or("no PoP")?;
        let stream = TcpStream::connect(peer).await?;
        let stream = self.tls.connect(ServerName::try_from(self.host.clone())?, stream).await?;
        let url = format!("wss://{}:{}/ws", self.host, peer.port());
        Ok(tokio_tungstenite::client_async(url, stream).await?.0)
    }

    async fn converse(&self, mut open: Open) -> Result<(), Failure> {
        for number in 0..ECHOES {
            open.send(Message::text(number.to_string())).await?;
            let answer = tokio::time::timeout(ECHO_TIMEOUT, open.next()).await?.ok_or("the end")??;
            if answer.into_text()?.as_str() != number.to_string() {
                return Err("another message than was sent".into());
            }
            self.tally.note(|seen| seen.echoes += 1);
            tokio::time::sleep(ECHO_PAUSE).await;
        }
        // Whether the close is answered does not matter to anybody.
        let _ = open.close(None).await;
        Ok(())
    }
}
