//! The HTTP/3 client: quinn below, h3 above.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use h3::client::SendRequest;
use h3_quinn::OpenStreams;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, EndpointConfig, TokioRuntime, TransportConfig, VarInt};
use tokio::task::JoinSet;

use super::client::{Failure, Target, expect_ok, head};
use super::filler::Filler;
use super::plan::{Ask, Windows};
use super::tally::Tally;
use crate::Outcome;

/// Bytes of uploads under way; bounds how far ahead of the answer they are counted.
const SEND_WINDOW: u64 = 4 << 20;
/// Kernel buffer of each socket, bytes; the kernel may grant less.
const RECEIVE_BUFFER: usize = 2 << 20;

/// What all HTTP/3 connections have in common.
#[derive(Clone)]
pub struct Setup {
    target: Target,
    config: ClientConfig,
}

impl Setup {
    /// Connections to `target` under `tls`.
    pub fn new(target: Target, tls: rustls::ClientConfig, windows: Windows) -> Outcome<Self> {
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(windows.stream.into()).receive_window(windows.connection.into());
        transport.send_window(SEND_WINDOW);
        transport.max_idle_timeout(Some(VarInt::from_u32(60_000).into()));
        transport.keep_alive_interval(None).initial_rtt(Duration::from_millis(100));
        config.transport_config(Arc::new(transport));
        Ok(Self { target, config })
    }

    /// Connects from a socket of its own: servers that make one socket per client see different clients.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        let broken = |error: &dyn std::error::Error| Failure::Connect(error.to_string());
        let endpoint = endpoint(self.target.address).map_err(|e| broken(&e))?;
        let connecting = endpoint.connect_with(self.config.clone(), self.target.address, &self.target.host);
        let quic = connecting.map_err(|e| broken(&e))?.await.map_err(|e| broken(&e))?;
        let (mut driver, requests) =
            h3::client::new(h3_quinn::Connection::new(quic.clone())).await.map_err(|e| broken(&e))?;
        let mut drivers = JoinSet::new();
        drivers.spawn(async move {
            poll_fn(|cx| driver.poll_close(cx)).await;
        });
        Ok(Connection { host: self.target.host.clone(), requests, quic, _drivers: drivers })
    }
}

/// An endpoint on a port of its own, with room for what a pinned client cannot take at once: its drops would be the
/// server's losses.
fn endpoint(target: SocketAddr) -> io::Result<Endpoint> {
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
}

/// A request under way.
type Stream = h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// An open connection with the task that drives its HTTP/3 side.
pub struct Connection {
    host: Arc<str>,
    requests: SendRequest<OpenStreams, Bytes>,
    quic: quinn::Connection,
    _drivers: JoinSet<()>,
}

impl Connection {
    /// Sends `ask` and returns its answer, of which the head has come.
    pub async fn send(&self, ask: Ask, tally: Option<&Arc<Tally>>) -> Result<Stream, Failure> {
        let mut stream = self.requests.clone().send_request(head(&self.host, ask, ())?).await.map_err(broken)?;
        for piece in Filler::new(ask.sends(), tally.cloned()) {
            stream.send_data(piece).await.map_err(broken)?;
        }
        stream.finish().await.map_err(broken)?;
        expect_ok(stream.recv_response().await.map_err(broken)?.status())?;
        Ok(stream)
    }

    /// Sends `ask` and returns the length of its answer.
    pub async fn fetch(&self, ask: Ask, tally: &Arc<Tally>) -> Result<u64, Failure> {
        let mut stream = self.send(ask, Some(tally)).await?;
        let mut got = 0;
        while let Some(piece) = stream.recv_data().await.map_err(broken)? {
            let bytes = piece.remaining() as u64;
            got += bytes;
            tally.moved(bytes);
        }
        Ok(got)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // H3_NO_ERROR, RFC 9114 section 8.1.
        self.quic.close(VarInt::from_u32(0x100), b"");
    }
}

fn broken(error: h3::error::StreamError) -> Failure {
    Failure::Stream(error.to_string())
}
