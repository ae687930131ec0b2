//! Stage 1, HTTP/3: one request stream from its first byte to the acknowledgement of its last. One task each, spawned by
//! `connection`; owns both halves of the stream and ends each of them with the code that RFC 9114 asks for.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::{Method, StatusCode};
use tracing::trace;

use super::body::{Body, Gate};
use super::code::{Code, Error};
use super::fields::{self, Head, Refusal};
use super::priority;
use super::receive::{Batch, End, Receiver};
use super::respond::{self, Form, H3Interim, Stopped};
use super::send::{Abort, Sender};
use super::shared::{Active, Shared};
use crate::clock;
use crate::edge::listener::head::mark_early;
use crate::edge::listener::{Request, RequestBody, Serve};
use crate::fault::Kind;
use crate::quic::{RecvStream, SendStream};

/// Serves the request on one stream.
pub async fn run<S: Serve>(shared: Arc<Shared>, active: Active, send: SendStream, receive: RecvStream, serve: S) {
    let mut stopped = pin!(send.stopped());
    let mut exchange = Exchange {
        sender: Sender::new(send, shared.context.limits.body_timeout),
        receiver: Some(Receiver::new(receive, shared.context.limits.field_section_max)),
        gate: None,
        started: clock::now(),
        shared: &shared,
    };
    // `total_timeout` is the spine's, which answers 504 where there is no head yet.
    let outcome = { pin!(exchange.serve(serve, stopped.as_mut())).await };
    if exchange.settle(outcome) {
        exchange.linger(stopped.as_mut()).await;
    }
    drop(active);
}

/// One request with its response.
struct Exchange<'a> {
    shared: &'a Arc<Shared>,
    sender: Sender,
    /// Until the body takes it.
    receiver: Option<Receiver>,
    /// Once there is a body.
    gate: Option<Arc<Gate>>,
    started: Instant,
}

impl Exchange<'_> {
    async fn serve<S: Serve>(&mut self, serve: S, mut stopped: Stopped<'_>) -> Result<(), Abort> {
        let batch = self.read_head().await?;
        let (head, batch) = match self.check_head(batch) {
            Ok(checked) => checked,
            Err(Refusal::Error(error)) => return Err(End::Error(error).into()),
            Err(Refusal::Answer(status)) => return self.refuse(status).await,
        };
        if head.priority != priority::DEFAULT {
            // An error here means that the stream is gone already.
            let _ = self.sender.stream().set_priority(head.priority);
        }
        respond::update_priority(&mut self.sender, self.shared);
        let form = Form { head_only: head.head.method == Method::HEAD, tunnel: head.head.protocol.is_some() };
        let request = self.make_request(head, batch)?;
        let mut interim = H3Interim(&mut self.sender);
        let response = {
            // Pinned here: awaited directly, futures of this size are copied twice first.
            let serving = pin!(serve.serve(request, &mut interim));
            tokio::select! {
                biased;
                response = serving => response,
                stopped = &mut stopped => return Err(respond::ended(stopped).into()),
            }
        };
        pin!(respond::respond(&mut self.sender, self.shared, self.gate.as_deref(), response, form, stopped)).await
    }

    /// Reads until the head is there, or was too large to be kept.
    async fn read_head(&mut self) -> Result<Batch, End> {
        let Some(receiver) = &mut self.receiver else { return Err(End::Lost) };
        let reading = std::future::poll_fn(|cx| {
            loop {
                match std::task::ready!(receiver.poll_batch(cx)) {
                    Ok(batch) if batch.head.is_none() && !batch.too_large => {}
                    done => return Poll::Ready(done),
                }
            }
        });
        let mut batch = tokio::time::timeout(self.shared.context.limits.header_timeout, reading)
            .await
            .map_err(|_| Error::Stream(Code::REQUEST_INCOMPLETE, "head took too long"))??;
        if batch.data.is_none() && batch.trailers.is_none() {
            // Most requests end with their head, and then quinn knows that already.
            let more = std::future::poll_fn(|cx| Poll::Ready(receiver.poll_batch(cx))).await;
            if let Poll::Ready(more) = more {
                let more = more?;
                batch = Batch { head: batch.head, too_large: batch.too_large || more.too_large, ..more };
            }
        }
        Ok(batch)
    }

    fn check_head(&self, mut batch: Batch) -> Result<(Head, Batch), Refusal> {
        let Some(section) = batch.head.take() else {
            return Err(Refusal::Answer(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        };
        let mut head = fields::request(section, &self.shared.context.limits)?;
        if self.receiver.as_ref().is_some_and(Receiver::is_early) {
            if !head.head.method.is_safe() {
                // A replayed flight must change nothing (RFC 8470 section 5.2).
                return Err(Refusal::Answer(StatusCode::TOO_EARLY));
            }
            mark_early(&mut head.head.headers);
        }
        Ok((head, batch))
    }

    fn make_request(&mut self, head: Head, batch: Batch) -> Result<Request, End> {
        let Head { head, length, .. } = head;
        let Some(receiver) = self.receiver.take() else { return Err(End::Lost) };
        let empty = receiver.is_ended() && batch.data.is_none() && batch.trailers.is_none() && !batch.too_large;
        let body = if empty {
            if length.is_some_and(|length| length > 0) {
                return Err(Error::malformed("body shorter than content-length").into());
            }
            RequestBody::Empty
        } else {
            let gate = Arc::clone(self.gate.insert(Arc::default()));
            RequestBody::Stream(Box::pin(Body::new(
                receiver,
                batch,
                self.shared,
                length,
                head.protocol.is_some(),
                gate,
            )?))
        };
        Ok(Request { head, body, client: Arc::clone(&self.shared.client), started: self.started })
    }

    /// Answers without the spine; the rest of the request is not wanted.
    async fn refuse(&mut self, status: StatusCode) -> Result<(), Abort> {
        self.shared.context.metrics.refused.inc();
        respond::answer(&mut self.sender, self.shared, Kind::RequestError(status)).await?;
        if let Some(receiver) = self.receiver.take() {
            receiver.stop(Code::NO_ERROR);
        }
        Ok(())
    }

    /// Ends both halves; true if the response was complete.
    fn settle(&mut self, outcome: Result<(), Abort>) -> bool {
        let code = match outcome {
            Ok(()) => Code::NO_ERROR,
            Err(Abort::End(End::Lost)) => Code::REQUEST_CANCELLED,
            Err(Abort::End(End::Cancelled)) => {
                match &self.gate {
                    Some(gate) => gate.count_cancel(self.shared),
                    None => Gate::default().count_cancel(self.shared),
                }
                Code::REQUEST_CANCELLED
            }
            Err(Abort::End(End::Error(error))) => {
                trace!(client = %self.shared.client.address, %error, "malformed request");
                self.shared.context.metrics.malformed.inc();
                let code = self.shared.escalate(error);
                self.shared.count_reset();
                code
            }
            Err(Abort::Fault(fault)) => {
                self.shared.context.metrics.aborted.inc();
                Code::of_fault(&fault)
            }
        };
        if outcome.is_err() {
            self.sender.reset(code);
        }
        if let Some(gate) = &self.gate {
            gate.answered(code);
        }
        if let Some(receiver) = self.receiver.take() {
            receiver.stop(code);
        }
        outcome.is_ok()
    }

    /// Waits until the client has the response, so that a drain does not close the connection under it. A client that takes
    /// nothing for long loses it.
    async fn linger(&mut self, mut stopped: Stopped<'_>) {
        let mut frames = None;
        loop {
            match tokio::time::timeout(self.shared.context.limits.body_timeout, &mut stopped).await {
                Ok(Ok(None)) | Ok(Err(_)) => return,
                Ok(Ok(Some(_))) => {
                    self.shared.context.metrics.cancelled.inc();
                    self.shared.count_reset();
                    return self.sender.reset(Code::REQUEST_CANCELLED);
                }
                Err(_) => {
                    // quinn does not tell how far a stream is, only whether the connection still sends stream data.
                    let now = self.shared.quinn.stats().frame_tx.stream;
                    if frames.replace(now) == Some(now) {
                        return self.sender.reset(Code::REQUEST_CANCELLED);
                    }
                }
            }
        }
    }
}
