//! Stage 8: sends one request to one of a service's upstreams and returns its response.
//!
//! Called by [`crate::origin::gateway`]. Owns the connections to the upstreams, a pool for each. It sends a request
//! again only when it provably was not processed, or when it is idempotent, has no body and met a reused connection's
//! end; everything else it leaves to the caller, as the [`Retry`] class of the [`Fault`]. It never buffers a body and
//! never answers a request itself.
//!
//! Decisions that are visible outside:
//! - The response timeout counts from the end of the request: a long upload is bounded by its progress alone.
//! - A response body must make progress within the body timeout, except for media types that are event streams.
//! - A response that ends before the request was read ends the request: the rest is not sent, as with nginx.
//! - `Expect: 100-continue` goes on to HTTP/1.1 upstreams and their 100 comes back; for HTTP/2 upstreams, whose interim
//!   responses hyper does not show, it is answered here.

mod connect;
mod errors;
mod health;
mod incoming;
mod io;
mod lease;
mod link;
mod metrics;
mod outgoing;
mod pool;
mod shelf;
mod switched;
mod upgrade;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;

pub use connect::UpstreamSetupError;
pub use incoming::UpstreamBody;
pub use metrics::UpstreamMetrics;

use crate::clock;
use crate::config::OriginService;
use crate::fault::{Fault, Kind, Retry, Side, Stage};
use crate::task::Tasks;
use crate::tunnel::message::{RequestHead, ResponseHead};
use connect::{Connector, TlsConfigs};
use incoming::check_head;
use lease::Lease;
use outgoing::Outgoing;
use pool::{Grant, Pool};
use watch::Watch;
use wire::{Prepared, Target};

/// Connections a request may meet that turn out to be closed before it is sent. The later ones are new.
const ATTEMPTS_MAX: u32 = 4;

/// What the gateway learns of a request before its response. Called from the request's own task or its connection's
/// driver: must not block.
pub trait Observe: Send + Sync + 'static {
    /// An established connection is about to take the request; before this it may be replayed anywhere. Called
    /// again when the request moves to another connection.
    fn accepted(&self);
    /// An interim (1xx) response came.
    fn interim(&self, head: ResponseHead);
}

/// A response from an upstream.
pub struct UpstreamResponse {
    /// The head, without connection-specific fields. An accepted upgrade has status 200.
    pub head: ResponseHead,
    /// The body; for an upgrade the bytes from the upstream. Dropping it before its end cancels the request.
    pub body: UpstreamBody,
}

/// The upstreams of one service.
pub struct Upstreams {
    pools: Vec<Arc<Pool>>,
    next: AtomicUsize,
    authority: Option<Authority>,
    metrics: Arc<UpstreamMetrics>,
}

impl Upstreams {
    /// Sets up the upstreams of `service`; connects to none. Drivers and reapers are spawned into `tasks`, on the
    /// runtime of the request that opens the connection. When drain begins, connections are no longer kept.
    ///
    /// # Errors
    /// The roots for `https` cannot be had, or a name or the `host` setting is unusable.
    pub fn new(
        service: &OriginService,
        metrics: Arc<UpstreamMetrics>,
        tasks: &Tasks,
    ) -> Result<Self, UpstreamSetupError> {
        let configs = TlsConfigs::load(service)?;
        let pool = |upstream| {
            let connector = Connector::new(upstream, service, configs.as_ref())?;
            Ok(Arc::new(Pool::new(upstream, connector, &service.limits, metrics.clone(), tasks.clone())))
        };
        let pools = service.upstreams.iter().map(pool).collect::<Result<_, UpstreamSetupError>>()?;
        let authority = service
            .host
            .as_ref()
            .map(|host| Authority::try_from(host.as_str()).map_err(|_| UpstreamSetupError::TlsName(host.clone())));
        Ok(Self { pools, next: AtomicUsize::new(0), authority: authority.transpose()?, metrics })
    }

    /// Sends a request and waits for its response head. Dropping the future cancels the request at the upstream.
    ///
    /// An upgrade is CONNECT with `protocol`; `body` then carries the bytes towards the upstream.
    ///
    /// # Errors
    /// A fault of stage Upstream whose retry class says what was, or may have been, done with the request; or the
    /// body's own fault.
    pub async fn request<B>(
        &self,
        head: RequestHead,
        body: B,
        observe: Arc<dyn Observe>,
    ) -> Result<UpstreamResponse, Fault>
    where
        B: Body<Data = Bytes, Error = Fault> + Send + 'static,
    {
        self.metrics.requests.inc();
        let RequestHead { method, authority, path, protocol, headers } = head;
        let authority = self.authority.clone().unwrap_or(authority);
        let prepare = |headers, body| Prepared { method, authority, path, headers, body };
        let result = match protocol {
            Some(protocol) => self.upgrade(prepare(headers, Outgoing::empty()), protocol, body, observe).await,
            None => {
                let outgoing = Outgoing::new(body, Prepared::length(&headers)?);
                pin!(self.exchange(prepare(headers, outgoing), observe)).await
            }
        };
        result.inspect_err(|fault| self.metrics.count_fault(fault))
    }

    async fn exchange(&self, mut prepared: Prepared, observe: Arc<dyn Observe>) -> Result<UpstreamResponse, Fault> {
        if prepared.method == Method::CONNECT {
            // A gateway has no use for plain CONNECT (RFC 9110 section 9.3.6).
            return Err(Fault::bad_request(Stage::Upstream, StatusCode::NOT_IMPLEMENTED));
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let lease = self.lease(attempt > 1).await?;
            let target = prepared.target();
            let spare = (lease.is_reused() && prepared.body.is_empty()).then(|| prepared.headers.clone());
            if lease.is_multiplexed() && prepared.take_expect() {
                observe.interim(ResponseHead { status: StatusCode::CONTINUE, headers: HeaderMap::new() });
            }
            let request = match lease.is_multiplexed() {
                true => prepared.into_http2(lease.pool().scheme)?,
                false => prepared.into_http1()?,
            };
            match pin!(self.send(request, lease, &observe)).await {
                Ok(sent) => return sent.into_response(target.method()),
                Err(unsent) => prepared = self.again(unsent, target, spare, attempt)?,
            }
        }
    }

    /// The request in a form that can be sent again, if it may be.
    fn again(
        &self,
        failure: Failure,
        target: Target,
        spare: Option<HeaderMap>,
        attempt: u32,
    ) -> Result<Prepared, Fault> {
        if attempt >= ATTEMPTS_MAX {
            return Err(failure.fault);
        }
        if let Some(request) = failure.unsent {
            self.metrics.unsent_retries.inc();
            return Ok(target.recover(*request));
        }
        let repeatable = match failure.fault.retry {
            Retry::Anywhere => true,
            // RFC 9112 section 9.3.1: the upstream probably closed an idle connection while the request was under way.
            Retry::Idempotent => target.method().is_idempotent(),
            Retry::Never => false,
        };
        let headers = spare.filter(|_| repeatable).ok_or(failure.fault)?;
        self.metrics.replays.inc();
        Ok(target.repeat(headers))
    }

    async fn upgrade<B>(
        &self,
        prepared: Prepared,
        protocol: Bytes,
        body: B,
        observe: Arc<dyn Observe>,
    ) -> Result<UpstreamResponse, Fault>
    where
        B: Body<Data = Bytes, Error = Fault> + Send + 'static,
    {
        let mut lease = self.lease(true).await?;
        if !lease.takes_upgrades().await {
            let pool = lease.pool().clone();
            lease = link::open(&pool, pool.ask_own()?, true).await?;
        }
        let (request, handshake) = upgrade::ask(prepared, protocol, &lease)?;
        let sent = self.send(request, lease, &observe).await.map_err(|failure| failure.fault)?;
        upgrade::answer(sent, handshake, body).await
    }

    /// A connection to one of the upstreams, in turn; to the next one when it cannot be had. Those that could not be
    /// connected to lately come last.
    async fn lease(&self, fresh: bool) -> Result<Lease, Fault> {
        let now = clock::now();
        let start = self.next.fetch_add(1, Ordering::Relaxed) % self.pools.len().max(1);
        let deadline = self.pools.first().map_or(now, |pool| now + pool.limits.queue_timeout);
        let mut fault = Fault::new(Stage::Upstream, Side::Gateway, Kind::DestinationUnavailable);
        let mut down = Vec::new();
        for pool in self.pools.iter().cycle().skip(start).take(self.pools.len()) {
            if pool.is_down(now) {
                down.push(pool);
                continue;
            }
            match lease_from(pool, fresh, deadline).await {
                Ok(lease) => return Ok(lease),
                Err(error) => fault = error,
            }
        }
        for pool in down {
            match lease_from(pool, fresh, deadline).await {
                Ok(lease) => return Ok(lease),
                Err(error) => fault = error,
            }
        }
        Err(fault)
    }

    /// Hands a request to a connection and waits for the head.
    async fn send(
        &self,
        mut request: Request<Outgoing>,
        mut lease: Lease,
        observe: &Arc<dyn Observe>,
    ) -> Result<Sent, Failure> {
        if lease.is_reused() {
            self.metrics.reuses.inc();
        }
        if !lease.is_multiplexed() {
            pass_interim(&mut request, observe.clone());
        }
        let progress = request.body().progress();
        let mut watch = Watch::new(progress.clone(), &lease.pool().limits);
        observe.accepted();
        progress.restart();
        let started = clock::now();
        let mut response = pin!(lease.send(request));
        let result = poll_fn(|cx| match response.as_mut().poll(cx) {
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
            Poll::Ready(Err(mut error)) => {
                let unsent = error.take_message().map(Box::new);
                let fault = errors::before_head(error.error(), &progress);
                let fault = if unsent.is_some() { fault.with_retry(Retry::Anywhere) } else { fault };
                Poll::Ready(Err(Failure { fault, unsent }))
            }
            Poll::Pending => watch.poll(cx).map(|fault| Err(Failure { fault, unsent: None })),
        });
        match result.await {
            Ok(response) => {
                self.metrics.head_seconds.observe(clock::now().duration_since(started).as_secs_f64());
                Ok(Sent { response, lease, watch })
            }
            Err(failure) => {
                if failure.unsent.is_none() {
                    progress.abort();
                }
                Err(failure)
            }
        }
    }
}

/// A request that got its response head.
struct Sent {
    response: Response<Incoming>,
    lease: Lease,
    watch: Watch,
}

impl Sent {
    fn into_response(self, method: &Method) -> Result<UpstreamResponse, Fault> {
        let (head, incoming) = check_head(self.response, self.lease.pool().limits.fields_max)?;
        let body = UpstreamBody::new(incoming, &head, method, self.lease, self.watch);
        Ok(UpstreamResponse { head, body })
    }
}

/// A request that got none.
struct Failure {
    fault: Fault,
    /// The request, if no byte of it was sent.
    unsent: Option<Box<Request<Outgoing>>>,
}

async fn lease_from(pool: &Arc<Pool>, fresh: bool, deadline: Instant) -> Result<Lease, Fault> {
    match pool.ask(fresh, deadline).await? {
        Grant::Lease(lease) => Ok(lease),
        Grant::Open(slot) => link::open(pool, slot, false).await,
    }
}

fn pass_interim(request: &mut Request<Outgoing>, observe: Arc<dyn Observe>) {
    hyper::ext::on_informational(request, move |response| {
        let mut headers = response.headers().clone();
        crate::fields::strip_hop_by_hop(&mut headers);
        observe.interim(ResponseHead { status: response.status(), headers });
    });
}
