//! The HTTP/2 client: hyper over tokio-rustls.

use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use super::client::{Failure, Target, expect_ok, head};
use super::filler::Filler;
use super::plan::{Ask, Windows};
use super::tally::Tally;
use super::tls::Tls;

/// What all HTTP/2 connections have in common.
#[derive(Clone)]
pub struct Setup {
    target: Target,
    tls: Tls,
    windows: Windows,
}

impl Setup {
    /// Connections to `target` under `tls`.
    pub fn new(target: Target, tls: Tls, windows: Windows) -> Self {
        Self { target, tls, windows }
    }

    /// Opens one connection.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        let tls = self.tls.connect(&self.target).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(self.windows.stream);
        builder.initial_connection_window_size(self.windows.connection);
        let (requests, driver) =
            builder.handshake(TokioIo::new(tls)).await.map_err(|error| Failure::Connect(error.to_string()))?;
        let mut drivers = JoinSet::new();
        drivers.spawn(async move {
            // How the connection ends is seen by the requests on it.
            let _ = driver.await;
        });
        Ok(Connection { host: self.target.host.clone(), requests, _drivers: drivers })
    }
}

/// An open connection with the task that drives it.
pub struct Connection {
    host: Arc<str>,
    requests: SendRequest<Filler>,
    _drivers: JoinSet<()>,
}

impl Connection {
    /// Sends `ask` and returns its answer, of which the head has come.
    pub async fn send(&self, ask: Ask, tally: Option<&Arc<Tally>>) -> Result<Incoming, Failure> {
        let mut requests = self.requests.clone();
        requests.ready().await.map_err(broken)?;
        let body = Filler::new(ask.sends(), tally.cloned());
        let response = requests.send_request(head(&self.host, ask, body)?).await.map_err(broken)?;
        expect_ok(response.status())?;
        Ok(response.into_body())
    }

    /// Sends `ask` and returns the length of its answer.
    pub async fn fetch(&self, ask: Ask, tally: &Arc<Tally>) -> Result<u64, Failure> {
        let mut body = self.send(ask, Some(tally)).await?;
        let mut got = 0;
        while let Some(frame) = body.frame().await {
            let bytes = frame.map_err(broken)?.data_ref().map_or(0, |piece| piece.len() as u64);
            got += bytes;
            tally.moved(bytes);
        }
        Ok(got)
    }
}

fn broken(error: hyper::Error) -> Failure {
    Failure::Stream(error.to_string())
}
