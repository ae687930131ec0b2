//! Stage 1, HTTP/3: SETTINGS (RFC 9114 section 7.2.4), ours and the client's, without I/O.

use bytes::{BufMut, Bytes};

use super::code::{Code, Error};
use super::{frame, varint};

const QPACK_MAX_TABLE_CAPACITY: u64 = 0x01;
const MAX_FIELD_SECTION_SIZE: u64 = 0x06;
const QPACK_BLOCKED_STREAMS: u64 = 0x07;
/// RFC 9220 section 5.
const ENABLE_CONNECT_PROTOCOL: u64 = 0x08;
/// RFC 9297 section 2.1.1.
const H3_DATAGRAM: u64 = 0x33;

/// The type of a control stream.
const CONTROL_STREAM: u64 = 0x00;

/// What begins our control stream: its type and SETTINGS. `grease` makes an unknown setting that clients must ignore
/// (RFC 9114 section 7.2.4.1).
pub fn opening(field_section_max: usize, grease: u32) -> Bytes {
    let mut settings = Vec::with_capacity(48);
    for (id, value) in [
        (QPACK_MAX_TABLE_CAPACITY, 0),
        (MAX_FIELD_SECTION_SIZE, field_section_max as u64),
        (QPACK_BLOCKED_STREAMS, 0),
        (ENABLE_CONNECT_PROTOCOL, 1),
        (0x1f * u64::from(grease) + 0x21, u64::from(grease & 0x3f)),
    ] {
        varint::put(&mut settings, id);
        varint::put(&mut settings, value);
    }
    let mut out = Vec::with_capacity(64);
    varint::put(&mut out, CONTROL_STREAM);
    frame::put_head(&mut out, frame::SETTINGS, settings.len() as u64);
    out.put_slice(&settings);
    out.into()
}

/// What a client's SETTINGS mean to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The largest field section it takes, as RFC 9114 section 4.2.2 counts; `u64::MAX` if it has no limit.
    pub field_section_max: u64,
}

/// Reads the payload of the client's SETTINGS.
pub fn parse(mut payload: Bytes) -> Result<Settings, Error> {
    let mut settings = Settings { field_section_max: u64::MAX };
    let mut seen = Vec::new();
    while !payload.is_empty() {
        let (Some(id), Some(value)) = (varint::take(&mut payload), varint::take(&mut payload)) else {
            return Err(Error::Connection(Code::FRAME_ERROR, "SETTINGS is cut"));
        };
        seen.push(id);
        match id {
            MAX_FIELD_SECTION_SIZE => settings.field_section_max = value,
            // Settings of HTTP/2 that HTTP/3 does not have (RFC 9114 section 7.2.4.1).
            0x02..=0x05 => return Err(Error::Connection(Code::SETTINGS_ERROR, "setting of HTTP/2")),
            ENABLE_CONNECT_PROTOCOL | H3_DATAGRAM if value > 1 => {
                return Err(Error::Connection(Code::SETTINGS_ERROR, "setting is neither 0 nor 1"));
            }
            _ => {}
        }
    }
    seen.sort_unstable();
    if seen.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
        return Err(Error::Connection(Code::SETTINGS_ERROR, "setting twice"));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Decoder, Event};
    use super::*;

    fn of(pairs: &[(u64, u64)]) -> Bytes {
        let mut out = Vec::new();
        for (id, value) in pairs {
            varint::put(&mut out, *id);
            varint::put(&mut out, *value);
        }
        out.into()
    }

    #[test]
    fn our_own_settings_are_valid() {
        for grease in [0, 1, u32::MAX] {
            let mut bytes = opening(32 << 10, grease);
            assert_eq!(varint::take(&mut bytes), Some(CONTROL_STREAM));
            let Some(Event::Control(frame::SETTINGS, payload)) = Decoder::control().decode(&mut bytes).unwrap() else {
                panic!("no SETTINGS")
            };
            assert_eq!(parse(payload), Ok(Settings { field_section_max: 32 << 10 }));
        }
    }

    #[test]
    fn wrong_settings_are_connection_errors() {
        let code = |pairs: &[(u64, u64)]| match parse(of(pairs)) {
            Err(Error::Connection(code, _)) => code,
            other => panic!("{other:?}"),
        };
        for id in 2..=5 {
            assert_eq!(code(&[(id, 0)]), Code::SETTINGS_ERROR);
        }
        assert_eq!(code(&[(0x21, 0), (6, 1), (0x21, 0)]), Code::SETTINGS_ERROR);
        assert_eq!(code(&[(8, 2)]), Code::SETTINGS_ERROR);
        assert_eq!(parse(Bytes::from_static(&[6])), Err(Error::Connection(Code::FRAME_ERROR, "SETTINGS is cut")));
    }

    #[test]
    fn unknown_settings_mean_nothing() {
        assert_eq!(parse(of(&[(0x21, 7), (1, 4096), (7, 100)])), Ok(Settings { field_section_max: u64::MAX }));
    }
}
