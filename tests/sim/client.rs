//! The PoP's side of an exchange, as dispatch does it: choose a link, open, send, wait; what provably was not started
//! goes to another link. Checks every byte that comes back.

use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, StatusCode};
use trunkline::fault::{Fault, Retry};
use trunkline::tunnel::exchange::{Event, ExchangeReader, ExchangeWriter};
use trunkline::tunnel::link::Link;
use trunkline::tunnel::message::{self, Meta, RequestHead};

use crate::handler::pause;
use crate::host::{Host, Node};
use crate::scenario::{Mode, Request};
use crate::world::{Checker, Ended, World, bytes, request_key, response_key};

/// Links tried for one request.
const ATTEMPTS_MAX: u64 = 3;
/// How long a client waits for a PoP with a link.
const LINK_TIMEOUT_MS: u64 = 20_000;

/// Sends request `id` when it is due. Runs outside any process: a client outlives its PoP.
pub async fn call(world: Arc<World>, id: usize) {
    let request = world.scenario.requests[id].clone();
    tokio::time::sleep(Duration::from_millis(request.at_ms)).await;
    world.see(id, |seen| seen.started_ms = Some(request.at_ms));
    let Some(host) = ready_host(&world, request.pop).await else { return world.end(id, Ended::NoLink) };
    world.see(id, |seen| seen.dispatched = true);
    host.clone().spawn(async move {
        let ended = send(&host, id, &request).await;
        host.world.end(id, ended);
    });
}

/// The PoP, once it has a usable link.
async fn ready_host(world: &Arc<World>, pop: usize) -> Option<Arc<Host>> {
    let deadline = world.now() + LINK_TIMEOUT_MS;
    while world.now() < deadline {
        if let Some(host) = world.host(Node::Pop(pop))
            && choose(&host, &[]).is_some()
        {
            return Some(host);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    None
}

/// The less loaded of two random links, of gateways not tried if there are any.
fn choose(host: &Host, tried: &[Arc<Link>]) -> Option<Arc<Link>> {
    let links = host.links.lock();
    let usable: Vec<_> =
        links.iter().filter(|link| link.is_usable() && !tried.iter().any(|other| Arc::ptr_eq(other, link))).collect();
    let fresh: Vec<_> =
        usable.iter().filter(|link| !tried.iter().any(|other| Arc::ptr_eq(other.peer(), link.peer()))).collect();
    let pick = || {
        if fresh.is_empty() {
            (!usable.is_empty()).then(|| usable[fastrand::usize(..usable.len())])
        } else {
            Some(*fresh[fastrand::usize(..fresh.len())])
        }
    };
    let (first, second) = (pick()?, pick()?);
    Some(if first.in_flight() <= second.in_flight() { first } else { second }.clone())
}

async fn send(host: &Arc<Host>, id: usize, request: &Request) -> Ended {
    let (mut tried, mut attempt, mut last) = (Vec::new(), 0, None);
    let deadline = host.world.now() + LINK_TIMEOUT_MS;
    while host.world.now() < deadline {
        let Some((link, writer, reader)) = open(host, &mut tried) else {
            if let Some(fault) = last {
                return Ended::Fault(fault);
            }
            // The last link may just have gone, or the process stood still: nothing was sent.
            pause(10).await;
            tried.clear();
            continue;
        };
        let node = link.peer().node().to_string();
        host.world.note(|| format!("request {id} goes to {node}"));
        host.world.see(id, |seen| seen.gateways.push(node));
        host.spawn(pump(host.clone(), id, attempt, writer));
        match receive(host, id, request, reader).await {
            Ended::Fault(fault) if fault.retry == Retry::Anywhere && attempt + 1 < ATTEMPTS_MAX => {
                (attempt, last) = (attempt + 1, Some(fault));
            }
            ended => return ended,
        }
    }
    Ended::NoLink
}

/// An exchange on a link that takes one.
fn open(host: &Host, tried: &mut Vec<Arc<Link>>) -> Option<(Arc<Link>, ExchangeWriter, ExchangeReader)> {
    loop {
        let link = choose(host, tried)?;
        tried.push(link.clone());
        if let Some((writer, reader)) = link.open(&Arc::default()) {
            return Some((link, writer, reader));
        }
    }
}

async fn pump(host: Arc<Host>, id: usize, attempt: u64, mut writer: ExchangeWriter) {
    let request = &host.world.scenario.requests[id];
    writer.request(&head(id), &Meta { request_id: id.to_string().into(), attempt, ..Meta::default() });
    let mut sent = 0;
    while sent < request.request_len {
        // The head goes at once.
        if writer.flush().await.is_err() || writer.is_unwanted() {
            return;
        }
        pause(request.client_pace_ms).await;
        let to = (sent + request.piece).min(request.request_len);
        writer.body(bytes(request_key(id), sent, to));
        sent = to;
    }
    writer.end(None);
    let _: Result<(), Fault> = writer.flush().await;
}

fn head(id: usize) -> RequestHead {
    RequestHead {
        method: Method::POST,
        authority: Authority::from_static("example.org"),
        path: PathAndQuery::try_from(format!("/{id}")).expect("path"),
        protocol: None,
        headers: HeaderMap::new(),
    }
}

async fn receive(host: &Arc<Host>, id: usize, request: &Request, mut reader: ExchangeReader) -> Ended {
    let mut check = match request.mode {
        Mode::Echo => Checker::new(request_key(id), request.request_len),
        _ => Checker::new(response_key(id), request.response_len),
    };
    let mut head = false;
    let judge = |outcome: Result<(), String>| {
        if let Err(what) = outcome {
            host.world.violate(format!("request {id}: its response: {what}"));
        }
    };
    loop {
        if request.cancel_after.is_some_and(|after| head && check.received >= after) {
            return Ended::Cancelled;
        }
        match reader.next().await {
            Ok(Event::Accepted) if !head => {}
            Ok(Event::Head(payload)) if !head => {
                head = true;
                judge(is_ok(payload));
            }
            Ok(Event::Body(data)) if head => {
                judge(check.take(&data));
                host.world.see(id, |seen| seen.progress.1 = check.received);
                pause(request.reader_pace_ms).await;
            }
            Ok(Event::End(trailers)) if head => {
                judge(check.end());
                judge(is_count(request, trailers));
                return Ended::Complete;
            }
            Ok(other) => judge(Err(format!("unexpected {other:?}"))),
            Err(fault) => return Ended::Fault(fault),
        }
    }
}

fn is_ok(payload: bytes::Bytes) -> Result<(), String> {
    match message::get_response(payload) {
        Ok(head) if head.status == StatusCode::OK => Ok(()),
        other => Err(format!("a wrong head: {other:?}")),
    }
}

/// Whether the handler says that it has the whole request.
fn is_count(request: &Request, trailers: Option<HeaderMap>) -> Result<(), String> {
    let want = if request.mode == Mode::Early { 0 } else { request.request_len };
    let got = trailers.as_ref().and_then(|trailers| trailers.get(http::header::ETAG));
    if got.is_some_and(|got| got == &want.to_string()) { Ok(()) } else { Err(format!("{got:?}, not {want}")) }
}
