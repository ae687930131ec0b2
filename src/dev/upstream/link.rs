//! One connection of the built-in upstream: tells HTTP/2 from HTTP/1.1 by the first bytes and runs hyper on it.
//!
//! Called by the accept loop. Owns the socket; ends gracefully on drain.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::routes::Routes;
use crate::task::Tasks;

/// A connection being served.
pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// For the first bytes of a connection, and for each request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Fields of a request; above what any edge lets through.
const FIELDS_MAX: usize = 512;
/// Field section over HTTP/2, bytes.
const FIELD_SECTION_MAX: u32 = 256 << 10;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const STREAMS_MAX: u32 = 1_024;

/// Serves `stream` until it ends.
pub fn serve<S>(mut stream: S, routes: Arc<Routes>, tasks: Tasks) -> Serving
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Box::pin(async move {
        let Ok(Ok((prefix, is_http2))) = tokio::time::timeout(HEADER_TIMEOUT, detect(&mut stream)).await else {
            return;
        };
        let interim = Interim::default();
        let io = TokioIo::new(Link { prefix, inner: stream, interim: interim.clone() });
        let ended =
            if is_http2 { serve_http2(io, routes, tasks).await } else { serve_http1(io, routes, tasks, interim).await };
        if let Err(error) = ended {
            tracing::debug!(%error, "upstream connection ended");
        }
    })
}

/// Reads until the preface is complete or can no longer match.
async fn detect<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(Bytes, bool)> {
    let mut read = BytesMut::with_capacity(PREFACE.len());
    loop {
        let n = read.len().min(PREFACE.len());
        if read.get(..n) != PREFACE.get(..n) {
            return Ok((read.freeze(), false));
        }
        if n == PREFACE.len() {
            return Ok((read.freeze(), true));
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn serve_http1<S>(io: TokioIo<Link<S>>, routes: Arc<Routes>, tasks: Tasks, interim: Interim) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let owner = tasks.clone();
    let service = service_fn(move |request| {
        let (routes, tasks, interim) = (routes.clone(), owner.clone(), interim.clone());
        async move { routes.answer(request, Some(interim), tasks).await }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_headers(FIELDS_MAX);
    let connection = builder.serve_connection(io, service).with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = tasks.draining() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn serve_http2<S>(io: TokioIo<Link<S>>, routes: Arc<Routes>, tasks: Tasks) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let owner = tasks.clone();
    let service = service_fn(move |request| {
        let (routes, tasks) = (routes.clone(), owner.clone());
        async move { routes.answer(request, None, tasks).await }
    });
    let mut builder = http2::Builder::new(Spawn(tasks.clone()));
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(FIELD_SECTION_MAX)
        .enable_connect_protocol();
    let connection = builder.serve_connection(io, service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = tasks.draining() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Gives hyper's HTTP/2 streams an owner.
#[derive(Clone)]
struct Spawn(Tasks);

impl<F> hyper::rt::Executor<F> for Spawn
where
    F: Future + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(async move {
            future.await;
        });
    }
}

/// Interim (1xx) responses for an HTTP/1.1 connection. hyper's server cannot send them, but it writes nothing between
/// a request head and its response head (100 Continue apart, which is interim too), so bytes that go out ahead of
/// hyper's next write or flush are in the right place.
#[derive(Clone, Default)]
pub struct Interim(Arc<Mutex<BytesMut>>);

impl Interim {
    /// Queues one interim response; hyper flushes after each poll of the handler, so it leaves at once.
    pub fn send(&self, head: &[u8]) {
        self.0.lock().extend_from_slice(head);
    }
}

/// A socket with the bytes that detection already took, and with interim responses to put in.
struct Link<S> {
    prefix: Bytes,
    inner: S,
    interim: Interim,
}

impl<S: AsyncWrite + Unpin> Link<S> {
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queued = self.interim.0.lock();
        while !queued.is_empty() {
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, &queued))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            queued.advance(n);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Link<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Link<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
