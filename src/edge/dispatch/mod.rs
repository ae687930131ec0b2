//! Stage 5: carries a request through a tunnel until its response head is there. Called by the spine; owns the choice of
//! the link, the request body's pump, and replays. Whether a replay is safe is decided in the sans-IO [`replay`].

pub mod allowance;
pub mod balance;
pub mod continuation;
mod metrics;
pub mod replay;
mod source;
pub mod tunnels;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http_body::Body;
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep_until};

use self::allowance::Allowance;
pub use self::metrics::DispatchMetrics;
use self::source::{Piece, Source};
use self::tunnels::{Member, Tunnels};
use super::listener::{Interim, NoInterim, RequestBody};
use crate::clock;
use crate::fault::{Fault, Kind, Retry, Side, Stage};
use crate::observe::event::{Event as Told, Events, What};
use crate::observe::record::Record;
use crate::task::Tasks;
use crate::tunnel::exchange::retention::Budget;
use crate::tunnel::exchange::{Event, ExchangeReader, ExchangeWriter};
use crate::tunnel::link::Link;
use crate::tunnel::message::{self, Meta, RequestHead, ResponseHead};

/// Memory for request bodies that may be sent again, of all requests.
pub const REPLAY_BYTES_MAX: u64 = 64 << 20;

/// What dispatch needs of its process and worker.
pub struct Dispatch {
    /// The links.
    pub tunnels: Arc<Tunnels>,
    /// The worker that carries the request.
    pub worker: usize,
    /// Owner of the pumps.
    pub tasks: Tasks,
    /// Memory for bodies that may be sent again.
    pub budget: Arc<Budget>,
    /// Replays that overload may cause, on this worker.
    pub allowance: Mutex<Allowance>,
    /// Counters.
    pub metrics: DispatchMetrics,
    /// Where to tell of replays and the like.
    pub events: Events,
}

/// A request that is ready for the tunnel.
#[derive(Clone)]
pub struct Outbound {
    /// The head as the upstream shall see it.
    pub head: RequestHead,
    /// What travels with it.
    pub meta: Meta,
    /// The service's place in the configuration.
    pub service: usize,
    /// From the request's end to the response head.
    pub response_timeout: Duration,
}

/// A response on its way: its head is there.
pub struct Answered {
    /// The final head.
    pub head: ResponseHead,
    /// Where its body comes from.
    pub reader: ExchangeReader,
    /// The request that it answers.
    pub outbound: Outbound,
}

/// What one attempt came to.
struct Failure {
    fault: Fault,
    accepted: bool,
}

impl Dispatch {
    /// Sends the request and waits for the final response head. Sends it again, on another link, where that is safe.
    pub async fn send<I: Interim>(
        &self,
        mut outbound: Outbound,
        body: RequestBody,
        record: &mut Record,
        interim: &mut I,
    ) -> Result<Answered, Fault> {
        self.allowance.lock().handle_request();
        let mut tried: Vec<Arc<Link>> = Vec::new();
        outbound.meta.bodiless = body.is_end_stream();
        let received = (!outbound.meta.bodiless).then(|| record.received());
        let mut source = Source::new(body, received, self.budget.clone());
        let mut last = None;
        loop {
            let (member, writer, reader) = self.open(outbound.service, &mut tried, last).await?;
            record.dispatched(member.link.peer().node());
            let (waiting, begun) = (member.begin(), clock::now());
            let attempt = { pin!(self.attempt(&outbound, &mut source, (writer, reader), interim)).await };
            let failure = match attempt {
                Ok((head, reader, unsent)) => {
                    waiting.handle_head();
                    if let Some(writer) = unsent {
                        self.pump_on(writer, source);
                    }
                    return Ok(Answered { head, reader, outbound });
                }
                Err(failure) => failure,
            };
            if is_of_the_link(&failure.fault) {
                waiting.handle_failure();
            }
            let attempt = replay::Attempt {
                method: &outbound.head.method,
                accepted: failure.accepted,
                repeatable: source.is_repeatable(),
                replays: outbound.meta.attempt,
            };
            let class = replay::decide(attempt, &failure.fault).ok_or(failure.fault)?;
            if failure.fault.kind == Kind::ConnectionLimitReached && !self.allowance.lock().take(clock::now()) {
                self.metrics.withheld.inc();
                return Err(failure.fault);
            }
            self.metrics.replayed(class);
            self.events.emit(&Told {
                from: member.link.name(),
                took: clock::now().saturating_duration_since(begun),
                bytes_again: source.rewind(),
                why: &failure.fault.to_string(),
                ..Told::new(What::Replay)
            });
            outbound.meta.attempt += 1;
            last = Some(failure.fault);
        }
    }

    /// An exchange on a link that takes one. Nothing is sent by failing to open, so every link may be tried. With none
    /// left, the `last` attempt's fault tells more than that there is none.
    async fn open(
        &self,
        service: usize,
        tried: &mut Vec<Arc<Link>>,
        last: Option<Fault>,
    ) -> Result<(Arc<Member>, ExchangeWriter, ExchangeReader), Fault> {
        let mut full: Vec<Arc<Link>> = Vec::new();
        loop {
            let unavailable =
                Fault::new(Stage::Dispatch, Side::Tunnel, Kind::DestinationUnavailable).with_retry(Retry::Anywhere);
            let member = match last.is_none_or(|fault| is_worth_a_wait(&fault)) {
                true => self.tunnels.choose_or_wait(service, self.worker, tried, &full).await,
                false => self.tunnels.choose(service, self.worker, tried),
            };
            let member = member.ok_or(last.unwrap_or(unavailable))?;
            tried.push(member.link.clone());
            if let Some((writer, reader)) = member.link.open() {
                return Ok((member, writer, reader));
            }
            full.push(member.link.clone());
        }
    }

    /// One attempt: sends the request and reads up to the final head, both at once. The writer comes back if the
    /// response head came before the request's end.
    async fn attempt<I: Interim>(
        &self,
        outbound: &Outbound,
        source: &mut Source,
        (mut writer, mut reader): (ExchangeWriter, ExchangeReader),
        interim: &mut I,
    ) -> Result<(ResponseHead, ExchangeReader, Option<ExchangeWriter>), Failure> {
        writer.request(&outbound.head, &outbound.meta);
        reader.set_impatient(self.may_leave(outbound, source));
        let mut accepted = false;
        let mut sent = false;
        let head = {
            let mut pump = pin!(pump(&mut writer, source));
            let mut head = pin!(self.response_head(outbound.service, &mut reader, interim, &mut accepted));
            let mut overdue: Option<Pin<Box<Sleep>>> = None;
            loop {
                tokio::select! {
                    biased;
                    pumped = &mut pump, if !sent => match pumped {
                        Ok(()) => {
                            sent = true;
                            let deadline = clock::now() + outbound.response_timeout;
                            overdue = Some(Box::pin(sleep_until(deadline.into())));
                        }
                        Err(fault) => break Err(fault),
                    },
                    head = &mut head => break head,
                    () = async { overdue.as_mut().map_or(Sleeping::Never, Sleeping::Until).await } => {
                        break Err(Fault::new(Stage::Dispatch, Side::Upstream, Kind::ResponseTimeout));
                    }
                }
            }
        };
        match head {
            Ok(head) => {
                reader.set_impatient(false);
                Ok((head, reader, (!sent).then_some(writer)))
            }
            Err(fault) => Err(Failure { fault, accepted }),
        }
    }

    /// Whether the attempt should fail as soon as its gateway is out of reach, because another one could take it.
    fn may_leave(&self, outbound: &Outbound, source: &Source) -> bool {
        outbound.head.method.is_idempotent() && source.is_repeatable() && outbound.meta.attempt < replay::REPLAYS_MAX
    }

    /// Reads up to the final head; interim responses go to the client. A gateway out of reach is waited for only if no
    /// other one has the service.
    async fn response_head<I: Interim>(
        &self,
        service: usize,
        reader: &mut ExchangeReader,
        interim: &mut I,
        accepted: &mut bool,
    ) -> Result<ResponseHead, Fault> {
        loop {
            match reader.next().await {
                Ok(Event::Accepted) => *accepted = true,
                Ok(Event::Informational(head)) => interim.send(head).await,
                Ok(Event::Head(payload)) => return message::get_response(payload).map_err(|_| malformed()),
                Ok(Event::Body(_) | Event::End(_)) => return Err(malformed()),
                Err(_) if reader.is_waiting() && !self.has_other(service, reader) => reader.set_impatient(false),
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Whether a gateway other than that of `reader` could take the service's requests.
    pub fn has_other(&self, service: usize, reader: &ExchangeReader) -> bool {
        self.tunnels.has_other(service, reader.exchange().peer())
    }

    /// Sends a bodiless request that the client does not know of: the rest of a response.
    pub async fn send_rest(&self, outbound: &Outbound) -> Result<(ResponseHead, ExchangeReader), Fault> {
        let mut source = Source::new(RequestBody::Empty, None, self.budget.clone());
        let (_, writer, reader) = self.open(outbound.service, &mut Vec::new(), None).await?;
        match self.attempt(outbound, &mut source, (writer, reader), &mut NoInterim).await {
            Ok((head, reader, _)) => Ok((head, reader)),
            Err(failure) => Err(failure.fault),
        }
    }

    /// Goes on sending a request whose response has begun.
    fn pump_on(&self, mut writer: ExchangeWriter, mut source: Source) {
        source.forget();
        self.tasks.spawn(async move {
            if let Err(fault) = pump(&mut writer, &mut source).await
                && !writer.is_unwanted()
            {
                writer.abort(fault);
            }
        });
    }
}

/// A deadline that may not be there.
enum Sleeping<'a> {
    Never,
    Until(&'a mut Pin<Box<Sleep>>),
}

impl Future for Sleeping<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        match self.get_mut() {
            Self::Never => std::task::Poll::Pending,
            Self::Until(sleep) => sleep.as_mut().poll(cx),
        }
    }
}

/// Whether the fault tells something about the link or its gateway, rather than about the request.
fn is_of_the_link(fault: &Fault) -> bool {
    matches!(fault.side, Side::Tunnel | Side::Gateway) || fault.kind == Kind::ResponseTimeout
}

/// Whether a link that comes back may do better after this fault. An upstream that refuses, or a full queue before it, is
/// no matter of links.
fn is_worth_a_wait(fault: &Fault) -> bool {
    fault.side != Side::Upstream && fault.kind != Kind::ConnectionLimitReached
}

fn malformed() -> Fault {
    Fault::new(Stage::Tunnel, Side::Gateway, Kind::ProtocolError)
}

/// Sends the rest of the request. Ends early, as if all had gone, if the other end needs no more.
async fn pump(writer: &mut ExchangeWriter, source: &mut Source) -> Result<(), Fault> {
    let mut first = true;
    loop {
        // The head goes at once: a client may wait for 100 before it sends a body.
        let piece = match std::mem::take(&mut first) {
            true if !source.is_ended() => {
                writer.flush().await?;
                source.next().await?
            }
            _ => source.next().await?,
        };
        match piece {
            Piece::Data(data) => writer.body(data),
            Piece::End(trailers) => {
                writer.end(trailers.as_ref());
                return writer.flush().await;
            }
        }
        writer.flush().await?;
        if writer.is_unwanted() {
            return Ok(());
        }
    }
}
