//! Stage 1, HTTP/3: writes one response (RFC 9114 section 4.1): head and the first of the body together, the body in as few
//! writes as it allows, trailers, and a clean end only if every declared byte went. Called by `request`.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALT_SVC, CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame};
use quinn::{StoppedError, VarInt};

use super::body::Gate;
use super::qpack::encode;
use super::receive::End;
use super::send::{Abort, Sender};
use super::shared::Shared;
use crate::edge::listener::head::{self, BodyLength};
use crate::edge::listener::{Interim, Response};
use crate::fault::{Fault, Kind, Side, Stage};
use crate::fields;
use crate::tunnel::message::ResponseHead;

/// The client's STOP_SENDING, or the end of everything.
pub type Stopped<'a> = Pin<&'a mut (dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send)>;

/// What of the request decides the form of the response.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// HEAD: no body, whatever the fields say.
    pub head_only: bool,
    /// Extended CONNECT: a 2xx opens a tunnel.
    pub tunnel: bool,
}

/// What polls of [`Stopped`] that end the request mean.
pub fn ended(stopped: Result<Option<VarInt>, StoppedError>) -> End {
    match stopped {
        Ok(_) => End::Cancelled,
        Err(_) => End::Lost,
    }
}

/// Writes the whole response and ends the stream.
pub async fn respond<B>(
    sender: &mut Sender,
    shared: &Shared,
    gate: Option<&Gate>,
    response: Response<B>,
    form: Form,
    stopped: Stopped<'_>,
) -> Result<(), Abort>
where
    B: Body<Data = Bytes, Error = Fault> + Send + Unpin,
{
    let Response { mut head, mut body } = response;
    let plan = Plan::new(&mut head, form)?;
    if let Some(next) = shared.context.alt_svc.next() {
        head.headers.insert(ALT_SVC, next.clone());
    }
    let size = sender.headers(|out| encode::response(out, head.status, &head.headers));
    if size as u64 > shared.field_section_max.load(Ordering::Relaxed) {
        sender.clear();
        // The client would not take the head (RFC 9114 section 4.2.2).
        return answer(sender, shared, Kind::ResponseHeaderSectionSize).await;
    }
    drop(head);
    if plan.has_body {
        let writer = Writer { sender, shared, gate, length: BodyLength::new(plan.length), plan };
        pin!(writer.write(&mut body, stopped)).await?;
    }
    flush(sender, shared).await?;
    sender.finish();
    Ok(())
}

/// Writes an answer of the codec's own, without a body, and ends the stream.
pub async fn answer(sender: &mut Sender, shared: &Shared, kind: Kind) -> Result<(), Abort> {
    let fault = Fault::new(Stage::Listener, Side::Client, kind);
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    fields::add_date(&mut headers);
    fields::append_proxy_status(&mut headers, &shared.context.name, &fault);
    sender.headers(|out| encode::response(out, fault.status(), &headers));
    sender.flush().await?;
    sender.finish();
    Ok(())
}

/// How a response goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    has_body: bool,
    /// Declared length; its bytes go in one DATA frame.
    length: Option<u64>,
    /// A tunnel ends without trailers.
    tunnel: bool,
}

impl Plan {
    /// Takes away a content-length that must not be there (RFC 9110 section 8.6).
    fn new(head: &mut ResponseHead, form: Form) -> Result<Self, Abort> {
        const WRONG: Abort = Abort::Fault(Fault::internal(Stage::Listener, Side::Edge));
        if head.status.is_informational() {
            return Err(WRONG);
        }
        let tunnel = form.tunnel && head.status.is_success();
        if tunnel || head.status == StatusCode::NO_CONTENT {
            head.headers.remove(CONTENT_LENGTH);
        }
        let length = head::content_length(&head.headers).map_err(|_| WRONG)?;
        let bodyless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) && !tunnel;
        Ok(Self { has_body: !bodyless && !form.head_only, length, tunnel })
    }
}

/// What the body gave.
enum Next {
    Frame(Frame<Bytes>),
    End,
    NotYet,
}

struct Writer<'a> {
    sender: &'a mut Sender,
    shared: &'a Shared,
    gate: Option<&'a Gate>,
    length: BodyLength,
    plan: Plan,
}

impl Writer<'_> {
    /// Gathers what the body has ready and writes it together; waits only when nothing is left to write.
    async fn write<B>(mut self, body: &mut B, mut stopped: Stopped<'_>) -> Result<(), Abort>
    where
        B: Body<Data = Bytes, Error = Fault> + Send + Unpin,
    {
        if let Some(length @ 1..) = self.plan.length {
            self.sender.data_head(length);
        }
        loop {
            let idle = self.sender.is_empty();
            match std::future::poll_fn(|cx| poll_next(body, &mut stopped, idle, cx)).await? {
                Next::Frame(frame) => {
                    if self.take_frame(frame)? {
                        break;
                    }
                    if self.sender.is_full() {
                        self.flush().await?;
                    }
                }
                Next::NotYet => self.flush().await?,
                Next::End => break,
            }
        }
        self.length.finish().map_err(|_| WRONG_LENGTH)
    }

    /// Queues a frame of the body; true after the last.
    fn take_frame(&mut self, frame: Frame<Bytes>) -> Result<bool, Abort> {
        match frame.into_data() {
            Ok(data) if data.is_empty() => Ok(false),
            Ok(data) => {
                self.length.count(data.len()).map_err(|_| WRONG_LENGTH)?;
                if self.plan.length.is_none() {
                    self.sender.data_head(data.len() as u64);
                }
                self.sender.payload(data);
                Ok(false)
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers()
                    && !self.plan.tunnel
                {
                    self.sender.headers(|out| encode::trailers(out, &trailers));
                }
                Ok(true)
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Abort> {
        flush(self.sender, self.shared).await?;
        if let Some(gate) = self.gate {
            gate.progressed();
        }
        update_priority(self.sender, self.shared);
        Ok(())
    }
}

/// Writes what waits; the connection learns how much of a body went.
async fn flush(sender: &mut Sender, shared: &Shared) -> Result<(), Abort> {
    let bytes = sender.queued();
    sender.flush().await?;
    shared.count_written(bytes);
    Ok(())
}

/// The body and its declared length differ: the end must not look clean.
const WRONG_LENGTH: Abort = Abort::Fault(Fault::new(Stage::Listener, Side::Upstream, Kind::ResponseIncomplete));

/// The body's next frame; with `wait` it may be pending, otherwise that is [`Next::NotYet`].
fn poll_next<B>(body: &mut B, stopped: &mut Stopped<'_>, wait: bool, cx: &mut Context<'_>) -> Poll<Result<Next, Abort>>
where
    B: Body<Data = Bytes, Error = Fault> + Unpin,
{
    match Pin::new(body).poll_frame(cx) {
        Poll::Ready(None) => Poll::Ready(Ok(Next::End)),
        Poll::Ready(Some(Ok(frame))) => Poll::Ready(Ok(Next::Frame(frame))),
        Poll::Ready(Some(Err(fault))) => Poll::Ready(Err(Abort::Fault(fault))),
        Poll::Pending if !wait => Poll::Ready(Ok(Next::NotYet)),
        Poll::Pending => stopped.as_mut().poll(cx).map(|stopped| Err(ended(stopped).into())),
    }
}

/// Applies a PRIORITY_UPDATE that came for this stream.
pub fn update_priority(sender: &mut Sender, shared: &Shared) {
    let id = sender.id();
    if let Some(priority) = shared.updates.take(id, sender.updates_seen()) {
        // An error here means that the stream is gone already.
        let _ = sender.stream().set_priority(priority);
    }
}

/// Sends interim responses on a request stream.
pub struct H3Interim<'a>(pub &'a mut Sender);

impl Interim for H3Interim<'_> {
    async fn send(&mut self, head: ResponseHead) {
        // 101 has no meaning in HTTP/3 (RFC 9114 section 4.5).
        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        self.0.headers(|out| encode::response(out, head.status, &head.headers));
        // A client that is gone is noticed by the request's task.
        let _ = self.0.flush().await;
    }
}
