//! Stage 8: a response on its way from an upstream, checked.
//!
//! Upstreams lie too: connection-specific fields are removed, unasked upgrades refused, limits kept, and the bytes
//! counted, so that a cut body ends with an error and never looks complete. The body holds the lease of its connection
//! and gives it back at its end; dropped earlier it cancels the request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::errors;
use super::lease::Lease;
use super::metrics::UpstreamMetrics;
use super::switched::Received;
use super::watch::Watch;
use crate::fault::{Fault, Kind, Side, Stage};
use crate::fields;
use crate::tunnel::message::ResponseHead;

/// Media types whose bodies may be silent for as long as they like. Their connections are watched by TCP keep-alive
/// and HTTP/2 PING instead, which find a dead host, if not a hanging program.
const EVENT_STREAMS: [&[u8]; 4] =
    [b"text/event-stream", b"application/grpc", b"application/x-ndjson", b"multipart/x-mixed-replace"];

/// Checks a head and makes it fit to go on.
///
/// # Errors
/// `http_response_header_section_size` for too many fields; `http_protocol_error` for an unasked 101.
pub(super) fn check_head(response: Response<Incoming>, fields_max: usize) -> Result<(ResponseHead, Incoming), Fault> {
    let (parts, body) = response.into_parts();
    let mut headers = parts.headers;
    if headers.len() > fields_max {
        return Err(Fault::new(Stage::Upstream, Side::Upstream, Kind::ResponseHeaderSectionSize));
    }
    if parts.status.is_informational() {
        return Err(Fault::new(Stage::Upstream, Side::Upstream, Kind::ProtocolError));
    }
    // RFC 9112 section 6.3: Transfer-Encoding overrides, and a length beside it must not go on.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    fields::strip_hop_by_hop(&mut headers);
    Ok((ResponseHead { status: parts.status, headers }, body))
}

/// The bytes that a body must have, if its head says (RFC 9110 section 8.6).
fn announced(method: &Method, head: &ResponseHead) -> Option<u64> {
    if method == Method::HEAD || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Some(0);
    }
    head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a body must keep coming.
fn is_steady(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    !EVENT_STREAMS.iter().any(|stream| media_type.get(..stream.len()).is_some_and(|m| m.eq_ignore_ascii_case(stream)))
}

enum Source {
    Http(Incoming),
    Switched(Received),
    Ended,
}

/// A response body, or the bytes from the upstream after an upgrade.
pub struct UpstreamBody {
    source: Source,
    /// Gone once the connection was given back.
    lease: Option<Lease>,
    remaining: Option<u64>,
    watch: Watch,
    metrics: Arc<UpstreamMetrics>,
}

impl UpstreamBody {
    /// The body of a response to a request with `method`.
    pub(super) fn new(
        incoming: Incoming,
        head: &ResponseHead,
        method: &Method,
        lease: Lease,
        mut watch: Watch,
    ) -> Self {
        let metrics = lease.pool().metrics.clone();
        watch.handle_head(is_steady(&head.headers));
        let remaining = announced(method, head);
        let mut body = Self { source: Source::Http(incoming), lease: Some(lease), remaining, watch, metrics };
        if body.is_end_stream() {
            // A short body that hyper already knows to be over is found at the first poll.
            body.settle_if_complete();
        }
        body
    }

    /// The bytes from the upstream after an upgrade.
    pub(super) fn switched(received: Received, watch: Watch, metrics: Arc<UpstreamMetrics>) -> Self {
        Self { source: Source::Switched(received), lease: None, remaining: None, watch, metrics }
    }

    /// The connection serves another request, if this one is complete; otherwise it is broken off.
    fn settle(&mut self) {
        self.source = Source::Ended;
        let Some(lease) = self.lease.take() else { return };
        if self.watch.progress().is_sent() {
            lease.give_back();
        } else {
            // Answered before the request was read. As nginx and Envoy do, the rest is not sent.
            self.watch.progress().abort();
        }
    }

    fn settle_if_complete(&mut self) {
        if self.remaining.unwrap_or(0) == 0 {
            self.settle();
        }
    }

    fn fail(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.metrics.count_fault(&fault);
        self.break_off();
        Poll::Ready(Some(Err(fault)))
    }

    fn break_off(&mut self) {
        self.source = Source::Ended;
        self.watch.progress().abort();
        self.lease = None;
    }

    fn handle_frame(&mut self, mut frame: Frame<Bytes>) -> Result<Frame<Bytes>, Fault> {
        if let Some(trailers) = frame.trailers_mut() {
            fields::strip_hop_by_hop(trailers);
        }
        if let (Some(data), Some(remaining)) = (frame.data_ref(), &mut self.remaining) {
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            *remaining = remaining.checked_sub(length).ok_or_else(|| errors::in_body(self.watch.progress()))?;
        }
        self.watch.handle_progress();
        Ok(frame)
    }

    /// What hyper calls the end: only one that the protocol marked, with all announced bytes, is one.
    fn handle_end(&mut self) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Source::Http(incoming) = &self.source else { return Poll::Ready(None) };
        let multiplexed = self.lease.as_ref().is_some_and(Lease::is_multiplexed);
        // hyper also ends an HTTP/2 body that was reset with NO_ERROR: END_STREAM tells them apart.
        let marked = !multiplexed || incoming.is_end_stream();
        if !marked || self.remaining.unwrap_or(0) > 0 {
            return self.fail(errors::in_body(self.watch.progress()));
        }
        self.settle();
        Poll::Ready(None)
    }

    fn poll_http(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Source::Http(incoming) = &mut self.source else { return Poll::Ready(None) };
        let frame = match Pin::new(incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(_))) => return self.fail(errors::in_body(self.watch.progress())),
            Poll::Ready(None) => return self.handle_end(),
            Poll::Pending => {
                return match self.watch.poll(cx) {
                    Poll::Ready(fault) => self.fail(fault),
                    Poll::Pending => Poll::Pending,
                };
            }
        };
        match self.handle_frame(frame) {
            Ok(frame) => {
                if self.is_end_stream() {
                    self.settle_if_complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Err(fault) => self.fail(fault),
        }
    }

    fn poll_switched(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Source::Switched(received) = &mut self.source else { return Poll::Ready(None) };
        match received.poll_bytes(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(bytes))) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Poll::Ready(Ok(None)) => {
                // The other direction ends by itself, in its own task.
                self.source = Source::Ended;
                Poll::Ready(None)
            }
            Poll::Ready(Err(fault)) => self.fail(fault),
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        match &this.source {
            Source::Http(_) => this.poll_http(cx),
            Source::Switched(_) => this.poll_switched(cx),
            Source::Ended => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Http(incoming) => incoming.is_end_stream() && self.remaining.unwrap_or(0) == 0,
            Source::Switched(_) => false,
            Source::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.source, self.remaining) {
            (Source::Ended, _) => SizeHint::with_exact(0),
            (Source::Http(_), Some(remaining)) => SizeHint::with_exact(remaining),
            (Source::Http(_) | Source::Switched(_), _) => SizeHint::default(),
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        if matches!(self.source, Source::Http(_)) {
            self.break_off();
        }
    }
}
