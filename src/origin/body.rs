//! The request body on its way from the exchange to the upstream. Called by the upstream client as it takes bytes: the
//! client is asked for no more than that.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::fault::Fault;
use crate::observe::record::{Received, Record};
use crate::tunnel::code::ResetCode;
use crate::tunnel::exchange::{Event, ExchangeReader};

/// See the module. Dropping it before its end tells the edge that the rest is not needed.
pub struct RequestBody {
    reader: ExchangeReader,
    received: Option<Received>,
}

impl RequestBody {
    /// The body that follows on `reader`, counted in `record`.
    pub fn new(reader: ExchangeReader, record: &mut Record, bodiless: bool) -> Self {
        Self { reader, received: (!bodiless).then(|| record.received()) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        if this.reader.is_ended() {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(this.reader.poll_next(cx)) {
            Ok(Event::Body(data)) => {
                if let Some(received) = &this.received {
                    received.add(data.len() as u64);
                }
                Some(Ok(Frame::data(data)))
            }
            Ok(Event::End(trailers)) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Ok(_) => Some(Err(ResetCode::Protocol.fault())),
            Err(fault) => Some(Err(fault)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.reader.is_ended()
    }

    fn size_hint(&self) -> SizeHint {
        if self.reader.is_ended() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}
