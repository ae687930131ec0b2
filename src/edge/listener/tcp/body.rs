//! Stage 1, bodies between hyper and the seam: lengths are checked, stalled clients given up, and an end is clean only if
//! it is one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::super::head::{self, BodyLength};
use super::activity::Active;
use super::stream::Phase;
use super::transport::Stall;
use crate::fault::{Fault, Kind, Side, Stage};

/// A request body of hyper in the seam's form.
pub(super) struct ClientBody {
    inner: Incoming,
    length: BodyLength,
    stall: Stall,
    ended: bool,
}

impl ClientBody {
    /// Checks `inner` against its `declared` length; gives up after `timeout` without a byte while one is waited for.
    pub(super) fn new(inner: Incoming, declared: Option<u64>, timeout: Duration) -> Self {
        Self { inner, length: BodyLength::new(declared), stall: Stall::new(timeout), ended: false }
    }

    fn judge(&mut self, item: Option<Result<Frame<Bytes>, hyper::Error>>) -> Option<Result<Frame<Bytes>, Fault>> {
        let malformed = Fault::bad_request(Stage::Listener, StatusCode::BAD_REQUEST);
        match item {
            None => self.length.finish().err().map(|_| Err(malformed)),
            Some(Err(error)) => Some(Err(fault_of(&error))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Some(self.length.count(data.len()).map(|()| Frame::data(data)).map_err(|_| malformed)),
                Err(frame) => match frame.into_trailers() {
                    Ok(_) if self.length.finish().is_err() => Some(Err(malformed)),
                    Ok(trailers) => Some(Ok(Frame::trailers(allowed_trailers(trailers)))),
                    Err(frame) => Some(Ok(frame)),
                },
            },
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(item) = Pin::new(&mut this.inner).poll_frame(cx) else {
            ready!(this.stall.poll_pending(cx));
            this.ended = true;
            let late = Kind::RequestError(StatusCode::REQUEST_TIMEOUT);
            return Poll::Ready(Some(Err(Fault::new(Stage::Listener, Side::Client, late))));
        };
        this.stall.progress();
        let judged = this.judge(item);
        this.ended = !matches!(judged, Some(Ok(_)));
        Poll::Ready(judged)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.inner.is_end_stream() && self.length.finish().is_ok())
    }

    fn size_hint(&self) -> SizeHint {
        self.length.left().map_or_else(|| self.inner.size_hint(), SizeHint::with_exact)
    }
}

/// A chunk that is none is the client's mistake; everything else means that the client or its connection went away.
fn fault_of(error: &hyper::Error) -> Fault {
    let broken = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match broken.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData) => {
            Fault::bad_request(Stage::Listener, StatusCode::BAD_REQUEST)
        }
        _ => Fault::client_gone(Stage::Listener),
    }
}

/// Trailers without fields that frame or route the message: a recipient may ignore those (RFC 9110 section 6.5.1).
fn allowed_trailers(mut trailers: HeaderMap) -> HeaderMap {
    let forbidden: Vec<_> = trailers.keys().filter(|name| head::is_forbidden_trailer(name)).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
    trailers
}

/// A response body on its way to hyper.
pub(super) struct AnswerBody<B> {
    content: Content<B>,
    active: Option<Active>,
    phase: Option<Phase>,
}

enum Content<B> {
    /// A short text of the listener's own, or nothing.
    Own(Bytes),
    /// The spine's, checked against its `content-length`.
    Spine(B, BodyLength),
    /// The spine's, which must have none (HEAD, 204, 304).
    Bare(B),
}

impl<B: Body<Data = Bytes, Error = Fault> + Unpin> AnswerBody<B> {
    /// `text` and nothing else.
    pub(super) fn own(text: Bytes) -> Self {
        Self { content: Content::Own(text), active: None, phase: None }
    }

    /// The spine's body. `bare`: the message has no content whatever its fields say (RFC 9110 section 6.4.1).
    pub(super) fn spine(body: B, declared: Option<u64>, bare: bool, mut active: Active) -> Self {
        let content = if bare { Content::Bare(body) } else { Content::Spine(body, BodyLength::new(declared)) };
        if content.is_whole() {
            active.complete();
        }
        Self { content, active: Some(active), phase: Phase::current() }
    }

    fn complete(&mut self) {
        if let Some(active) = &mut self.active {
            active.complete();
        }
    }
}

impl<B: Body<Data = Bytes, Error = Fault> + Unpin> Content<B> {
    fn is_end(&self) -> bool {
        match self {
            Self::Own(text) => text.is_empty(),
            Self::Spine(body, length) => body.is_end_stream() && length.finish().is_ok(),
            Self::Bare(body) => body.is_end_stream(),
        }
    }

    /// Whether the client has been given all there is: hyper asks HTTP/1.1 answers for no more than their length, and those
    /// without content for nothing.
    fn is_whole(&self) -> bool {
        match self {
            Self::Spine(_, length) if length.is_complete() => true,
            Self::Bare(_) => true,
            _ => self.is_end(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self {
            Self::Own(text) if text.is_empty() => Poll::Ready(None),
            Self::Own(text) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Self::Bare(body) => match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Err(fault)) => Poll::Ready(Some(Err(fault))),
                _ => Poll::Ready(None),
            },
            Self::Spine(body, length) => {
                let item = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(check(item, length))
            }
        }
    }
}

/// More or fewer bytes than declared are an error: the client must see the stream or connection break.
fn check(item: Option<Result<Frame<Bytes>, Fault>>, length: &mut BodyLength) -> Option<Result<Frame<Bytes>, Fault>> {
    let wrong = Fault::new(Stage::Listener, Side::Upstream, Kind::ResponseIncomplete);
    match item {
        None => length.finish().err().map(|_| Err(wrong)),
        Some(Ok(frame)) => {
            let judged = match frame.data_ref() {
                Some(data) => length.count(data.len()),
                None => length.finish(),
            };
            Some(judged.map(|()| frame).map_err(|_| wrong))
        }
        error => error,
    }
}

impl<B: Body<Data = Bytes, Error = Fault> + Unpin> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        let polled = this.content.poll(cx);
        if let Some(phase) = &this.phase {
            phase.next_frame(polled.is_ready());
        }
        if let Poll::Ready(item) = &polled {
            // After an error, too, it is not the client who cuts. hyper asks for nothing after trailers.
            let goes_on = matches!(item, Some(Ok(frame)) if frame.is_data());
            if !goes_on || this.content.is_whole() {
                this.complete();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(text) => SizeHint::with_exact(u64::try_from(text.len()).unwrap_or(u64::MAX)),
            Content::Spine(body, length) => length.left().map_or_else(|| body.size_hint(), SizeHint::with_exact),
            Content::Bare(_) => SizeHint::default(),
        }
    }
}
