//! The response body on its way to the listener: of an exchange, or of an answer the edge made itself. Holds the
//! request's record, so that the record ends when the body does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::dispatch::continuation::Continuation;
use super::dispatch::{Dispatch, Outbound};
use super::filter::Permit;
use crate::clock;
use crate::fault::{Fault, Kind, Retry, Side, Stage};
use crate::observe::event::{Event as Told, What};
use crate::observe::record::Record;
use crate::tunnel::exchange::{Event, ExchangeReader};

enum Source {
    Done,
    Full(Bytes),
    Exchange(ExchangeReader),
    Continuing(Pin<Box<dyn Future<Output = Result<ExchangeReader, Fault>> + Send>>),
}

/// What it takes to go on with a response elsewhere, should its gateway be lost.
pub struct Rest {
    dispatch: Arc<Dispatch>,
    outbound: Outbound,
    continuation: Continuation,
    sent: u64,
}

impl Rest {
    /// For the response to `outbound`.
    pub fn new(dispatch: &Arc<Dispatch>, outbound: Outbound, continuation: Continuation) -> Box<Self> {
        Box::new(Self { dispatch: dispatch.clone(), outbound, continuation, sent: 0 })
    }

    /// Asks another gateway for the rest, or `None` if there is none or that cannot be exact.
    fn go_on(
        &mut self,
        from: Arc<str>,
    ) -> Option<impl Future<Output = Result<ExchangeReader, Fault>> + Send + 'static> {
        if !self.continuation.ask(&mut self.outbound.head, self.sent) {
            return None;
        }
        let (dispatch, sent, continuation) = (self.dispatch.clone(), self.sent, self.continuation.clone());
        let outbound = self.outbound.clone();
        let lost = clock::now();
        Some(async move {
            let (head, reader) = dispatch.send_rest(&outbound).await?;
            match continuation.fits(&head, sent) {
                true => {
                    let (to, took) = (reader.exchange().peer().node(), clock::now().saturating_duration_since(lost));
                    let why = format!("from byte {sent} on");
                    dispatch.events.emit(&Told { from: &from, to, took, why: &why, ..Told::new(What::Continuation) });
                    Ok(reader)
                }
                false => Err(Fault::new(Stage::Dispatch, Side::Upstream, Kind::ResponseIncomplete)),
            }
        })
    }
}

/// See the module. Dropping it before its end cancels the exchange and records that the client went away.
pub struct ResponseBody {
    source: Source,
    rest: Option<Box<Rest>>,
    record: Option<Box<Record>>,
    total: Option<Pin<Box<Sleep>>>,
    _permit: Option<Permit>,
}

impl ResponseBody {
    /// The body that follows on an exchange; with `rest` it can go on through another gateway.
    pub fn exchange(reader: ExchangeReader, rest: Option<Box<Rest>>, permit: Option<Permit>) -> Self {
        reader.set_impatient(rest.is_some());
        Self { source: Source::Exchange(reader), rest, record: None, total: None, _permit: permit }
    }

    /// A body that is there.
    pub fn full(body: Bytes) -> Self {
        Self { source: Source::Full(body), rest: None, record: None, total: None, _permit: None }
    }

    /// Ties the request's record to the body, and bounds it in time, if `total_timeout` says so. What is there already
    /// needs no bound: it may be the answer that tells of the timeout.
    pub fn recorded(mut self, record: Box<Record>, total_timeout: Option<Duration>) -> Self {
        let total_timeout = total_timeout.filter(|_| matches!(self.source, Source::Exchange(_)));
        let deadline = total_timeout.map(|timeout| clock::now() + timeout.saturating_sub(record.age()));
        self.total = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into())));
        self.record = Some(record);
        self
    }

    fn finish(&mut self) {
        self.source = Source::Done;
        if let Some(mut record) = self.record.take() {
            record.set_finished();
        }
    }

    fn data(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Some(record) = &mut self.record {
            record.sent(data.len() as u64);
        }
        if let Some(rest) = &mut self.rest {
            rest.sent += data.len() as u64;
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn fail(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Some(record) = &mut self.record {
            record.fault(&fault);
        }
        self.finish();
        Poll::Ready(Some(Err(fault)))
    }

    /// The gateway is lost: goes on through another one where that is exact, waits for it otherwise.
    fn go_on(&mut self, fault: Fault) {
        let Source::Exchange(reader) = &self.source else { return };
        let (waiting, service) = (reader.is_waiting(), self.rest.as_ref().map(|rest| rest.outbound.service));
        let other = |rest: &Rest| service.is_some_and(|service| rest.dispatch.has_other(service, reader));
        let next = match &mut self.rest {
            Some(rest) if !waiting || other(rest) => rest.go_on(reader.exchange().peer().node().clone()),
            _ => None,
        };
        match next {
            Some(next) => self.source = Source::Continuing(Box::pin(next)),
            None if waiting => reader.set_impatient(false),
            None => {
                self.rest = None;
                self.source = Source::Continuing(Box::pin(std::future::ready(Err(fault))));
            }
        }
    }

    fn poll_event(&mut self, event: Result<Event, Fault>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match event {
            Ok(Event::Body(data)) => self.data(data),
            Ok(Event::End(trailers)) => {
                self.finish();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Ok(_) => self.fail(Fault::new(Stage::Tunnel, Side::Gateway, Kind::ProtocolError)),
            Err(fault) => self.fail(fault),
        }
    }
}

impl Drop for ResponseBody {
    /// Whoever knows a body's length, as HTTP/1.1 does, does not ask for its end: one that is there is taken.
    fn drop(&mut self) {
        if let Source::Exchange(reader) = &mut self.source
            && let Poll::Ready(Ok(Event::End(_))) = reader.poll_next(&mut Context::from_waker(Waker::noop()))
        {
            self.finish();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        if let Some(total) = &mut this.total
            && total.as_mut().poll(cx).is_ready()
        {
            this.total = None;
            return this.fail(Fault::new(Stage::Dispatch, Side::Upstream, Kind::ResponseTimeout));
        }
        match &mut this.source {
            Source::Done => {
                this.finish();
                Poll::Ready(None)
            }
            Source::Full(body) => {
                let body = std::mem::take(body);
                this.source = Source::Done;
                this.data(body)
            }
            Source::Exchange(reader) => match std::task::ready!(reader.poll_next(cx)) {
                Err(fault) if fault.retry == Retry::Idempotent && this.rest.is_some() => {
                    this.go_on(fault);
                    // The new source, or the same one more patiently.
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                event => this.poll_event(event),
            },
            Source::Continuing(rest) => match std::task::ready!(rest.as_mut().poll(cx)) {
                Ok(reader) => {
                    reader.set_impatient(true);
                    this.source = Source::Exchange(reader);
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Err(fault) => this.fail(fault),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Done) && self.record.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Done => SizeHint::with_exact(0),
            Source::Full(body) => SizeHint::with_exact(body.len() as u64),
            Source::Exchange(_) | Source::Continuing(_) => SizeHint::default(),
        }
    }
}
