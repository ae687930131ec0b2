//! The gateway's side of an exchange: takes what the client sent, checks each byte, answers as the scenario says, in the
//! form of the real gateway (answer or cancellation, a fault resets).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use trunkline::fault::Fault;
use trunkline::tunnel::code::ResetCode;
use trunkline::tunnel::exchange::{Event, ExchangeReader, ExchangeWriter};
use trunkline::tunnel::message::{self, ResponseHead};

use crate::host::Host;
use crate::scenario::{Mode, Request};
use crate::world::{Checker, bytes, request_key, response_key};

/// Serves one exchange to its end.
pub async fn serve(host: Arc<Host>, mut writer: ExchangeWriter, mut reader: ExchangeReader) {
    let exchange = writer.exchange().clone();
    let (id, attempt) = match reader.next().await {
        Ok(Event::Head(payload)) => match read_head(payload) {
            Some(head) => head,
            None => return host.world.violate("a HEAD that nobody sent".into()),
        },
        Ok(other) => return host.world.violate(format!("{other:?} instead of HEAD")),
        Err(fault) => {
            host.world.note(|| format!("{host:?}: an exchange ended before its HEAD: {fault:?}"));
            return writer.abort(fault);
        }
    };
    let Some(request) = host.world.scenario.requests.get(id).cloned() else {
        return host.world.violate(format!("request {id} does not exist"));
    };
    if request.mode == Mode::Reject && attempt == 0 {
        return writer.abort(ResetCode::Rejected.fault());
    }
    host.world.see(id, |seen| seen.executions += 1);
    host.world.note(|| format!("{host:?}: request {id} begins"));
    let outcome = tokio::select! {
        biased;
        outcome = answer(&host, id, &request, &mut writer, reader) => outcome,
        fault = exchange.cancelled() => Err(fault),
    };
    host.world.note(|| format!("{host:?}: request {id} served: {outcome:?}"));
    if let Err(fault) = outcome {
        writer.abort(fault);
    }
}

fn read_head(payload: bytes::Bytes) -> Option<(usize, u64)> {
    let (head, meta) = message::get_request(payload).ok()?;
    let id = std::str::from_utf8(&meta.request_id).ok()?.parse().ok()?;
    (head.path.as_str() == format!("/{id}")).then_some((id, meta.attempt))
}

async fn answer(
    host: &Arc<Host>,
    id: usize,
    request: &Request,
    writer: &mut ExchangeWriter,
    mut reader: ExchangeReader,
) -> Result<(), Fault> {
    let mut body = RequestBody { host, id, check: Checker::new(request_key(id), request.request_len) };
    match request.mode {
        Mode::Echo => echo(&mut body, request, writer, &mut reader).await,
        Mode::Duplex => {
            let respond = respond(id, request, writer, request.response_len);
            let (read, responded) = tokio::join!(body.read_all(&mut reader), respond);
            read.and(responded)?;
            finish(writer, body.check.received).await
        }
        Mode::Early => {
            body.read_piece(&mut reader).await?;
            drop(reader);
            respond(id, request, writer, request.response_len).await?;
            finish(writer, 0).await
        }
        Mode::Break => {
            body.read_all(&mut reader).await?;
            respond(id, request, writer, request.response_len / 2).await?;
            Err(ResetCode::UpstreamIncomplete.fault())
        }
        Mode::Store | Mode::Reject => {
            body.read_all(&mut reader).await?;
            respond(id, request, writer, request.response_len).await?;
            finish(writer, body.check.received).await
        }
    }
}

async fn echo(
    body: &mut RequestBody<'_>,
    request: &Request,
    writer: &mut ExchangeWriter,
    reader: &mut ExchangeReader,
) -> Result<(), Fault> {
    writer.response(&ok());
    writer.flush().await?;
    while let Some(data) = body.read_piece(reader).await? {
        pause(request.handler_pace_ms).await;
        writer.body(data);
        writer.flush().await?;
    }
    finish(writer, body.check.received).await
}

/// The head and the first `length` bytes of the response.
async fn respond(id: usize, request: &Request, writer: &mut ExchangeWriter, length: u64) -> Result<(), Fault> {
    writer.accepted();
    writer.response(&ok());
    writer.flush().await?;
    let mut sent = 0;
    while sent < length {
        pause(request.handler_pace_ms).await;
        let to = (sent + request.piece).min(length);
        writer.body(bytes(response_key(id), sent, to));
        writer.flush().await?;
        sent = to;
    }
    Ok(())
}

/// The end, with what was received in a trailer.
async fn finish(writer: &mut ExchangeWriter, received: u64) -> Result<(), Fault> {
    writer.end(Some(&HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from(received))])));
    writer.flush().await
}

fn ok() -> ResponseHead {
    ResponseHead { status: StatusCode::OK, headers: HeaderMap::new() }
}

pub async fn pause(millis: u64) {
    if millis > 0 {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

struct RequestBody<'a> {
    host: &'a Arc<Host>,
    id: usize,
    check: Checker,
}

impl RequestBody<'_> {
    /// The next piece, or `None` at the end of the whole request.
    async fn read_piece(&mut self, reader: &mut ExchangeReader) -> Result<Option<bytes::Bytes>, Fault> {
        match reader.next().await? {
            Event::Body(data) => {
                let outcome = self.check.take(&data);
                self.judge(outcome);
                let received = self.check.received;
                self.host.world.see(self.id, |seen| seen.progress.0 = received);
                Ok(Some(data))
            }
            Event::End(None) => {
                self.judge(self.check.end());
                Ok(None)
            }
            other => {
                self.judge(Err(format!("unexpected {other:?}")));
                Ok(None)
            }
        }
    }

    async fn read_all(&mut self, reader: &mut ExchangeReader) -> Result<(), Fault> {
        while self.read_piece(reader).await?.is_some() {}
        Ok(())
    }

    fn judge(&self, outcome: Result<(), String>) {
        if let Err(what) = outcome {
            self.host.world.violate(format!("request {}: its body at the handler: {what}", self.id));
        }
    }
}
