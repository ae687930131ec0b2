//! Stage 7, the spine of the origin: exchange -> upstream request -> exchange. Called for each exchange that a PoP opens;
//! owns nothing between requests.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::HeaderValue;
use http_body::Body;
use http_body_util::BodyExt;

use super::body::RequestBody;
use super::upstream::{Observe, UpstreamBody, UpstreamMetrics, UpstreamResponse, Upstreams};
use crate::clock;
use crate::fault::{Fault, Kind, Retry, Side, Stage};
use crate::fields;
use crate::observe::record::{Observer, Opening, Record, Wire};
use crate::tunnel::code::ResetCode;
use crate::tunnel::control::Load;
use crate::tunnel::exchange::{Event, Exchange, ExchangeReader, ExchangeWriter};
use crate::tunnel::message::{self, Meta, RequestHead, ResponseHead};

/// From an exchange's opening to its HEAD.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// One service of this origin.
pub struct Service {
    /// Its upstreams.
    pub upstreams: Upstreams,
    /// Its place in the configuration.
    pub index: usize,
}

/// See the module. One per process.
pub struct Gateway {
    /// Services by name.
    pub services: HashMap<String, Service>,
    /// Who hears of every exchange.
    pub observer: Observer,
    /// Set when new exchanges are REJECTED: their PoPs have had time to send them elsewhere.
    pub closed: AtomicBool,
    /// What all upstreams count.
    pub upstream_metrics: Arc<UpstreamMetrics>,
    /// Smoothed time from upstream request to response head, microseconds.
    pub upstream_micros: AtomicU64,
}

impl Gateway {
    /// Serves one exchange to its end. Never fails: what goes wrong resets the exchange with its code.
    pub async fn serve(&self, mut writer: ExchangeWriter, mut reader: ExchangeReader) {
        let exchange = writer.exchange().clone();
        let Ok(Ok(Event::Head(payload))) = tokio::time::timeout(HEAD_TIMEOUT, reader.next()).await else {
            return writer.abort(ResetCode::Protocol.fault());
        };
        let Ok((head, meta)) = message::get_request(payload) else {
            return writer.abort(ResetCode::Protocol.fault());
        };
        let mut record = self.record(&exchange, &head, &meta);
        let outcome = {
            // Pinned here: awaited directly, futures of this size are copied twice first.
            let answer = pin!(self.answer(&mut writer, reader, head, meta, &mut record));
            tokio::select! {
                biased;
                outcome = answer => outcome,
                fault = exchange.cancelled() => Err(fault),
            }
        };
        match outcome {
            Ok(()) => record.finish(),
            Err(fault) => {
                record.fault(&fault);
                writer.abort(fault);
            }
        }
    }

    /// How busy it is, for the PoPs: requests that wait for an upstream connection would be better off elsewhere.
    pub fn load(&self) -> Load {
        let busy = self.upstream_metrics.waiting.get() > 0;
        Load { busy, upstream_micros: self.upstream_micros.load(Ordering::Relaxed), ..Load::default() }
    }

    fn upstream_took(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // An update lost to another worker's does no harm.
        let smoothed = self.upstream_micros.load(Ordering::Relaxed) / 8 * 7 + took / 8;
        self.upstream_micros.store(smoothed, Ordering::Relaxed);
    }

    fn record(&self, exchange: &Exchange, head: &RequestHead, meta: &Meta) -> Record {
        let opening = Opening {
            wire: Wire::Tunnel,
            client: meta.client.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            request_id: HeaderValue::from_maybe_shared(meta.request_id.clone()).ok(),
            method: head.method.clone(),
            authority: head.authority.clone(),
            path: head.path.clone(),
        };
        let mut record = self.observer.record(opening, exchange.started());
        if let Some(service) = self.services.get(&meta.service) {
            record.routed(service.index);
        }
        record.dispatched(exchange.peer().node());
        record
    }

    async fn answer(
        &self,
        writer: &mut ExchangeWriter,
        mut reader: ExchangeReader,
        head: RequestHead,
        meta: Meta,
        record: &mut Record,
    ) -> Result<(), Fault> {
        if self.closed.load(Ordering::Relaxed) {
            let kind = Kind::DestinationUnavailable;
            return Err(Fault::new(Stage::Gateway, Side::Gateway, kind).with_retry(Retry::Anywhere));
        }
        let service = self.services.get(&meta.service).ok_or_else(|| ResetCode::NoRoute.fault())?;
        if meta.bodiless {
            take_end(&mut reader).await?;
        }
        let observe =
            Arc::new(Progress { exchange: writer.exchange().clone(), tell_accepted: !head.method.is_idempotent() });
        let body = RequestBody::new(reader, record, meta.bodiless);
        let asked = clock::now();
        let UpstreamResponse { mut head, body } = pin!(service.upstreams.request(head, body, observe)).await?;
        let took = clock::now().saturating_duration_since(asked);
        record.upstream_took(took);
        self.upstream_took(took);
        record.head(head.status);
        fields::append_server_timing(&mut head.headers, "upstream", took);
        pin!(respond(writer, &head, body, record)).await
    }
}

/// A request without a body ends with its head: take the END that follows it.
async fn take_end(reader: &mut ExchangeReader) -> Result<(), Fault> {
    match tokio::time::timeout(HEAD_TIMEOUT, reader.next()).await {
        Ok(Ok(Event::End(None))) => Ok(()),
        Ok(Err(fault)) => Err(fault),
        _ => Err(ResetCode::Protocol.fault()),
    }
}

/// Sends the response. The head goes out with whatever part of the body is already there.
async fn respond(
    writer: &mut ExchangeWriter,
    head: &ResponseHead,
    mut body: UpstreamBody,
    record: &mut Record,
) -> Result<(), Fault> {
    writer.response(head);
    let mut unsent = 0;
    loop {
        let ready = std::pin::Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        let frame = match ready {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                writer.flush().await?;
                unsent = 0;
                body.frame().await
            }
        };
        match frame.transpose()?.map(http_body::Frame::into_data) {
            Some(Ok(data)) => {
                record.sent(data.len() as u64);
                unsent += data.len();
                writer.body(data);
                if unsent > SMALL {
                    writer.flush().await?;
                    unsent = 0;
                }
            }
            Some(Err(frame)) => {
                writer.end(frame.trailers_ref());
                return writer.flush().await;
            }
            None => {
                writer.end(None);
                return writer.flush().await;
            }
        }
    }
}

/// Bytes up to this many wait for the next poll of the body, so that a small response goes out in one write.
const SMALL: usize = 4 << 10;

/// Tells the PoP how far the upstream is.
struct Progress {
    exchange: Arc<Exchange>,
    /// Only for methods that must not be sent twice does the PoP need to know; for the others the response says it.
    tell_accepted: bool,
}

impl Observe for Progress {
    fn accepted(&self) {
        if self.tell_accepted {
            self.exchange.note(message::put_accepted);
        }
    }

    fn interim(&self, head: ResponseHead) {
        self.exchange.note(|out| message::put_response(out, &head));
    }
}
