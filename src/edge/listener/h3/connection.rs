//! Stage 1, HTTP/3: one connection from SETTINGS to its end: accepts request streams, spawns their tasks, and drains with
//! GOAWAY (RFC 9114 section 5.2). Called by the endpoint's owner with an established QUIC connection.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;

use super::code::Code;
use super::shared::Shared;
use super::{Context, frame, request, settings, streams, varint};
use crate::edge::listener::{Client, Serve};
use crate::quic::{Connection, RecvStream, SendStream};

/// The id of a first GOAWAY, which refuses nothing yet (RFC 9114 section 5.2).
const GOAWAY_NOTHING: u64 = varint::MAX - 3;
/// Our control stream goes before all responses.
const CONTROL_PRIORITY: i32 = 100;
/// The least time between the two GOAWAYs: a round trip on loopback is no time at all.
const DRAIN_MIN: Duration = Duration::from_millis(1);

/// Runs one HTTP/3 connection until it is closed, by either side or after a drain.
///
/// Each request stream becomes a task of `context.tasks`. When these drain, the client is told by GOAWAY in its
/// turn, requests in flight are finished, and the connection is closed with H3_NO_ERROR. Dropping the future closes it at once.
///
/// Its beginning and its end are in boxes, which are there only while they last: an idle connection keeps the rest.
pub async fn connection<S: Serve>(quinn: Connection, client: Arc<Client>, serve: S, context: Arc<Context>) {
    let shared = Arc::new(Shared::new(quinn, client, Arc::clone(&context)));
    shared.context.metrics.connections.inc();
    let _guard = CloseOnDrop(Arc::clone(&shared));
    let Some(mut control) = Box::pin(open_control(&shared)).await else {
        return shared.close(Code::STREAM_CREATION_ERROR, "no credit for a control stream");
    };
    context.tasks.spawn(streams::read_all(Arc::clone(&shared)));
    let mut next = 0;
    let mut draining = pin!(context.parting.due(&context.tasks));
    loop {
        tokio::select! {
            biased;
            accepted = shared.quinn.accept_bi() => match accepted {
                Ok((send, receive)) => next = begin(&shared, send, receive, &serve),
                Err(_) => return,
            },
            () = &mut draining => break,
        }
    }
    Box::pin(drain(&shared, &mut control, next, &serve)).await;
}

/// Closes the connection when its task ends for whatever reason.
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.context.metrics.connections.dec();
        self.0.quinn.close(Code::NO_ERROR.varint(), b"");
    }
}

/// Opens our control stream and sends SETTINGS. `None` if the client gives no credit for it, or is gone.
async fn open_control(shared: &Shared) -> Option<SendStream> {
    let limits = &shared.context.limits;
    let opening = settings::opening(limits.field_section_max, fastrand::u32(..));
    let open = async {
        let mut control = shared.quinn.open_uni().await.ok()?;
        let _ = control.set_priority(CONTROL_PRIORITY);
        control.write_chunk(opening).await.ok()?;
        Some(control)
    };
    tokio::time::timeout(limits.header_timeout, open).await.ok().flatten()
}

/// Spawns the task of a request; the id of the stream that may come next.
fn begin<S: Serve>(shared: &Arc<Shared>, send: SendStream, receive: RecvStream, serve: &S) -> u64 {
    let id = u64::from(quinn::VarInt::from(send.id()));
    let active = shared.begin();
    shared.context.tasks.spawn(request::run(Arc::clone(shared), active, send, receive, serve.clone()));
    id.saturating_add(4)
}

/// Tells the client, lets what is on its way arrive for a round trip, rejects what comes later, finishes the rest, closes.
async fn drain<S: Serve>(shared: &Arc<Shared>, control: &mut SendStream, mut next: u64, serve: &S) {
    if !goaway(shared, control, GOAWAY_NOTHING).await {
        return;
    }
    let mut round_trip = pin!(tokio::time::sleep(shared.quinn.rtt().max(DRAIN_MIN)));
    loop {
        tokio::select! {
            biased;
            accepted = shared.quinn.accept_bi() => match accepted {
                Ok((send, receive)) => next = begin(shared, send, receive, serve),
                Err(_) => return,
            },
            () = &mut round_trip => break,
        }
    }
    if !goaway(shared, control, next).await {
        return;
    }
    loop {
        tokio::select! {
            biased;
            accepted = shared.quinn.accept_bi() => match accepted {
                Ok((send, receive)) => reject(shared, send, receive),
                Err(_) => return,
            },
            () = shared.idle() => break,
        }
    }
    shared.quinn.close(Code::NO_ERROR.varint(), b"drained");
}

/// A request after GOAWAY: not processed, so safe to send again (RFC 9114 section 4.1.1).
fn reject(shared: &Shared, mut send: SendStream, mut receive: RecvStream) {
    shared.context.metrics.rejected.inc();
    // Errors here mean that the stream is gone already.
    let _ = send.reset(Code::REQUEST_REJECTED.varint());
    let _ = receive.stop(Code::REQUEST_REJECTED.varint());
}

/// Sends GOAWAY; false if that is not possible any more.
async fn goaway(shared: &Shared, control: &mut SendStream, id: u64) -> bool {
    let mut payload = Vec::with_capacity(8);
    varint::put(&mut payload, id);
    let mut out = Vec::with_capacity(12);
    frame::put_head(&mut out, frame::GOAWAY, payload.len() as u64);
    out.put_slice(&payload);
    let sent = tokio::time::timeout(shared.context.limits.header_timeout, control.write_all(&out)).await;
    matches!(sent, Ok(Ok(())))
}
