//! Stage 1, HTTP/3: the frames of the client's control stream (RFC 9114 section 7.2, RFC 9218 section 7). Fed by `streams`;
//! acts on nothing but [`Shared`].

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::code::{Code, Error};
use super::frame::{self, Decoder, Event};
use super::shared::Shared;
use super::{priority, settings, varint};

/// Control frames a client may send, besides [`FRAMES_PER_REQUEST`]: more can only be meant to keep us busy.
const FRAMES_MAX: u64 = 1000;
/// Browsers change the priority of a request a few times.
const FRAMES_PER_REQUEST: u64 = 20;

/// The reader of the client's control stream.
pub struct Control {
    decoder: Decoder,
    settings: bool,
    goaway: Option<u64>,
    max_push_id: Option<u64>,
    frames: u64,
}

impl Default for Control {
    fn default() -> Self {
        Self { decoder: Decoder::control(), settings: false, goaway: None, max_push_id: None, frames: 0 }
    }
}

impl Control {
    /// Takes bytes of the stream; errors are connection errors.
    pub fn feed(&mut self, mut bytes: Bytes, shared: &Shared) -> Result<(), Error> {
        while let Some(event) = self.decoder.decode(&mut bytes)? {
            self.frames += 1;
            if self.frames > FRAMES_MAX + FRAMES_PER_REQUEST * shared.requests() {
                return Err(Error::Connection(Code::EXCESSIVE_LOAD, "too many control frames"));
            }
            if let Event::Control(kind, payload) = event {
                self.handle_frame(kind, payload, shared)?;
            }
        }
        Ok(())
    }

    fn handle_frame(&mut self, kind: u64, payload: Bytes, shared: &Shared) -> Result<(), Error> {
        match kind {
            frame::SETTINGS if self.settings => {
                Err(Error::Connection(Code::FRAME_UNEXPECTED, "SETTINGS twice"))
            }
            frame::SETTINGS => {
                self.settings = true;
                let settings = settings::parse(payload)?;
                shared.field_section_max.store(settings.field_section_max, Ordering::Relaxed);
                Ok(())
            }
            frame::GOAWAY => self.handle_goaway(only_id(payload)?),
            frame::MAX_PUSH_ID => self.handle_max_push_id(only_id(payload)?),
            frame::CANCEL_PUSH => {
                only_id(payload)?;
                Err(Error::Connection(Code::ID_ERROR, "CANCEL_PUSH of a push never promised"))
            }
            frame::PRIORITY_UPDATE_REQUEST => handle_priority(payload, shared),
            frame::PRIORITY_UPDATE_PUSH => {
                Err(Error::Connection(Code::ID_ERROR, "PRIORITY_UPDATE of a push never promised"))
            }
            _ => Ok(()),
        }
    }

    /// The client will accept no pushes from this id on. It ends nothing: we never push, and its requests go on.
    fn handle_goaway(&mut self, id: u64) -> Result<(), Error> {
        if self.goaway.replace(id).is_some_and(|before| id > before) {
            return Err(Error::Connection(Code::ID_ERROR, "GOAWAY with a growing id"));
        }
        Ok(())
    }

    fn handle_max_push_id(&mut self, id: u64) -> Result<(), Error> {
        if self.max_push_id.replace(id).is_some_and(|before| id < before) {
            return Err(Error::Connection(Code::ID_ERROR, "MAX_PUSH_ID with a shrinking id"));
        }
        Ok(())
    }
}

/// A payload that is one id and nothing else.
fn only_id(mut payload: Bytes) -> Result<u64, Error> {
    let id = varint::take(&mut payload);
    id.filter(|_| payload.is_empty()).ok_or(Error::Connection(Code::FRAME_ERROR, "frame is not one id"))
}

fn handle_priority(mut payload: Bytes, shared: &Shared) -> Result<(), Error> {
    let id = varint::take(&mut payload).ok_or(Error::Connection(Code::FRAME_ERROR, "PRIORITY_UPDATE is cut"))?;
    // As many streams as may be open can be on their way here, and as many again in the client's credit.
    let limit = shared.requests() + 2 * u64::from(shared.context.limits.streams_max);
    if id % 4 != 0 || id / 4 > limit {
        return Err(Error::Connection(Code::ID_ERROR, "PRIORITY_UPDATE of no request stream"));
    }
    shared.updates.put(id, priority::parse(&payload));
    Ok(())
}
