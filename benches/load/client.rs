//! One client connection of any protocol, and how a request on it can fail.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, Request, StatusCode, Uri};
use tokio::net::TcpStream;

use super::plan::{Ask, Plan, Protocol};
use super::tally::Tally;
use super::tls::{self, Tls};
use super::{http1, http2, http3};
use crate::Outcome;

/// Why a request did not end with the right answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("connect: {0}")]
    Connect(String),
    /// The connection or stream broke.
    #[error("stream: {0}")]
    Stream(String),
    /// Another status than 200.
    #[error("status {0}")]
    Status(StatusCode),
    /// A body of the wrong length.
    #[error("{got} bytes of body instead of {wanted}")]
    Length {
        /// Bytes received.
        got: u64,
        /// Bytes due.
        wanted: u64,
    },
    /// More requests are unanswered than the generator holds.
    #[error("too many requests in flight")]
    Overrun,
}

/// What connections to one edge have in common.
#[derive(Clone)]
pub enum Setup {
    /// HTTP/3.
    Http3(http3::Setup),
    /// HTTP/2.
    Http2(http2::Setup),
    /// HTTP/1.1, encrypted or not.
    Http1(Target, Option<Tls>),
}

/// Where a connection leads and as whom it asks.
#[derive(Clone)]
pub struct Target {
    /// The edge.
    pub address: SocketAddr,
    /// Authority and SNI.
    pub host: Arc<str>,
}

impl Target {
    /// Opens a TCP connection.
    pub async fn connect(&self) -> Result<TcpStream, Failure> {
        let open = async {
            let tcp = TcpStream::connect(self.address).await?;
            tcp.set_nodelay(true)?;
            Ok(tcp)
        };
        open.await.map_err(|error: io::Error| Failure::Connect(error.to_string()))
    }
}

impl Setup {
    /// Reads the CA and prepares what every connection of `plan` uses.
    pub fn new(plan: &Plan) -> Outcome<Self> {
        let target = Target { address: plan.target, host: plan.host.as_str().into() };
        let (windows, tls) = (plan.shape.windows(), |alpn| tls::config(&plan.ca, alpn, plan.shape.resumes()));
        Ok(match plan.protocol {
            Protocol::Http3 => Self::Http3(http3::Setup::new(target, tls(b"h3")?, windows)?),
            Protocol::Http2 => Self::Http2(http2::Setup::new(target, Tls::new(tls(b"h2")?), windows)),
            Protocol::Http1 => Self::Http1(target, Some(Tls::new(tls(b"http/1.1")?))),
            Protocol::Plain => Self::Http1(target, None),
        })
    }

    /// Opens a connection from a socket of its own.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        Ok(match self {
            Self::Http3(setup) => Connection::Http3(setup.connect().await?),
            Self::Http2(setup) => Connection::Http2(setup.connect().await?),
            Self::Http1(target, tls) => Connection::Http1(http1::Connection::new(target.clone(), tls.clone())),
        })
    }
}

/// An open connection; requests on it may run side by side.
pub enum Connection {
    /// HTTP/3.
    Http3(http3::Connection),
    /// HTTP/2.
    Http2(http2::Connection),
    /// HTTP/1.1.
    Http1(http1::Connection),
}

/// An answer whose head has come and whose body nobody reads, as long as this is not dropped.
pub struct Unread(#[expect(dead_code, reason = "held, never used")] Box<dyn Send>);

impl Connection {
    /// Sends `ask` and receives its whole answer. Ok means status 200 and the right length.
    pub async fn fetch(&self, ask: Ask, tally: &Arc<Tally>) -> Result<(), Failure> {
        let got = match self {
            Self::Http3(connection) => connection.fetch(ask, tally).await?,
            Self::Http2(connection) => connection.fetch(ask, tally).await?,
            Self::Http1(connection) => connection.fetch(ask, tally).await?,
        };
        let wanted = ask.receives();
        if got == wanted { Ok(()) } else { Err(Failure::Length { got, wanted }) }
    }

    /// Sends `ask` and waits for the head of its answer alone.
    pub async fn ask(&self, ask: Ask) -> Result<Unread, Failure> {
        Ok(Unread(match self {
            Self::Http3(connection) => Box::new(connection.send(ask, None).await?),
            Self::Http2(connection) => Box::new(connection.send(ask, None).await?),
            Self::Http1(_) => return Err(Failure::Stream("an answer over HTTP/1.1 is always read".to_owned())),
        }))
    }
}

/// The request head of `ask`; a browser's few fields, so that header work is not flattered.
pub fn head<B>(host: &str, ask: Ask, body: B) -> Result<Request<B>, Failure> {
    let uri = Uri::builder().scheme("https").authority(host).path_and_query(ask.path());
    let uri = uri.build().map_err(|error| Failure::Stream(error.to_string()))?;
    let request = Request::builder().uri(uri).header("user-agent", "trunkline-bench/1").header("accept", "*/*");
    let request = match ask {
        Ask::Download(_) | Ask::Never => request.method(Method::GET),
        Ask::Upload(bytes) => request.method(Method::POST).header("content-length", bytes),
    };
    request.body(body).map_err(|error| Failure::Stream(error.to_string()))
}

/// Only 200 will do.
pub fn expect_ok(status: StatusCode) -> Result<(), Failure> {
    if status == StatusCode::OK { Ok(()) } else { Err(Failure::Status(status)) }
}
