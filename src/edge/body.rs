//! The response body on its way to the listener: of an exchange, or of an answer the edge made itself. Holds the
//! request's record, so that the record ends when the body does.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::filter::Permit;
use crate::fault::{Fault, Kind, Side, Stage};
use crate::observe::record::Record;
use crate::tunnel::exchange::{Event, ExchangeReader};

enum Source {
    Done,
    Full(Bytes),
    Exchange(ExchangeReader),
}

/// See the module. Dropping it before its end cancels the exchange and records that the client went away.
pub struct ResponseBody {
    source: Source,
    record: Option<Record>,
    total: Option<Pin<Box<Sleep>>>,
    _permit: Option<Permit>,
}

impl ResponseBody {
    /// The body that follows on an exchange.
    pub fn exchange(reader: ExchangeReader, permit: Option<Permit>) -> Self {
        Self { source: Source::Exchange(reader), record: None, total: None, _permit: permit }
    }

    /// A body that is there.
    pub fn full(body: Bytes) -> Self {
        Self { source: Source::Full(body), record: None, total: None, _permit: None }
    }

    /// Ties the request's record to the body, and bounds it in time, if `total_timeout` says so.
    pub fn recorded(mut self, record: Record, total_timeout: Option<Duration>) -> Self {
        let deadline = total_timeout.map(|timeout| crate::clock::now() + timeout.saturating_sub(record.age()));
        self.total = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into())));
        self.record = Some(record);
        self
    }

    fn finish(&mut self) {
        self.source = Source::Done;
        if let Some(record) = self.record.take() {
            record.finish();
        }
    }

    fn data(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Some(record) = &mut self.record {
            record.sent(data.len() as u64);
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
            Source::Exchange(reader) => {
                let event = std::task::ready!(reader.poll_next(cx));
                this.poll_event(event)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Done) && self.record.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Done => SizeHint::with_exact(0),
            Source::Full(body) => SizeHint::with_exact(body.len() as u64),
            Source::Exchange(_) => SizeHint::default(),
        }
    }
}
