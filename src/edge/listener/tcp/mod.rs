//! Stage 1, HTTP/2 and HTTP/1.1 over TLS: accept, handshake, and hyper's connection with the limits it lacks.
//!
//! Called once per worker and client address. Owns the connections' tasks. Protocol rules beyond hyper's are in
//! `request`, `body` and `upgrade`.

mod activity;
mod body;
mod connection;
mod gather;
mod pieces;
mod records;
mod request;
mod stream;
mod transport;
mod upgrade;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use self::activity::{Activity, Verdict};
use self::connection::Connection;
use self::gather::{Flushing, gather};
use self::records::Records;
use self::stream::StreamExecutor;
use self::transport::Transport;
use super::admission::{Admission, Permit};
use super::alt_svc::AltSvc;
use super::metrics::ListenerMetrics;
use super::parting::Parting;
use super::{Client, Protocol, Serve};
use crate::clock;
use crate::config::Limits;
use crate::task::Tasks;

/// After an error of accept(2), such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// h2 closes connections with many small DATA frames in flight below this connection window.
const CONNECTION_WINDOW_MIN: u32 = 4 << 20;
/// hyper's read and write buffer of an HTTP/1.1 connection.
const HTTP1_BUFFER_MIN: usize = 64 << 10;
/// Bytes of one HTTP/2 stream that wait for the socket: one piece of a body.
const STREAM_BUFFER_MIN: usize = 64 << 10;

/// Everything the accept loop of one worker needs besides its socket. Cheap to clone.
#[derive(Clone)]
pub struct TcpListener {
    /// This PoP's name, for `Proxy-Status`.
    pub name: Arc<str>,
    /// Bounds.
    pub limits: Arc<Limits>,
    /// Connections and handshakes of this worker.
    pub admission: Admission,
    /// Counters.
    pub metrics: ListenerMetrics,
    /// Owner of the connections; its signals end the loop.
    pub tasks: Tasks,
    /// What answers announce.
    pub alt_svc: AltSvc,
    /// When a connection hears of a drain.
    pub parting: Parting,
    /// [`super::tls::tcp_config`].
    pub tls: Arc<rustls::ServerConfig>,
}

/// Accepts connections until drain begins, then waits for the last one to end.
///
/// # Errors
/// When the socket cannot be registered with the runtime.
pub async fn serve_tcp<S: Serve>(
    socket: std::net::TcpListener,
    mut listener: TcpListener,
    serve: S,
) -> std::io::Result<()> {
    let socket = tokio::net::TcpListener::from_std(socket)?;
    let local = socket.local_addr()?;
    listener.tasks = listener.tasks.child();
    loop {
        // Not biased: what the kernel has already accepted is served even while drain begins.
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = listener.tasks.draining() => break,
        };
        if let Err(error) = accepted.map(|accepted| listener.take(accepted, local, &serve)) {
            listener.metrics.accept_errors.inc();
            tracing::warn!(%local, %error, "accept failed");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
    listener.alt_svc.drain();
    // Closing the socket resets connections in its queue: empty it first.
    while let Poll::Ready(Ok(accepted)) = poll_fn(|cx| Poll::Ready(socket.poll_accept(cx))).await {
        listener.take(accepted, local, &serve);
    }
    drop(socket);
    listener.tasks.wait().await;
    Ok(())
}

impl TcpListener {
    fn take<S: Serve>(&self, (tcp, address): (TcpStream, SocketAddr), local: SocketAddr, serve: &S) {
        match self.admission.admit(address.ip()) {
            Ok((place, handshake)) => {
                let local = tcp.local_addr().unwrap_or(local);
                let serve = serve.clone();
                self.tasks.spawn(self.clone().run(tcp, (address, local), (place, handshake), serve));
            }
            Err(refusal) => self.metrics.refuse(refusal),
        }
    }

    /// The life of one connection.
    async fn run<S: Serve>(
        self,
        tcp: TcpStream,
        (address, local): (SocketAddr, SocketAddr),
        (place, handshake): (Permit, Permit),
        serve: S,
    ) {
        set_options(&tcp, self.limits.idle_timeout);
        let activity = Activity::new(clock::now());
        let transport = Transport::new(tcp, activity.clone(), self.limits.body_timeout);
        let Some(tls) = self.handshake(transport, address).await else { return };
        drop(handshake);
        let session = tls.session();
        let is_http2 = session.alpn_protocol() == Some(b"h2");
        let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
        activity.established(clock::now(), !is_http2);
        let sni = session.server_name().map(ToOwned::to_owned);
        let open = self.metrics.open(protocol);
        let client = Arc::new(Client { address, local, protocol, sni, credit: Arc::default() });
        let connection = Connection { listener: self, serve, client, activity, _place: place, _open: open };
        let connection = Arc::new(connection);
        if is_http2 { run_http2(tls, connection).await } else { run_http1(tls, connection).await }
    }

    async fn handshake(&self, transport: Transport, address: SocketAddr) -> Option<Records<Transport>> {
        let accept = TlsAcceptor::from(self.tls.clone()).accept(transport);
        match tokio::time::timeout(self.limits.header_timeout, accept).await {
            Ok(Ok(tls)) => return Some(tls.into()),
            Ok(Err(error)) => {
                self.metrics.handshakes_failed.inc();
                tracing::debug!(%address, %error, "TLS handshake failed");
            }
            Err(_) => {
                self.metrics.handshakes_late.inc();
                tracing::debug!(%address, "TLS handshake took too long");
            }
        }
        None
    }
}

/// No Nagle; and keep-alive probes, which find clients that vanished during a long silent response.
fn set_options(tcp: &TcpStream, idle: Duration) {
    let socket = SockRef::from(tcp);
    for result in [socket.set_tcp_nodelay(true), socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))] {
        if let Err(error) = result {
            tracing::debug!(%error, "TCP option not set");
        }
    }
}

async fn run_http1<S: Serve>(tls: Records<Transport>, connection: Arc<Connection<S>>) {
    let limits = &connection.listener.limits;
    let shared = connection.clone();
    let service = service_fn(move |request| shared.call(request));
    let conn = http1::Builder::new()
        // Both are timed by the driver: hyper's timeout would also end idle connections.
        .header_read_timeout(None)
        .max_headers(limits.fields_max)
        .max_header_size(limits.field_section_max)
        .max_buf_size(HTTP1_BUFFER_MIN.max(limits.field_section_max))
        .serve_connection(TokioIo::new(tls), service)
        .with_upgrades();
    drive(conn, &connection).await;
}

async fn run_http2<S: Serve>(tls: Records<Transport>, connection: Arc<Connection<S>>) {
    let limits = &connection.listener.limits;
    let shared = connection.clone();
    let service = service_fn(move |request| shared.call(request));
    let executor = StreamExecutor {
        tasks: connection.listener.tasks.clone(),
        timeout: limits.body_timeout,
        stalled: connection.listener.metrics.cut_stalled.clone(),
    };
    let (stream, flusher) = gather(tls);
    let conn = http2_builder(executor, limits).serve_connection(TokioIo::new(stream), service);
    drive(Flushing::new(conn, flusher), &connection).await;
}

fn http2_builder(executor: StreamExecutor, limits: &Limits) -> http2::Builder<StreamExecutor> {
    let streams = usize::try_from(limits.streams_max).unwrap_or(usize::MAX).max(1);
    let resets = usize::try_from(limits.resets_max).unwrap_or(usize::MAX);
    let send_window = usize::try_from(limits.send_window).unwrap_or(usize::MAX);
    // h2 keeps u32 counts.
    let stream_buffer = (send_window / streams).clamp(STREAM_BUFFER_MIN, 1 << 30);
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window.max(CONNECTION_WINDOW_MIN))
        .max_header_list_size(u32::try_from(limits.field_section_max).unwrap_or(u32::MAX))
        .max_send_buf_size(stream_buffer)
        // Streams reset before we looked at them, and streams we reset for errors of the client (CVE-2023-44487 and
        // CVE-2025-8671); those reset while being served are counted by `activity`.
        .max_pending_accept_reset_streams(resets)
        .max_local_error_reset_streams(resets)
        .enable_connect_protocol()
        // Idle connections end by then, so that pings go to silent clients of long responses only.
        .keep_alive_interval(limits.idle_timeout);
    builder
}

/// hyper's two kinds of connections.
trait Graceful: Future<Output = hyper::Result<()>> {
    /// HTTP/2: GOAWAY. HTTP/1.1: `Connection: close` on the next response, or an end at once when idle.
    fn shut_down(self: Pin<&mut Self>);
}

impl<I, B, F> Graceful for http1::UpgradeableConnection<I, F>
where
    Self: Future<Output = hyper::Result<()>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send,
    F: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    F::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, B, F> Graceful for http2::Connection<I, F, StreamExecutor>
where
    Self: Future<Output = hyper::Result<()>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    F: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    F::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    StreamExecutor: hyper::rt::bounds::Http2ServerConnExec<F::Future, B>,
{
    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs a connection to its end: drain, idle time, late heads and too many resets end it.
async fn drive<C: Graceful, S: Serve>(conn: C, connection: &Connection<S>) {
    let metrics = &connection.listener.metrics;
    match drive_to_end(conn, &connection.activity, &connection.listener).await {
        End::Closed(Ok(())) => {}
        End::Closed(Err(error)) => {
            if is_stall(&error) {
                metrics.cut_stalled.inc();
            }
            tracing::debug!(address = %connection.client.address, %error, "connection ended");
        }
        End::Idle => drop(metrics.closed_idle.inc()),
        End::HeadLate => drop(metrics.closed_header_timeout.inc()),
        End::Excessive => drop(metrics.closed_resets.inc()),
    }
}

/// Whether a transport gave up on a client that takes nothing.
fn is_stall(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
}

enum End {
    Closed(hyper::Result<()>),
    Idle,
    HeadLate,
    Excessive,
}

async fn drive_to_end<C: Graceful>(conn: C, activity: &Activity, listener: &TcpListener) -> End {
    let limits = &listener.limits;
    let mut conn = pin!(conn);
    let mut draining = pin!(listener.parting.due(&listener.tasks));
    let mut drained = false;
    // Since when an idle connection has been asked to end.
    let mut closing: Option<Instant> = None;
    let mut sleep = pin!(tokio::time::sleep(limits.header_timeout.min(limits.idle_timeout)));
    poll_fn(|cx| {
        loop {
            if !drained && draining.as_mut().poll(cx).is_ready() {
                drained = true;
                conn.as_mut().shut_down();
            }
            if let Poll::Ready(result) = conn.as_mut().poll(cx) {
                return Poll::Ready(if closing.is_some() { End::Idle } else { End::Closed(result) });
            }
            let now = clock::now();
            let wake = match (activity.verdict(now, limits), closing) {
                (Verdict::Excessive, _) => return Poll::Ready(End::Excessive),
                (Verdict::HeadLate, _) => return Poll::Ready(End::HeadLate),
                (Verdict::Wait(at), _) => at,
                (Verdict::Idle, None) => {
                    closing = Some(now);
                    conn.as_mut().shut_down();
                    continue;
                }
                // The client may still be taking the last bytes.
                (Verdict::Idle, Some(since)) if since + limits.body_timeout > now => since + limits.body_timeout,
                (Verdict::Idle, Some(_)) => return Poll::Ready(End::Idle),
            };
            // A later deadline is left to the timer's next firing.
            let wake = tokio::time::Instant::from_std(wake);
            if sleep.is_elapsed() || wake < sleep.deadline() {
                sleep.as_mut().reset(wake);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests;
