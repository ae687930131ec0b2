//! One attempt at a request, and its hedge: while the head is awaited and the link is in doubt, the same request goes to
//! another gateway too, and the first answer wins. Called by [`super::Dispatch::send`]; whether a hedge is right is decided
//! in the sans-IO [`replay`].

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{Sleep, sleep_until};

use super::source::{Kept, Piece, Source};
use super::tunnels::{Member, Waiting};
use super::{Dispatch, Outbound, replay};
use crate::clock;
use crate::edge::listener::{Interim, NoInterim};
use crate::fault::{Fault, Kind, Retry, Side, Stage};
use crate::observe::event::{Event as Told, What};
use crate::tunnel::exchange::{Event, ExchangeReader, ExchangeWriter};
use crate::tunnel::link::Link;
use crate::tunnel::message::{self, Meta, ResponseHead};

/// How often a request that waits for its head is looked after.
const LOOK: Duration = Duration::from_millis(250);

/// What one attempt came to.
pub(super) struct Failure {
    /// Why.
    pub fault: Fault,
    /// The gateway had said that it hands the request on.
    pub accepted: bool,
}

/// An attempt with a response head.
pub(super) struct Headed {
    /// The final head.
    pub head: ResponseHead,
    /// What follows.
    pub reader: ExchangeReader,
    /// The writer, if the head came before the request's end.
    pub unsent: Option<ExchangeWriter>,
    /// The link of the hedge, if that was the one to answer.
    pub hedge: Option<Arc<Member>>,
}

/// What was tried of one request.
#[derive(Default)]
pub(super) struct Tries {
    /// Links it was sent on.
    pub links: Vec<Arc<Link>>,
    /// Hedges.
    pub hedges: u32,
}

type Hedge<'a> = Pin<Box<dyn Future<Output = Result<Headed, Fault>> + Send + 'a>>;

impl Dispatch {
    /// Sends the request on `member` and reads up to the final head, both at once. The member hears what came of it.
    pub(super) async fn attempt<I: Interim>(
        &self,
        outbound: &Outbound,
        given: (&Arc<Member>, ExchangeWriter, ExchangeReader),
        tries: &mut Tries,
        source: &mut Source,
        interim: &mut I,
    ) -> Result<Headed, Failure> {
        let mut waiting = given.0.begin();
        let outcome = self.ask(outbound, given, &mut waiting, tries, source, interim).await;
        match &outcome {
            Ok(Headed { hedge: None, .. }) => waiting.handle_head(),
            Ok(_) => waiting.handle_failure(),
            Err(failure) if is_of_the_link(&failure.fault) => waiting.handle_failure(),
            Err(_) => {}
        }
        outcome
    }

    async fn ask<I: Interim>(
        &self,
        outbound: &Outbound,
        (member, mut writer, mut reader): (&Arc<Member>, ExchangeWriter, ExchangeReader),
        waiting: &mut Waiting,
        tries: &mut Tries,
        source: &mut Source,
        interim: &mut I,
    ) -> Result<Headed, Failure> {
        writer.request(&outbound.head, &outbound.meta);
        reader.set_impatient(self.may_leave(outbound, source));
        let exchange = reader.exchange().clone();
        let (mut accepted, stranded) = (false, Notify::new());
        let mut watch = None;
        let outcome = {
            let idempotent = outbound.head.method.is_idempotent();
            let mut pump =
                pin!(async { pump(&mut writer, source).await.map(|()| if idempotent { source.kept() } else { None }) });
            let mut head = pin!(self.response_head(outbound.service, &mut reader, interim, &mut accepted, &stranded));
            let mut hedge: Option<Hedge<'_>> = None;
            // How the first of the two failed while the hedge goes on.
            let mut lost: Option<Fault> = None;
            let mut out_of_reach = false;
            loop {
                let why = tokio::select! {
                    biased;
                    pumped = &mut pump, if watch.is_none() => match pumped {
                        Ok(kept) => {
                            waiting.handle_sent();
                            watch.replace(Watch::new(kept, outbound.response_timeout)).and(None)
                        }
                        Err(fault) => break Err(fault),
                    },
                    answer = &mut head, if lost.is_none() => match answer {
                        Ok(head) => break Ok((head, None)),
                        Err(fault) if hedge.is_none() => break Err(fault),
                        Err(fault) => lost.replace(fault).and(None),
                    },
                    () = stranded.notified() => {
                        out_of_reach = true;
                        Some("its gateway is out of reach")
                    }
                    answer = if_any(&mut hedge) => match (answer, lost) {
                        (Ok(headed), _) => break Ok((headed.head, Some((headed.reader, headed.hedge)))),
                        (Err(_), Some(fault)) => break Err(fault),
                        // The first goes on alone; at most one hedge.
                        (Err(_), None) => hedge.take().and(None),
                    },
                    looked = if_any(&mut watch) => match looked {
                        None => break Err(late()),
                        Some(now) if self.is_grey(outbound, member, now) => Some("its link answers nothing"),
                        Some(now) if exchange.is_adrift(now) => Some("it left its link and no other answers"),
                        Some(_) => None,
                    },
                };
                if let (Some(why), None, None) = (why, &hedge, lost) {
                    hedge = watch.as_ref().and_then(|watch| self.hedge(outbound, member, tries, watch, why));
                }
                // Nothing goes on beside it: it is sent again instead.
                if out_of_reach && hedge.is_none() && exchange.is_out_of_reach() {
                    break Err(unreachable());
                }
            }
        };
        match outcome {
            Ok((head, None)) => {
                reader.set_impatient(false);
                Ok(Headed { head, reader, unsent: watch.is_none().then_some(writer), hedge: None })
            }
            Ok((head, Some((reader, hedge)))) => Ok(Headed { head, reader, unsent: None, hedge }),
            Err(fault) => Err(Failure { fault, accepted }),
        }
    }
}

impl Dispatch {
    /// Whether the attempt should not wait for a gateway out of reach, because another one could take it.
    fn may_leave(&self, outbound: &Outbound, source: &Source) -> bool {
        outbound.head.method.is_idempotent() && source.is_repeatable() && outbound.meta.attempt < replay::REPLAYS_MAX
    }

    /// Whether the link answers nothing while other gateways answer.
    fn is_grey(&self, outbound: &Outbound, member: &Arc<Member>, now: Instant) -> bool {
        let answered = |since| self.tunnels.others_answer(outbound.service, member.link.peer(), since);
        member.is_ejected(now) && now.checked_sub(LOOK * 2).is_some_and(answered)
    }

    /// Sends the same request through another gateway, if that is right and there is one. Resolves with its head.
    fn hedge<'a>(
        &'a self,
        outbound: &'a Outbound,
        member: &Arc<Member>,
        tries: &mut Tries,
        watch: &Watch,
        why: &str,
    ) -> Option<Hedge<'a>> {
        let kept = watch.kept.clone();
        let waiting =
            replay::Waiting { method: &outbound.head.method, repeatable: kept.is_some(), hedges: tries.hedges };
        let kept = kept.filter(|_| replay::may_hedge(waiting))?;
        let other = self.tunnels.choose(outbound.service, self.worker, &tries.links)?;
        if Arc::ptr_eq(other.link.peer(), member.link.peer()) {
            return None;
        }
        if !self.allowance.lock().take(clock::now()) {
            self.metrics.withheld.inc();
            return None;
        }
        let (mut writer, mut reader) = other.link.open(&outbound.credit)?;
        tries.links.push(other.link.clone());
        tries.hedges += 1;
        self.events.emit(&Told {
            from: member.link.name(),
            to: other.link.name(),
            took: clock::now().saturating_duration_since(watch.since),
            bytes_again: kept.bytes(),
            why,
            ..Told::new(What::Hedge)
        });
        writer.request(&outbound.head, &Meta { attempt: outbound.meta.attempt + 1, ..outbound.meta.clone() });
        kept.send(&mut writer);
        Some(Box::pin(async move {
            let mut waiting = other.begin();
            let mut accepted = false;
            let answer = async {
                writer.flush().await?;
                waiting.handle_sent();
                self.response_head(outbound.service, &mut reader, &mut NoInterim, &mut accepted, &Notify::new()).await
            };
            match answer.await {
                Ok(head) => {
                    waiting.handle_head();
                    Ok(Headed { head, reader, unsent: None, hedge: Some(other) })
                }
                Err(fault) => {
                    if is_of_the_link(&fault) {
                        waiting.handle_failure();
                    }
                    Err(fault)
                }
            }
        }))
    }

    /// Reads up to the final head; interim responses go to the client. If its gateway is out of reach and another one has
    /// the service, `stranded` is notified; it is waited for all the same.
    async fn response_head<I: Interim>(
        &self,
        service: usize,
        reader: &mut ExchangeReader,
        interim: &mut I,
        accepted: &mut bool,
        stranded: &Notify,
    ) -> Result<ResponseHead, Fault> {
        loop {
            match reader.next().await {
                Ok(Event::Accepted) => *accepted = true,
                Ok(Event::Informational(head)) => interim.send(head).await,
                Ok(Event::Head(payload)) => return message::get_response(payload).map_err(|_| malformed()),
                Ok(Event::Body(_) | Event::End(_)) => return Err(malformed()),
                Err(_) if reader.is_waiting() => {
                    reader.set_impatient(false);
                    if self.has_other(service, reader) {
                        stranded.notify_one();
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
    }
}

/// Looks after a request that was sent and waits for its head.
struct Watch {
    /// What was sent, if it can be sent again.
    kept: Option<Kept>,
    since: Instant,
    deadline: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Watch {
    fn new(kept: Option<Kept>, timeout: Duration) -> Self {
        let since = clock::now();
        let deadline = since + timeout;
        Self { kept, since, deadline, sleep: Box::pin(sleep_until((since + LOOK).min(deadline).into())) }
    }
}

impl Future for Watch {
    /// The time at a look; `None` at the deadline.
    type Output = Option<Instant>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Instant>> {
        let this = self.get_mut();
        ready!(this.sleep.as_mut().poll(cx));
        let now = clock::now();
        this.sleep.as_mut().reset((now + LOOK).min(this.deadline).into());
        Poll::Ready((now < this.deadline).then_some(now))
    }
}

/// Pending for ever if there is none.
fn if_any<F: Future + Unpin>(future: &mut Option<F>) -> impl Future<Output = F::Output> {
    poll_fn(|cx| future.as_mut().map_or(Poll::Pending, |future| Pin::new(future).poll(cx)))
}

/// Whether the fault tells something about the link or its gateway, rather than about the request.
fn is_of_the_link(fault: &Fault) -> bool {
    matches!(fault.side, Side::Tunnel | Side::Gateway) || fault.kind == Kind::ResponseTimeout
}

fn late() -> Fault {
    Fault::new(Stage::Dispatch, Side::Upstream, Kind::ResponseTimeout)
}

fn malformed() -> Fault {
    Fault::new(Stage::Tunnel, Side::Gateway, Kind::ProtocolError)
}

fn unreachable() -> Fault {
    Fault::new(Stage::Tunnel, Side::Tunnel, Kind::ConnectionTerminated).with_retry(Retry::Idempotent)
}

/// Sends the rest of the request. Ends early, as if all had gone, if the other end needs no more.
pub(super) async fn pump(writer: &mut ExchangeWriter, source: &mut Source) -> Result<(), Fault> {
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
