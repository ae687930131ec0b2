//! Stage 5: carries a request through a tunnel until its response head is there. Called by the spine; owns the choice of
//! the link, the request body's pump, and replays. Whether a replay is safe is decided in the sans-IO [`replay`].

pub mod allowance;
mod attempt;
pub mod balance;
pub mod continuation;
pub mod damping;
mod metrics;
pub mod replay;
mod source;
pub mod tunnels;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body::Body;
use parking_lot::Mutex;

use self::allowance::Allowance;
use self::attempt::{Headed, Tries, pump};
pub use self::metrics::DispatchMetrics;
use self::source::Source;
use self::tunnels::{Member, Tunnels};
use super::listener::{Interim, NoInterim, RequestBody};
use crate::clock;
use crate::fault::{Fault, Kind, Retry, Side, Stage};
use crate::observe::event::{Event as Told, Events, What};
use crate::observe::record::Record;
use crate::task::Tasks;
use crate::tunnel::exchange::credit::Credit;
use crate::tunnel::exchange::retention::Budget;
use crate::tunnel::exchange::{ExchangeReader, ExchangeWriter};
use crate::tunnel::link::Link;
use crate::tunnel::message::{Meta, RequestHead, ResponseHead};

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
    /// Replays that overload may cause and hedges, on this worker.
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
    /// What may be sent of the answer ahead of the client.
    pub credit: Arc<Credit>,
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
        let mut tries = Tries::default();
        outbound.meta.bodiless = body.is_end_stream();
        let received = (!outbound.meta.bodiless).then(|| record.received());
        let mut source = Source::new(body, received, self.budget.clone());
        let mut last = None;
        loop {
            let (member, writer, reader) = self.open(&outbound, &mut tries.links, last).await?;
            record.dispatched(member.link.peer().node());
            let begun = clock::now();
            let given = (&member, writer, reader);
            let attempt = { pin!(self.attempt(&outbound, given, &mut tries, &mut source, interim)).await };
            let failure = match attempt {
                Ok(Headed { head, reader, unsent, hedge }) => {
                    if let Some(hedge) = hedge {
                        record.dispatched(hedge.link.peer().node());
                    }
                    if let Some(writer) = unsent {
                        self.pump_on(writer, source);
                    }
                    return Ok(Answered { head, reader, outbound });
                }
                Err(failure) => failure,
            };
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
        outbound: &Outbound,
        tried: &mut Vec<Arc<Link>>,
        last: Option<Fault>,
    ) -> Result<(Arc<Member>, ExchangeWriter, ExchangeReader), Fault> {
        let mut full: Vec<Arc<Link>> = Vec::new();
        loop {
            let unavailable =
                Fault::new(Stage::Dispatch, Side::Tunnel, Kind::DestinationUnavailable).with_retry(Retry::Anywhere);
            let member = match last.is_none_or(|fault| is_worth_a_wait(&fault)) {
                true => self.tunnels.choose_or_wait(outbound.service, self.worker, tried, &full).await,
                false => self.tunnels.choose(outbound.service, self.worker, tried),
            };
            let member = member.ok_or(last.unwrap_or(unavailable))?;
            tried.push(member.link.clone());
            if let Some((writer, reader)) = member.link.open(&outbound.credit) {
                return Ok((member, writer, reader));
            }
            full.push(member.link.clone());
        }
    }

    /// Whether a gateway other than that of `reader` could take the service's requests.
    pub fn has_other(&self, service: usize, reader: &ExchangeReader) -> bool {
        self.tunnels.has_other(service, reader.exchange().peer())
    }

    /// Sends a bodiless request that the client does not know of: the rest of a response.
    pub async fn send_rest(&self, outbound: &Outbound) -> Result<(ResponseHead, ExchangeReader), Fault> {
        let mut source = Source::new(RequestBody::Empty, None, self.budget.clone());
        let mut tries = Tries::default();
        let (member, writer, reader) = self.open(outbound, &mut tries.links, None).await?;
        let given = (&member, writer, reader);
        match self.attempt(outbound, given, &mut tries, &mut source, &mut NoInterim).await {
            Ok(Headed { head, reader, .. }) => Ok((head, reader)),
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

/// Whether a link that comes back may do better after this fault. An upstream that refuses, or a full queue before it, is
/// no matter of links.
fn is_worth_a_wait(fault: &Fault) -> bool {
    fault.side != Side::Upstream && fault.kind != Kind::ConnectionLimitReached
}
