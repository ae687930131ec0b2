//! The HTTP/1.1 client: over TLS, or in plain text for what the upstream alone answers. A connection for each request at once.

use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::client::{Failure, Target, expect_ok, head};
use super::filler::Filler;
use super::plan::Ask;
use super::tally::Tally;
use super::tls::Tls;

/// Idle connections to one server, opened as they are needed, with the tasks that drive them.
pub struct Connection {
    target: Target,
    tls: Option<Tls>,
    idle: Mutex<Vec<SendRequest<Filler>>>,
    drivers: Mutex<JoinSet<()>>,
}

impl Connection {
    /// One without connections yet; those that it opens are encrypted if there is `tls`.
    pub fn new(target: Target, tls: Option<Tls>) -> Self {
        Self { target, tls, idle: Mutex::default(), drivers: Mutex::default() }
    }

    async fn requests(&self) -> Result<SendRequest<Filler>, Failure> {
        if let Some(requests) = self.idle.lock().pop() {
            return Ok(requests);
        }
        match &self.tls {
            Some(tls) => self.handshake(tls.connect(&self.target).await?).await,
            None => self.handshake(self.target.connect().await?).await,
        }
    }

    async fn handshake<I>(&self, stream: I) -> Result<SendRequest<Filler>, Failure>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (requests, driver) = handshake.map_err(|error| Failure::Connect(error.to_string()))?;
        self.drivers.lock().spawn(async move {
            // How the connection ends is seen by the request on it.
            let _ = driver.await;
        });
        Ok(requests)
    }

    /// Sends `ask` and returns the length of its answer.
    pub async fn fetch(&self, ask: Ask, tally: &Arc<Tally>) -> Result<u64, Failure> {
        let mut requests = self.requests().await?;
        requests.ready().await.map_err(broken)?;
        let body = Filler::new(ask.sends(), Some(tally.clone()));
        let mut request = head(&self.target.host, ask, body)?;
        request
            .headers_mut()
            .insert(http::header::HOST, self.target.host.parse().map_err(|_| Failure::Stream("host".to_owned()))?);
        let response = requests.send_request(request).await.map_err(broken)?;
        expect_ok(response.status())?;
        let mut body = response.into_body();
        let mut got = 0;
        while let Some(frame) = body.frame().await {
            let bytes = frame.map_err(broken)?.data_ref().map_or(0, |piece| piece.len() as u64);
            got += bytes;
            tally.moved(bytes);
        }
        self.idle.lock().push(requests);
        Ok(got)
    }
}

fn broken(error: hyper::Error) -> Failure {
    Failure::Stream(error.to_string())
}
