//! Stage 5: carries a request through a tunnel until its response head is there. Called by the spine; owns the choice of
//! the link, the request body's pump and the replay of what was never started.

pub mod tunnels;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::oneshot;

use self::tunnels::Tunnels;
use super::listener::{Interim, RequestBody};
use crate::clock;
use crate::fault::{Fault, Kind, Retry, Side, Stage};
use crate::observe::record::{Received, Record};
use crate::task::Tasks;
use crate::tunnel::exchange::{Event, ExchangeReader, ExchangeWriter};
use crate::tunnel::link::Link;
use crate::tunnel::message::{self, Meta, RequestHead, ResponseHead};

/// Links tried for one request, the first included.
const ATTEMPTS_MAX: usize = 3;

/// What dispatch needs of its process and worker.
pub struct Dispatch {
    /// The links.
    pub tunnels: Arc<Tunnels>,
    /// The worker that carries the request.
    pub worker: usize,
    /// Owner of the pumps.
    pub tasks: Tasks,
}

/// A request that is ready for the tunnel.
pub struct Outbound {
    /// The head as the upstream shall see it.
    pub head: RequestHead,
    /// What travels with it.
    pub meta: Meta,
    /// The service's place in the configuration.
    pub service: usize,
    /// From the request's end to the response head.
    pub response_timeout: Duration,
}

impl Dispatch {
    /// Sends the request and waits for the final response head. What provably was not started goes to another link.
    pub async fn send<I: Interim>(
        &self,
        mut outbound: Outbound,
        body: RequestBody,
        record: &mut Record,
        interim: &mut I,
    ) -> Result<(ResponseHead, ExchangeReader), Fault> {
        let mut tried: Vec<Arc<Link>> = Vec::new();
        outbound.meta.bodiless = body.is_end_stream();
        let mut body = Some(body).filter(|_| !outbound.meta.bodiless);
        let repeatable = body.is_none();
        loop {
            let (link, writer, reader) = self.open(outbound.service, &mut tried)?;
            record.dispatched(link.peer().node());
            let attempt = self.attempt(&outbound, body.take(), (writer, reader), record, interim);
            match attempt.await {
                Err(fault) if fault.retry == Retry::Anywhere && repeatable && tried.len() < ATTEMPTS_MAX => {
                    outbound.meta.attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// An exchange on a link that takes one. Nothing is sent by failing to open, so every link may be tried.
    fn open(
        &self,
        service: usize,
        tried: &mut Vec<Arc<Link>>,
    ) -> Result<(Arc<Link>, ExchangeWriter, ExchangeReader), Fault> {
        loop {
            let unavailable =
                || Fault::new(Stage::Dispatch, Side::Tunnel, Kind::DestinationUnavailable).with_retry(Retry::Anywhere);
            let link = self.tunnels.choose(service, self.worker, tried).ok_or_else(unavailable)?;
            tried.push(link.clone());
            if let Some((writer, reader)) = link.open() {
                return Ok((link, writer, reader));
            }
        }
    }

    async fn attempt<I: Interim>(
        &self,
        outbound: &Outbound,
        body: Option<RequestBody>,
        (mut writer, mut reader): (ExchangeWriter, ExchangeReader),
        record: &mut Record,
        interim: &mut I,
    ) -> Result<(ResponseHead, ExchangeReader), Fault> {
        writer.request(&outbound.head, &outbound.meta);
        let sent = match body {
            None => {
                writer.end(None);
                writer.flush().await?;
                Sent::At(clock::now())
            }
            Some(body) => Sent::When(self.pump(writer, body, record.received())),
        };
        let deadline = response_deadline(sent, outbound.response_timeout);
        tokio::select! {
            head = response_head(&mut reader, interim) => Ok((head?, reader)),
            () = deadline => Err(Fault::new(Stage::Dispatch, Side::Upstream, Kind::ResponseTimeout)),
        }
    }

    fn pump(&self, writer: ExchangeWriter, body: RequestBody, received: Received) -> oneshot::Receiver<Instant> {
        let (done, when) = oneshot::channel();
        self.tasks.spawn(async move {
            if pump(writer, body, received).await {
                // Nobody waits any more if the response head came first.
                let _ = done.send(clock::now());
            }
        });
        when
    }
}

/// When the request was sent whole.
enum Sent {
    At(Instant),
    When(oneshot::Receiver<Instant>),
}

/// Resolves when the response head is overdue: `timeout` after the request's end. A request that never ends is bounded
/// by its own progress.
async fn response_deadline(sent: Sent, timeout: Duration) {
    let end = match sent {
        Sent::At(end) => end,
        Sent::When(when) => match when.await {
            Ok(end) => end,
            Err(_) => return std::future::pending().await,
        },
    };
    tokio::time::sleep_until((end + timeout).into()).await;
}

/// Reads up to the final head; interim responses go to the client.
async fn response_head<I: Interim>(reader: &mut ExchangeReader, interim: &mut I) -> Result<ResponseHead, Fault> {
    loop {
        match reader.next().await? {
            Event::Accepted => {}
            Event::Informational(head) => interim.send(head).await,
            Event::Head(payload) => return message::get_response(payload).map_err(|_| malformed()),
            Event::Body(_) | Event::End(_) => return Err(malformed()),
        }
    }
}

fn malformed() -> Fault {
    Fault::new(Stage::Tunnel, Side::Gateway, Kind::ProtocolError)
}

/// Sends the request body; answers whether all of it went.
async fn pump(mut writer: ExchangeWriter, mut body: RequestBody, received: Received) -> bool {
    // The head goes at once: a client may wait for 100 before it sends a body.
    if writer.flush().await.is_err() {
        return false;
    }
    while let Some(frame) = body.frame().await {
        let outcome = match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => send_piece(&mut writer, data, &received).await,
            Ok(Err(frame)) => {
                writer.end(frame.trailers_ref());
                return writer.flush().await.is_ok();
            }
            Err(fault) => {
                writer.abort(fault);
                return false;
            }
        };
        if outcome.is_err() || writer.is_unwanted() {
            return false;
        }
    }
    writer.end(None);
    writer.flush().await.is_ok()
}

fn send_piece<'a>(
    writer: &'a mut ExchangeWriter,
    data: Bytes,
    received: &Received,
) -> impl Future<Output = Result<(), Fault>> + 'a {
    received.add(data.len() as u64);
    writer.body(data);
    writer.flush()
}
