//! Stage 1, HTTP/3: frames of request and control streams (RFC 9114 section 7), without I/O.
//!
//! [`Decoder`] takes whatever pieces the stream delivers. DATA passes through without a copy, frames that must be seen
//! whole are refused by their announced length before a byte of them is kept, unknown frames are skipped as they come.
//! Owned by the reader of one stream; never reads or writes one.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::code::{Code, Error};
use super::varint;

/// DATA.
pub const DATA: u64 = 0x00;
/// HEADERS.
pub const HEADERS: u64 = 0x01;
/// CANCEL_PUSH.
pub const CANCEL_PUSH: u64 = 0x03;
/// SETTINGS.
pub const SETTINGS: u64 = 0x04;
/// PUSH_PROMISE.
pub const PUSH_PROMISE: u64 = 0x05;
/// GOAWAY.
pub const GOAWAY: u64 = 0x07;
/// MAX_PUSH_ID.
pub const MAX_PUSH_ID: u64 = 0x0d;
/// PRIORITY_UPDATE of a request stream (RFC 9218 section 7.2).
pub const PRIORITY_UPDATE_REQUEST: u64 = 0xf0700;
/// PRIORITY_UPDATE of a push.
pub const PRIORITY_UPDATE_PUSH: u64 = 0xf0701;

/// The longest frame of a control stream that is taken: SETTINGS with a hundred settings, or a long priority.
const CONTROL_FRAME_MAX: usize = 2048;
/// The longest frame head: two integers.
const HEAD_MAX: usize = 16;

/// The stream a decoder reads: which frames may be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A request stream: HEADERS, DATA.
    Request,
    /// The client's control stream: everything else a client may send.
    Control,
}

/// What came out of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Part of a DATA payload; never empty. Frame boundaries mean nothing.
    Data(Bytes),
    /// A whole HEADERS payload.
    Headers(Bytes),
    /// HEADERS longer than allowed; its payload is skipped.
    HeadersTooLarge,
    /// A whole frame of a control stream.
    Control(u64, Bytes),
}

/// Where in a frame the decoder stands.
#[derive(Debug)]
enum State {
    /// Within type and length; the bytes so far when they came in pieces.
    Head([u8; HEAD_MAX], usize),
    /// Collecting the payload of a frame with this type.
    Collect(u64, usize, BytesMut),
    /// Passing DATA on.
    Pass(u64),
    /// Skipping.
    Skip(u64),
}

const BETWEEN: State = State::Head([0; HEAD_MAX], 0);

/// An incremental frame decoder for one stream.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    headers_max: usize,
    /// A control stream whose first frame is still due.
    fresh: bool,
    state: State,
}

impl Decoder {
    /// For a request stream, with HEADERS of `headers_max` bytes at most.
    pub fn request(headers_max: usize) -> Self {
        Self { role: Role::Request, headers_max, fresh: false, state: BETWEEN }
    }

    /// For a control stream.
    pub fn control() -> Self {
        Self { role: Role::Control, headers_max: 0, fresh: true, state: BETWEEN }
    }

    /// Takes from `input` until something comes out, or nothing is left in it (`None`).
    ///
    /// Errors are connection errors: a frame that may not be here, or is too long to be honest.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Event>, Error> {
        while !input.is_empty() {
            if let Some(event) = self.step(input)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Whether the stream may end here; otherwise its last frame is truncated (RFC 9114 section 7.1).
    pub fn finish(&self) -> Result<(), Error> {
        match self.state {
            State::Head(_, 0) => Ok(()),
            _ => Err(Error::Connection(Code::FRAME_ERROR, "the last frame is truncated")),
        }
    }

    fn step(&mut self, input: &mut Bytes) -> Result<Option<Event>, Error> {
        match &mut self.state {
            State::Head(head, have) => {
                let Some((kind, length)) = take_head(head, have, input) else { return Ok(None) };
                self.begin(kind, length, input)
            }
            State::Collect(kind, left, payload) => {
                let part = input.split_to(input.len().min(*left));
                *left -= part.len();
                payload.extend_from_slice(&part);
                if *left > 0 {
                    return Ok(None);
                }
                let (kind, payload) = (*kind, payload.split().freeze());
                Ok(Some(self.whole(kind, payload)))
            }
            State::Pass(left) => {
                let part = split_up_to(input, *left);
                self.pass_or_skip(part.len());
                Ok(Some(Event::Data(part)))
            }
            State::Skip(left) => {
                let skipped = split_up_to(input, *left).len();
                self.pass_or_skip(skipped);
                Ok(None)
            }
        }
    }

    /// Counts bytes of a payload that is not collected.
    fn pass_or_skip(&mut self, bytes: usize) {
        if let State::Pass(left) | State::Skip(left) = &mut self.state {
            *left = left.saturating_sub(bytes as u64);
            if *left == 0 {
                self.state = BETWEEN;
            }
        }
    }

    fn whole(&mut self, kind: u64, payload: Bytes) -> Event {
        self.state = BETWEEN;
        if kind == HEADERS { Event::Headers(payload) } else { Event::Control(kind, payload) }
    }

    /// A frame head is complete: may the frame be here, and what becomes of its payload?
    fn begin(&mut self, kind: u64, length: u64, input: &mut Bytes) -> Result<Option<Event>, Error> {
        if std::mem::take(&mut self.fresh) && kind != SETTINGS {
            return Err(Error::Connection(Code::MISSING_SETTINGS, "control stream begins without SETTINGS"));
        }
        match (kind, self.role) {
            (DATA, Role::Request) => {
                self.state = if length == 0 { BETWEEN } else { State::Pass(length) };
                Ok(None)
            }
            (HEADERS, Role::Request) => match usize::try_from(length) {
                Ok(length) if length <= self.headers_max => Ok(self.collect(kind, length, input)),
                _ => {
                    self.state = State::Skip(length);
                    Ok(Some(Event::HeadersTooLarge))
                }
            },
            (
                CANCEL_PUSH | SETTINGS | GOAWAY | MAX_PUSH_ID | PRIORITY_UPDATE_REQUEST | PRIORITY_UPDATE_PUSH,
                Role::Control,
            ) => match usize::try_from(length) {
                Ok(length) if length <= CONTROL_FRAME_MAX => Ok(self.collect(kind, length, input)),
                _ => Err(Error::Connection(Code::EXCESSIVE_LOAD, "control frame too long")),
            },
            _ if is_known(kind) => Err(Error::Connection(Code::FRAME_UNEXPECTED, "frame not allowed on this stream")),
            // RFC 9114 section 9: unknown types are ignored.
            _ => {
                self.state = if length == 0 { BETWEEN } else { State::Skip(length) };
                Ok(None)
            }
        }
    }

    /// Takes the payload at once if it is all there, without a copy; otherwise starts to collect.
    fn collect(&mut self, kind: u64, length: usize, input: &mut Bytes) -> Option<Event> {
        if input.len() >= length {
            let payload = input.split_to(length);
            return Some(self.whole(kind, payload));
        }
        // Grows with what arrives: the announced length is only a promise.
        let mut payload = BytesMut::with_capacity(input.len());
        payload.extend_from_slice(input);
        let left = length - input.len();
        input.clear();
        self.state = State::Collect(kind, left, payload);
        None
    }
}

/// Types of RFC 9114 and RFC 9218, and those HTTP/2 had (RFC 9114 section 7.2.8).
fn is_known(kind: u64) -> bool {
    matches!(kind, 0..=9 | MAX_PUSH_ID | PRIORITY_UPDATE_REQUEST | PRIORITY_UPDATE_PUSH)
}

fn split_up_to(input: &mut Bytes, limit: u64) -> Bytes {
    let length = usize::try_from(limit).map_or(input.len(), |limit| limit.min(input.len()));
    input.split_to(length)
}

/// Takes type and length off the front, through `head` if they are cut.
fn take_head(head: &mut [u8; HEAD_MAX], have: &mut usize, input: &mut Bytes) -> Option<(u64, u64)> {
    if *have == 0 {
        let mut ahead: &[u8] = input;
        if let (Some(kind), Some(length)) = (varint::take(&mut ahead), varint::take(&mut ahead)) {
            let taken = input.len() - ahead.len();
            input.advance(taken);
            return Some((kind, length));
        }
    }
    while let Some(byte) = input.first().copied() {
        *head.get_mut(*have)? = byte;
        *have += 1;
        input.advance(1);
        let mut ahead = head.get(..*have)?;
        if let (Some(kind), Some(length)) = (varint::take(&mut ahead), varint::take(&mut ahead)) {
            return Some((kind, length));
        }
    }
    None
}

/// Appends a frame head.
pub fn put_head(out: &mut impl BufMut, kind: u64, length: u64) {
    varint::put(out, kind);
    varint::put(out, length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Decodes `bytes` cut into pieces of the given sizes (repeated); neighbouring data is joined.
    fn run(role: Role, bytes: &[u8], cuts: &[usize]) -> Result<(Vec<Event>, bool), Error> {
        let mut decoder = if role == Role::Request { Decoder::request(64) } else { Decoder::control() };
        let mut events: Vec<Event> = Vec::new();
        let mut rest = bytes;
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(cuts.next().map_or(rest.len(), |cut| (*cut).clamp(1, rest.len())));
            rest = after;
            let mut piece = Bytes::copy_from_slice(piece);
            while let Some(event) = decoder.decode(&mut piece)? {
                match (events.last_mut(), event) {
                    (Some(Event::Data(last)), Event::Data(more)) => *last = [&last[..], &more].concat().into(),
                    (_, event) => events.push(event),
                }
            }
        }
        Ok((events, decoder.finish().is_ok()))
    }

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_head(&mut out, kind, payload.len() as u64);
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn an_empty_data_frame_is_nothing_and_not_an_end() {
        let bytes = [frame(HEADERS, b"h"), frame(DATA, b""), frame(DATA, b"body")].concat();
        let (events, whole) = run(Role::Request, &bytes, &[]).unwrap();
        assert_eq!(events, [Event::Headers("h".into()), Event::Data("body".into())]);
        assert!(whole);
    }

    #[test]
    fn long_headers_are_refused_by_their_length_and_skipped() {
        let bytes = [frame(HEADERS, &[b'x'; 65]), frame(DATA, b"after")].concat();
        let (events, whole) = run(Role::Request, &bytes, &[1]).unwrap();
        assert_eq!(events, [Event::HeadersTooLarge, Event::Data("after".into())]);
        assert!(whole);
        let mut huge = Vec::new();
        put_head(&mut huge, HEADERS, varint::MAX);
        assert_eq!(run(Role::Request, &huge, &[]).unwrap(), (vec![Event::HeadersTooLarge], false));
    }

    #[test]
    fn an_announced_length_reserves_no_memory() {
        let mut decoder = Decoder::request(usize::MAX);
        let mut head = BytesMut::new();
        put_head(&mut head, HEADERS, 1 << 40);
        assert_eq!(decoder.decode(&mut head.freeze()), Ok(None));
        assert!(matches!(decoder.state, State::Collect(HEADERS, _, ref payload) if payload.capacity() < 1024));
    }

    #[test]
    fn frames_are_refused_where_they_may_not_be() {
        for kind in [2, 3, 4, 5, 6, 7, 8, 9, 0xd, 0xf0700, 0xf0701] {
            let error = run(Role::Request, &frame(kind, b""), &[]).unwrap_err();
            assert!(matches!(error, Error::Connection(Code::FRAME_UNEXPECTED, _)), "{kind:x}");
        }
        for kind in [0, 1, 2, 5, 6, 8, 9] {
            let error = run(Role::Control, &[frame(SETTINGS, b""), frame(kind, b"")].concat(), &[]).unwrap_err();
            assert!(matches!(error, Error::Connection(Code::FRAME_UNEXPECTED, _)), "{kind:x}");
        }
    }

    #[test]
    fn unknown_frames_are_skipped_without_being_kept() {
        let bytes = [frame(0x21, &[0; 5000]), frame(0x40, b""), frame(HEADERS, b"h")].concat();
        assert_eq!(run(Role::Request, &bytes, &[700]).unwrap(), (vec![Event::Headers("h".into())], true));
        let bytes = [frame(SETTINGS, b""), frame(0x21, &[0; 5000]), frame(GOAWAY, b"\0")].concat();
        let events = vec![Event::Control(SETTINGS, "".into()), Event::Control(GOAWAY, "\0".into())];
        assert_eq!(run(Role::Control, &bytes, &[]).unwrap(), (events, true));
        assert!(matches!(
            run(Role::Control, &frame(0x21, b""), &[]),
            Err(Error::Connection(Code::MISSING_SETTINGS, _))
        ));
    }

    #[test]
    fn a_truncated_frame_is_seen_at_the_end() {
        let bytes = frame(DATA, b"12345");
        for cut in 1..bytes.len() {
            assert!(!run(Role::Request, &bytes[..cut], &[]).unwrap().1, "cut at {cut}");
        }
    }

    fn any_frame() -> impl Strategy<Value = (u64, Vec<u8>)> {
        let kind = prop_oneof![Just(DATA), Just(DATA), Just(HEADERS), Just(0x21u64), Just(0x3fff), 0x40u64..=0xffff];
        (kind, vec(any::<u8>(), 0..80))
    }

    proptest! {
        #[test]
        fn frames_round_trip_however_they_are_cut(frames in vec(any_frame(), 0..8), cuts in vec(1usize..40, 0..6)) {
            let mut bytes = Vec::new();
            let mut expected: Vec<Event> = Vec::new();
            for (kind, payload) in &frames {
                bytes.extend(frame(*kind, payload));
                match (*kind, expected.last_mut()) {
                    (DATA, _) if payload.is_empty() => {}
                    (DATA, Some(Event::Data(last))) => *last = [&last[..], payload].concat().into(),
                    (DATA, _) => expected.push(Event::Data(payload.clone().into())),
                    (HEADERS, _) if payload.len() > 64 => expected.push(Event::HeadersTooLarge),
                    (HEADERS, _) => expected.push(Event::Headers(payload.clone().into())),
                    _ => {}
                }
            }
            prop_assert_eq!(run(Role::Request, &bytes, &cuts), Ok((expected, true)));
        }

        #[test]
        fn any_bytes_give_the_same_however_they_are_cut(
            bytes in vec(prop_oneof![0u8..16, any::<u8>()], 0..200), cuts in vec(1usize..9, 1..6), control: bool,
        ) {
            let role = if control { Role::Control } else { Role::Request };
            prop_assert_eq!(run(role, &bytes, &cuts), run(role, &bytes, &[]));
        }
    }
}
