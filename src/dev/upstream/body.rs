//! Response bodies of the built-in upstream: one boxed type, and the few shapes that are not whole in memory.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::fs::File;
use tokio::time::{Instant, Sleep};

/// Why a body was cut.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// Any response body.
pub type AnyBody = UnsyncBoxBody<Bytes, BodyError>;

/// Bytes read from a file at once.
const PIECE: usize = 64 << 10;

/// No body.
pub fn empty() -> AnyBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is whole in memory.
pub fn full(bytes: impl Into<Bytes>) -> AnyBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body followed by trailers. Its length is not announced: HTTP/1.1 has trailers only in the chunked coding.
pub fn with_trailers(bytes: impl Into<Bytes>, trailers: HeaderMap) -> AnyBody {
    let frames = [Ok(Frame::data(bytes.into())), Ok(Frame::trailers(trailers))];
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// Part of a file, read as the client takes it. A file that became shorter cuts the body.
pub struct FileBody {
    file: File,
    left: u64,
    buffer: BytesMut,
}

impl FileBody {
    /// `length` bytes from where `file` stands.
    pub fn new(mut file: File, length: u64) -> Self {
        file.set_max_buf_size(PIECE);
        Self { file, left: length, buffer: BytesMut::new() }
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let most = usize::try_from(this.left).unwrap_or(PIECE).min(PIECE);
        this.buffer.reserve(most);
        let mut limited = bytes::BufMut::limit(&mut this.buffer, most);
        let n = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut this.file), cx, &mut limited))?;
        if n == 0 {
            return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())));
        }
        this.left -= n as u64;
        Poll::Ready(Some(Ok(Frame::data(this.buffer.split().freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Pieces at a steady pace: the first at once, each next one `interval` after the one before was due.
pub struct Paced<F> {
    piece: F,
    next: u64,
    count: Option<u64>,
    interval: Duration,
    due: Pin<Box<Sleep>>,
}

impl<F: FnMut(u64) -> Bytes> Paced<F> {
    /// `count` pieces (without end if none), made by `piece` from their number.
    pub fn new(count: Option<u64>, interval: Duration, piece: F) -> Self {
        Self { piece, next: 0, count, interval, due: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }
}

impl<F: FnMut(u64) -> Bytes + Unpin> Body for Paced<F> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        ready!(self.due.as_mut().poll(cx));
        let due: Instant = self.due.deadline() + self.interval;
        self.due.as_mut().reset(due);
        let number = self.next;
        self.next += 1;
        Poll::Ready(Some(Ok(Frame::data((self.piece)(number)))))
    }

    fn is_end_stream(&self) -> bool {
        self.count.is_some_and(|count| self.next >= count)
    }
}

/// A body that breaks where it should go on.
pub struct Cut<B> {
    inner: B,
    pause: Option<Pin<Box<Sleep>>>,
}

/// Between the last byte and the break: hyper drops what it has not yet written when a body breaks.
const CUT_PAUSE: Duration = Duration::from_millis(50);

impl<B> Cut<B> {
    /// `inner`, then an error instead of the end.
    pub fn after(inner: B) -> Self {
        Self { inner, pause: None }
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Body for Cut<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            return Poll::Ready(Some(frame));
        }
        let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(CUT_PAUSE)));
        ready!(pause.as_mut().poll(cx));
        Poll::Ready(Some(Err("the body was asked to be cut".into())))
    }
}
