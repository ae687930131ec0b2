//! Layer 1's control stream: the first bidirectional stream of the dialler, highest priority, never closed before the
//! connection. Codec only (sans-IO); [`super::link`] drives it.
//!
//! A frame is type, length, payload. HELLO, REGISTER, REGISTERED and DRAIN hold type-length-value fields, the others
//! plain varints. Unknown even types are ignored, unknown odd ones are an error, in frames and in fields.

use bytes::{Buf, Bytes, BytesMut};

use super::wire::{
    WireError, get_bytes, get_item, get_varint, put_bytes, put_item, put_varint, put_varint_item, text, try_varint,
    unknown,
};

/// Largest payload of a control frame, bytes.
pub const CONTROL_FRAME_MAX: u64 = 64 << 10;
/// Most names in one REGISTER.
pub const SERVICES_MAX: usize = 256;

const HELLO: u64 = 0x01;
const HEARTBEAT: u64 = 0x02;
const REGISTER: u64 = 0x03;
const LOAD: u64 = 0x04;
const REGISTERED: u64 = 0x05;
const DRAIN: u64 = 0x07;
const READY: u64 = 0x09;
const PROBE: u64 = 0x0b;
const PROBED: u64 = 0x0d;
const ACK: u64 = 0x0f;
const ERROR: u64 = 0x11;

/// One frame of the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// The first frame of each side.
    Hello(Hello),
    /// The services of the sender; replaces what it registered before.
    Register(Register),
    /// The answer to REGISTER.
    Registered(Registered),
    /// Nothing else was sent in the last interval. Holds the sender's count of heartbeats.
    Heartbeat(u64),
    /// How busy the sender is.
    Load(Load),
    /// The sender wants no new exchanges.
    Drain(Drain),
    /// The answer to DRAIN: what moves has moved.
    Ready,
    /// Asks for PROBED with the same number.
    Probe(u64),
    /// The answer to PROBE.
    Probed(u64),
    /// Cumulative acknowledgements with credit, over many exchanges.
    Ack(Vec<Ack>),
    /// Why the sender is about to close.
    Error {
        /// A [`super::code::CloseCode`].
        code: u64,
        /// For the other end's log.
        reason: String,
    },
}

/// Who speaks, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Name of the PoP or gateway, as in its certificate.
    pub node: String,
    /// Fresh for each process: exchanges live between two instances.
    pub instance: u64,
    /// Version of the program, for logs.
    pub build: String,
    /// Opens exchanges (an edge).
    pub sends: bool,
    /// Takes exchanges (an origin).
    pub serves: bool,
    /// Credit that an exchange starts with towards the sender of this HELLO, bytes.
    pub window: u64,
}

/// What an origin serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Register {
    /// Rises with each REGISTER of one process; an older one is ignored.
    pub sequence: u64,
    /// Names.
    pub services: Vec<String>,
    /// Share of the work this link wants, relative to others; 0: warm standby.
    pub weight: u64,
}

/// What an edge made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// The REGISTER this answers.
    pub sequence: u64,
    /// Names that requests will come for.
    pub accepted: Vec<String>,
    /// Names refused, each with the reason.
    pub refused: Vec<(String, String)>,
    /// Other PoPs (`host:port`).
    pub pops: Vec<String>,
}

/// How busy the sender is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Exchanges in flight at the sender, over all its links.
    pub in_flight: u64,
    /// It would rather have no new ones.
    pub busy: bool,
    /// Smoothed time from upstream request to response head, microseconds.
    pub upstream_micros: u64,
    /// Packets lost lately on the way to the receiver of this frame, thousandths: it cannot see that itself.
    pub lost_permille: u64,
}

/// A planned end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// For the log.
    pub reason: String,
    /// Milliseconds until the sender closes whatever still runs.
    pub deadline_millis: u64,
    /// Where to go (`host:port`).
    pub next: Vec<String>,
}

/// One exchange's acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Counter part of the exchange's id.
    pub exchange: u64,
    /// Bytes received in order, from the exchange's start; or [`Ack::GIVEN_UP`].
    pub offset: u64,
    /// How many bytes beyond `offset` may be sent.
    pub window: u64,
}

impl Ack {
    /// The offset by which an edge says that it gave the exchange up and needs none of what is kept for it.
    pub const GIVEN_UP: u64 = (1 << 62) - 1;
}

impl Control {
    /// Appends the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut payload = BytesMut::new();
        let kind = self.encode_payload(&mut payload);
        put_varint(out, kind);
        put_bytes(out, &payload);
    }

    fn encode_payload(&self, out: &mut BytesMut) -> u64 {
        match self {
            Self::Hello(hello) => hello.encode(out),
            Self::Register(register) => register.encode(out),
            Self::Registered(registered) => registered.encode(out),
            Self::Heartbeat(count) => put_all(out, HEARTBEAT, &[*count]),
            Self::Load(load) => {
                put_all(out, LOAD, &[load.in_flight, u64::from(load.busy), load.upstream_micros, load.lost_permille])
            }
            Self::Drain(drain) => drain.encode(out),
            Self::Ready => READY,
            Self::Probe(number) => put_all(out, PROBE, &[*number]),
            Self::Probed(number) => put_all(out, PROBED, &[*number]),
            Self::Ack(acks) => {
                for ack in acks {
                    put_all(out, ACK, &[ack.exchange, ack.offset, ack.window]);
                }
                ACK
            }
            Self::Error { code, reason } => {
                put_varint(out, *code);
                put_bytes(out, reason.as_bytes());
                ERROR
            }
        }
    }

    fn decode(kind: u64, mut payload: Bytes) -> Result<Option<Self>, WireError> {
        let payload = &mut payload;
        Ok(Some(match kind {
            HELLO => Self::Hello(Hello::decode(payload)?),
            REGISTER => Self::Register(Register::decode(payload)?),
            REGISTERED => Self::Registered(Registered::decode(payload)?),
            HEARTBEAT => Self::Heartbeat(get_varint(payload)?),
            LOAD => Self::Load(Load {
                in_flight: get_varint(payload)?,
                busy: get_varint(payload)? != 0,
                upstream_micros: get_varint(payload)?,
                lost_permille: get_varint(payload)?.min(1_000),
            }),
            DRAIN => Self::Drain(Drain::decode(payload)?),
            READY => Self::Ready,
            PROBE => Self::Probe(get_varint(payload)?),
            PROBED => Self::Probed(get_varint(payload)?),
            ACK => Self::Ack(decode_acks(payload)?),
            ERROR => Self::Error { code: get_varint(payload)?, reason: text(&get_bytes(payload)?)? },
            other => {
                unknown(other)?;
                return Ok(None);
            }
        }))
    }
}

fn put_all(out: &mut BytesMut, kind: u64, values: &[u64]) -> u64 {
    for value in values {
        put_varint(out, *value);
    }
    kind
}

fn decode_acks(payload: &mut Bytes) -> Result<Vec<Ack>, WireError> {
    let mut acks = Vec::new();
    while payload.has_remaining() {
        let ack = Ack { exchange: get_varint(payload)?, offset: get_varint(payload)?, window: get_varint(payload)? };
        acks.push(ack);
    }
    Ok(acks)
}

impl Hello {
    fn encode(&self, out: &mut BytesMut) -> u64 {
        put_item(out, 1, self.node.as_bytes());
        put_varint_item(out, 3, self.instance);
        put_item(out, 2, self.build.as_bytes());
        put_varint_item(out, 5, u64::from(self.sends) | u64::from(self.serves) << 1);
        put_varint_item(out, 7, self.window);
        HELLO
    }

    fn decode(payload: &mut Bytes) -> Result<Self, WireError> {
        let mut hello = Self::default();
        while let Some((kind, mut value)) = get_item(payload)? {
            match kind {
                1 => hello.node = text(&value)?,
                2 => hello.build = text(&value)?,
                3 => hello.instance = get_varint(&mut value)?,
                5 => {
                    let flags = get_varint(&mut value)?;
                    (hello.sends, hello.serves) = (flags & 1 != 0, flags & 2 != 0);
                }
                7 => hello.window = get_varint(&mut value)?,
                other => unknown(other)?,
            }
        }
        if hello.node.is_empty() {
            return Err(WireError::Range("node"));
        }
        if hello.window == 0 {
            // No exchange could ever send its first byte.
            return Err(WireError::Range("window"));
        }
        Ok(hello)
    }
}

impl Register {
    fn encode(&self, out: &mut BytesMut) -> u64 {
        put_varint_item(out, 1, self.sequence);
        for service in &self.services {
            put_item(out, 3, service.as_bytes());
        }
        put_varint_item(out, 5, self.weight);
        REGISTER
    }

    fn decode(payload: &mut Bytes) -> Result<Self, WireError> {
        let mut register = Self { weight: 1, ..Self::default() };
        while let Some((kind, mut value)) = get_item(payload)? {
            match kind {
                1 => register.sequence = get_varint(&mut value)?,
                3 if register.services.len() == SERVICES_MAX => return Err(WireError::Range("services")),
                3 => register.services.push(text(&value)?),
                5 => register.weight = get_varint(&mut value)?,
                other => unknown(other)?,
            }
        }
        Ok(register)
    }
}

impl Registered {
    fn encode(&self, out: &mut BytesMut) -> u64 {
        put_varint_item(out, 1, self.sequence);
        for name in &self.accepted {
            put_item(out, 3, name.as_bytes());
        }
        for (name, reason) in &self.refused {
            let mut pair = BytesMut::new();
            put_bytes(&mut pair, name.as_bytes());
            put_bytes(&mut pair, reason.as_bytes());
            put_item(out, 5, &pair);
        }
        for pop in &self.pops {
            put_item(out, 6, pop.as_bytes());
        }
        REGISTERED
    }

    fn decode(payload: &mut Bytes) -> Result<Self, WireError> {
        let mut registered = Self::default();
        while let Some((kind, mut value)) = get_item(payload)? {
            match kind {
                1 => registered.sequence = get_varint(&mut value)?,
                3 => registered.accepted.push(text(&value)?),
                5 => registered.refused.push((text(&get_bytes(&mut value)?)?, text(&get_bytes(&mut value)?)?)),
                6 => registered.pops.push(text(&value)?),
                other => unknown(other)?,
            }
        }
        Ok(registered)
    }
}

impl Drain {
    fn encode(&self, out: &mut BytesMut) -> u64 {
        put_item(out, 2, self.reason.as_bytes());
        put_varint_item(out, 3, self.deadline_millis);
        for next in &self.next {
            put_item(out, 4, next.as_bytes());
        }
        DRAIN
    }

    fn decode(payload: &mut Bytes) -> Result<Self, WireError> {
        let mut drain = Self::default();
        while let Some((kind, mut value)) = get_item(payload)? {
            match kind {
                2 => drain.reason = text(&value)?,
                3 => drain.deadline_millis = get_varint(&mut value)?,
                4 => drain.next.push(text(&value)?),
                other => unknown(other)?,
            }
        }
        Ok(drain)
    }
}

/// Takes the bytes of a control stream in any pieces and gives its frames.
#[derive(Debug, Default)]
pub struct ControlDecoder {
    buffer: BytesMut,
}

impl ControlDecoder {
    /// Appends received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame that is known, or `None` if more bytes are needed.
    pub fn poll_frame(&mut self) -> Result<Option<Control>, WireError> {
        loop {
            let mut peek = &self.buffer[..];
            let (Some(kind), Some(length)) = (try_varint(&mut peek), try_varint(&mut peek)) else {
                return Ok(None);
            };
            if length > CONTROL_FRAME_MAX {
                return Err(WireError::TooLong { what: "control frame", length, max: CONTROL_FRAME_MAX });
            }
            let header = self.buffer.len() - peek.len();
            let length = usize::try_from(length).map_err(|_| WireError::Range("length"))?;
            if peek.len() < length {
                return Ok(None);
            }
            self.buffer.advance(header);
            let payload = self.buffer.split_to(length).freeze();
            if let Some(frame) = Control::decode(kind, payload)? {
                return Ok(Some(frame));
            }
        }
    }
}

/// Appends a frame of a reserved even type with a few random bytes (grease): a peer that chokes on it is found early.
pub fn grease(out: &mut BytesMut, random: u64) {
    put_varint(out, 0x40 + (random % 64) * 0x3e);
    put_bytes(out, &random.to_be_bytes()[..(random % 8) as usize]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_control() -> impl Strategy<Value = Control> {
        let name = "[a-z]{1,12}";
        let number = 0..(1u64 << 60);
        prop_oneof![
            (name, number.clone(), any::<bool>(), any::<bool>()).prop_map(|(node, instance, sends, serves)| {
                Control::Hello(Hello { node, instance, sends, serves, window: 7, ..Hello::default() })
            }),
            (proptest::collection::vec(name, 0..5), number.clone())
                .prop_map(|(services, sequence)| Control::Register(Register { sequence, services, weight: 3 })),
            proptest::collection::vec((name, name), 0..4).prop_map(|refused| {
                Control::Registered(Registered { sequence: 1, refused, pops: vec!["a:1".into()], ..Default::default() })
            }),
            number.clone().prop_map(Control::Heartbeat),
            number.clone().prop_map(Control::Probe),
            (number.clone(), any::<bool>(), 0u64..=1_000).prop_map(|(in_flight, busy, lost_permille)| {
                Control::Load(Load { in_flight, busy, upstream_micros: in_flight / 3, lost_permille })
            }),
            Just(Control::Ready),
            name.prop_map(|reason| Control::Drain(Drain { reason, deadline_millis: 9, next: vec!["b:2".into()] })),
            proptest::collection::vec((number.clone(), number.clone(), number), 1..9).prop_map(|acks| {
                Control::Ack(
                    acks.into_iter().map(|(exchange, offset, window)| Ack { exchange, offset, window }).collect(),
                )
            }),
        ]
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_frames(
            frames in proptest::collection::vec(any_control(), 1..6),
            cuts in proptest::collection::vec(1usize..40, 1..80),
            random in any::<u64>(),
        ) {
            let mut bytes = BytesMut::new();
            for frame in &frames {
                frame.encode(&mut bytes);
                grease(&mut bytes, random);
            }
            let (mut decoder, mut got, mut rest) = (ControlDecoder::default(), Vec::new(), &bytes[..]);
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() { break }
                let (now, later) = rest.split_at(cut.min(rest.len()));
                decoder.push(now);
                rest = later;
                while let Some(frame) = decoder.poll_frame().unwrap() { got.push(frame) }
            }
            prop_assert_eq!(got, frames);
        }

        #[test]
        fn any_bytes_give_frames_or_an_error(input in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = ControlDecoder::default();
            decoder.push(&input);
            while let Ok(Some(_)) = decoder.poll_frame() {}
        }
    }

    #[test]
    fn an_unknown_odd_frame_is_an_error_and_a_huge_one_is_refused_before_it_is_buffered() {
        let mut decoder = ControlDecoder::default();
        decoder.push(&[0x3f, 0]);
        assert_eq!(decoder.poll_frame(), Err(WireError::UnknownType(0x3f)));
        let mut decoder = ControlDecoder::default();
        decoder.push(&[0x02, 0xbf, 0xff, 0xff, 0xff]);
        assert!(matches!(decoder.poll_frame(), Err(WireError::TooLong { .. })));
    }
}
