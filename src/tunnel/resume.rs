//! How a detached exchange finds a new attachment (layer 2 on layer 1). All of it is off the usual path: tasks exist
//! only while an exchange is detached or sends again.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::code::ResetCode;
use super::exchange::Exchange;
use super::exchange::preamble::{PREAMBLE_MAX, Preamble};
use super::link::Link;
use crate::fault::Fault;
use crate::quic::{RecvStream, SendStream};

/// How long the other end may take to answer RESUME before another link is tried: at first this and four round trips, then
/// twice as long each time.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(100);
/// And at most.
const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(1);

/// Sends again what was kept, until everything went.
pub(super) fn drive(exchange: Arc<Exchange>) {
    let tasks = exchange.peer().tasks().clone();
    tasks.spawn(async move {
        let _ = poll_fn(|cx| exchange.poll_flush(cx, true)).await;
    });
}

/// At a gateway: holds the exchange for the grace time.
pub(super) fn await_resume(exchange: Arc<Exchange>, generation: u64) {
    let tasks = exchange.peer().tasks().clone();
    tasks.spawn(async move {
        tokio::time::sleep(exchange.peer().settings().grace).await;
        exchange.give_up(generation);
    });
}

/// At an edge: attaches to another link of the same peer, as soon as there is one, within the grace time.
pub(super) fn reattach(exchange: Arc<Exchange>) {
    let tasks = exchange.peer().tasks().clone();
    tasks.spawn(async move {
        let grace = exchange.peer().settings().grace;
        if tokio::time::timeout(grace, attach_somewhere(&exchange)).await.is_err() {
            exchange.give_up(exchange.generation());
        }
    });
}

async fn attach_somewhere(exchange: &Arc<Exchange>) {
    let mut patience = ANSWER_TIMEOUT;
    loop {
        if !exchange.peer().is_reachable() {
            exchange.nudge();
        }
        let link = exchange.peer().link(exchange.left_address()).await;
        let Some((generation, preamble)) = exchange.resume_point() else { return };
        let timeout = (patience + link.rtt() * 4).min(ANSWER_TIMEOUT_MAX);
        patience = (patience * 2).min(ANSWER_TIMEOUT_MAX);
        match tokio::time::timeout(timeout, resume_on(exchange, &link, generation, preamble))
            .await
            .unwrap_or(Err(Attempt::Lost))
        {
            Ok(()) => return,
            // The other end left this link too, before the answer came: there may be another.
            Err(Attempt::Refused(ResetCode::Stale)) => {}
            Err(Attempt::Refused(code)) => return exchange.abort(code.fault()),
            Err(Attempt::Lost) => link.doubt("no answer to RESUME"),
        }
    }
}

enum Attempt {
    /// The link is of no use either.
    Lost,
    /// The other end does not have the exchange any more.
    Refused(ResetCode),
}

/// Streams on which no exchange rides yet. Given up as stale when dropped: the other end may ride on them already, and
/// a clean end would look like the end of its data.
struct Streams(Option<(SendStream, RecvStream)>);

impl Streams {
    async fn resume(&mut self, preamble: Preamble, expected: u64) -> Result<(u64, u64), Attempt> {
        let Some((send, recv)) = &mut self.0 else { return Err(Attempt::Lost) };
        let mut out = BytesMut::new();
        preamble.encode(&mut out);
        send.write_chunk(out.freeze()).await.map_err(|_| Attempt::Lost)?;
        read_answer(recv, expected).await
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some((send, recv)) = &mut self.0 {
            refuse(send, recv, ResetCode::Stale);
        }
    }
}

async fn resume_on(
    exchange: &Arc<Exchange>,
    link: &Arc<Link>,
    generation: u64,
    preamble: Preamble,
) -> Result<(), Attempt> {
    let mut streams = Streams(Some(link.connection().open_bi().await.map_err(|_| Attempt::Lost)?));
    let point = streams.resume(preamble, generation).await?;
    if let Some(streams) = streams.0.take() {
        // A failure to attach has failed the exchange: nothing is left to try.
        let _: Result<(), Fault> = exchange.attach(generation, point, link.clone(), streams);
    }
    Ok(())
}

async fn read_answer(recv: &mut RecvStream, expected: u64) -> Result<(u64, u64), Attempt> {
    let mut bytes = BytesMut::with_capacity(PREAMBLE_MAX);
    loop {
        // Byte by byte: what follows the answer belongs to the exchange.
        match recv.read_chunk(1, true).await {
            Ok(Some(byte)) => bytes.extend_from_slice(&byte.bytes),
            Err(quinn::ReadError::Reset(code)) => return Err(Attempt::Refused(ResetCode::from_varint(code))),
            Ok(None) | Err(_) => return Err(Attempt::Lost),
        }
        match Preamble::try_decode(&mut &bytes[..]) {
            Ok(Some(Preamble::Resumed { generation, received, window })) if generation == expected => {
                return Ok((received, window));
            }
            Ok(None) if bytes.len() < PREAMBLE_MAX => {}
            _ => return Err(Attempt::Refused(ResetCode::Protocol)),
        }
    }
}

/// At a gateway: RESUME came on a new stream of `link`.
pub(super) async fn accept_resume(
    link: &Arc<Link>,
    counter: u64,
    generation: u64,
    point: (u64, u64),
    early: &Bytes,
    (mut send, mut recv): (SendStream, RecvStream),
) {
    let Some(exchange) = link.peer().find(counter) else {
        return refuse(&mut send, &mut recv, ResetCode::UnknownExchange);
    };
    let Some(answer) = exchange.yield_to(generation) else {
        return refuse(&mut send, &mut recv, ResetCode::Stale);
    };
    let mut out = BytesMut::new();
    answer.encode(&mut out);
    // The edge sends nothing before it has the answer, so nothing can have come with the preamble.
    if !early.is_empty() {
        refuse(&mut send, &mut recv, ResetCode::Protocol);
        return exchange.abort(ResetCode::Protocol.fault());
    }
    if send.write_chunk(out.freeze()).await.is_ok() {
        let _: Result<(), Fault> = exchange.attach(generation, point, link.clone(), (send, recv));
    } else {
        await_resume(exchange, generation);
    }
}

/// Gives a stream up with `code`.
pub(super) fn refuse(send: &mut SendStream, recv: &mut RecvStream, code: ResetCode) {
    let _ = send.reset(code.varint());
    let _ = recv.stop(code.varint());
}
