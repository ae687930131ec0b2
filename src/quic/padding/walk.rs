//! Where the frames of a packet end and its padding begins. Called for each packet that was opened; pure, allocates nothing and
//! says nothing about whether the frames are right: a frame of which it is not sure ends the walk.

use quinn::VarInt;
use quinn_proto::coding::Codec;

/// Zeros at the end of a packet that make it worth a walk, and PADDING frames that are worth their removal.
const WORTH: [u8; 16] = [0; 16];

/// Bytes of a stateless reset token (RFC 9000 section 19.15).
const RESET_TOKEN_LEN: u64 = 16;
/// Bytes of PATH_CHALLENGE and PATH_RESPONSE (RFC 9000 section 19.17).
const PATH_DATA_LEN: u64 = 8;

/// The frames of `payload` with the first PADDING frame behind them; `None` if too little would be left out, or if the frames
/// are not understood to their end. What is left out are PADDING frames, all of them at the end.
pub(super) fn without_padding(payload: &[u8]) -> Option<&[u8]> {
    if payload.last_chunk() != Some(&WORTH) {
        return None;
    }
    let mut rest = payload;
    loop {
        let padding = zeros(rest);
        if padding == rest.len() {
            let superfluous = if padding < WORTH.len() { return None } else { padding - 1 };
            return payload.get(..payload.len().checked_sub(superfluous)?);
        }
        rest = skip_frame(rest.get(padding..)?)?;
    }
}

/// How many bytes at the beginning are zero.
fn zeros(bytes: &[u8]) -> usize {
    let (chunks, _) = bytes.as_chunks::<{ WORTH.len() }>();
    let whole = chunks.iter().take_while(|chunk| **chunk == WORTH).count() * WORTH.len();
    whole + bytes.iter().skip(whole).take_while(|byte| **byte == 0).count()
}

/// What follows the frame at the beginning: the table of RFC 9000 section 12.4 and the draft of acknowledgement frequency, with
/// the types that quinn knows. `None` if the frame is of another type, not whole, or takes all the rest of its packet.
fn skip_frame(mut rest: &[u8]) -> Option<&[u8]> {
    let rest = &mut rest;
    match varint(rest)? {
        // PING, HANDSHAKE_DONE, IMMEDIATE_ACK
        0x01 | 0x1e | 0x1f => {}
        // ACK, without and with ECN counts
        0x02 => skip_ack(rest)?,
        0x03 => {
            skip_ack(rest)?;
            skip_varints(rest, 3)?;
        }
        // MAX_DATA, MAX_STREAMS, DATA_BLOCKED, STREAMS_BLOCKED, RETIRE_CONNECTION_ID
        0x10 | 0x12..=0x14 | 0x16 | 0x17 | 0x19 => skip_varints(rest, 1)?,
        // STOP_SENDING, MAX_STREAM_DATA, STREAM_DATA_BLOCKED
        0x05 | 0x11 | 0x15 => skip_varints(rest, 2)?,
        // RESET_STREAM
        0x04 => skip_varints(rest, 3)?,
        // ACK_FREQUENCY
        0xaf => skip_varints(rest, 4)?,
        // NEW_TOKEN, DATAGRAM with a length
        0x07 | 0x31 => skip_data(rest, 0)?,
        // CRYPTO, STREAM with a length and without an offset, CONNECTION_CLOSE of the application
        0x06 | 0x0a | 0x0b | 0x1d => skip_data(rest, 1)?,
        // STREAM with both, CONNECTION_CLOSE
        0x0e | 0x0f | 0x1c => skip_data(rest, 2)?,
        // NEW_CONNECTION_ID
        0x18 => {
            skip_varints(rest, 2)?;
            let (length, id) = rest.split_first()?;
            *rest = id;
            skip(rest, u64::from(*length) + RESET_TOKEN_LEN)?;
        }
        // PATH_CHALLENGE, PATH_RESPONSE
        0x1a | 0x1b => skip(rest, PATH_DATA_LEN)?,
        _ => return None,
    }
    Some(rest)
}

/// What both types of ACK have: the largest number, the delay, the count of further ranges, the first range, and those.
fn skip_ack(rest: &mut &[u8]) -> Option<()> {
    skip_varints(rest, 2)?;
    let further = varint(rest)?;
    skip_varints(rest, further.checked_mul(2)?.checked_add(1)?)
}

/// Bytes behind their length, behind `varints` others.
fn skip_data(rest: &mut &[u8], varints: u64) -> Option<()> {
    skip_varints(rest, varints)?;
    let length = varint(rest)?;
    skip(rest, length)
}

/// Takes no longer than there are bytes, whatever `count` claims.
fn skip_varints(rest: &mut &[u8], count: u64) -> Option<()> {
    (0..count).try_for_each(|_| varint(rest).map(drop))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    VarInt::decode(rest).ok().map(VarInt::into_inner)
}

fn skip(rest: &mut &[u8], length: u64) -> Option<()> {
    *rest = rest.get(usize::try_from(length).ok()?..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = u64> {
        // Of each encoded length, and zero, which looks like padding.
        prop_oneof![Just(0_u64), 0..64_u64, 64..1_u64 << 14, (1 << 14)..1_u64 << 30, (1 << 30)..1_u64 << 62]
    }

    fn put_varint(frame: &mut Vec<u8>, value: u64) {
        VarInt::from_u64(value).unwrap().encode(frame);
    }

    fn varints(kind: u64, values: &[u64]) -> Vec<u8> {
        let mut frame = Vec::new();
        [&[kind], values].concat().into_iter().for_each(|value| put_varint(&mut frame, value));
        frame
    }

    /// Types with a number of varints and nothing else.
    fn plain() -> impl Strategy<Value = Vec<u8>> {
        let counts: [(usize, &[u64]); 5] = [
            (0, &[0x01, 0x1e, 0x1f]),
            (1, &[0x10, 0x12, 0x13, 0x14, 0x16, 0x17, 0x19]),
            (2, &[0x05, 0x11, 0x15]),
            (3, &[0x04]),
            (4, &[0xaf]),
        ];
        let kinds: Vec<_> = counts.iter().flat_map(|(count, kinds)| kinds.iter().map(|kind| (*kind, *count))).collect();
        (prop::sample::select(kinds), vec(number(), 4))
            .prop_map(|((kind, count), values)| varints(kind, &values[..count]))
    }

    fn ack() -> impl Strategy<Value = Vec<u8>> {
        (any::<bool>(), vec(number(), 3), vec((number(), number()), 0..70), vec(number(), 3)).prop_map(
            |(ecn, head, ranges, counts)| {
                let mut values = vec![head[0], head[1], ranges.len() as u64, head[2]];
                values.extend(ranges.iter().flat_map(|(gap, length)| [*gap, *length]));
                values.extend(counts.iter().take(if ecn { 3 } else { 0 }));
                varints(if ecn { 0x03 } else { 0x02 }, &values)
            },
        )
    }

    /// Types that end in bytes behind their length, with the varints before it.
    fn data() -> impl Strategy<Value = Vec<u8>> {
        let kinds =
            vec![(0x07, 0), (0x31, 0), (0x06, 1), (0x0a, 1), (0x0b, 1), (0x1d, 1), (0x0e, 2), (0x0f, 2), (0x1c, 2)];
        let bytes = prop_oneof![vec(any::<u8>(), 0..80), (0..80_usize).prop_map(|length| vec![0; length])];
        (prop::sample::select(kinds), vec(number(), 2), bytes).prop_map(|((kind, count), values, bytes)| {
            let mut frame = varints(kind, &values[..count]);
            put_varint(&mut frame, bytes.len() as u64);
            frame.extend(bytes);
            frame
        })
    }

    fn fixed() -> impl Strategy<Value = Vec<u8>> {
        let id = (number(), number(), vec(any::<u8>(), 0..=20), any::<[u8; 16]>()).prop_map(
            |(sequence, prior, id, token)| {
                [varints(0x18, &[sequence, prior]), vec![id.len() as u8], id, token.to_vec()].concat()
            },
        );
        let path = (0x1a..=0x1b_u8, any::<[u8; 8]>()).prop_map(|(kind, data)| [vec![kind], data.to_vec()].concat());
        prop_oneof![id, path, Just([vec![0x1a], vec![0; 8]].concat())]
    }

    /// Frames, each behind some padding.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let frame = prop_oneof![plain(), ack(), data(), fixed()];
        vec((0..20_usize, frame), 0..6).prop_map(|frames| {
            frames.into_iter().flat_map(|(padding, frame)| [vec![0; padding], frame].concat()).collect()
        })
    }

    /// A frame that takes all the rest of its packet.
    fn last() -> impl Strategy<Value = Vec<u8>> {
        let kinds = vec![(0x08, 1), (0x09, 1), (0x0c, 2), (0x0d, 2), (0x30, 0)];
        (prop::sample::select(kinds), vec(number(), 2))
            .prop_map(|((kind, count), values)| varints(kind, &values[..count]))
    }

    proptest! {
        #[test]
        fn what_remains_of_a_packet_is_its_frames_and_one_padding(frames in frames(), padding in 16..1_500_usize) {
            let mut padded = frames.clone();
            padded.resize(frames.len() + padding, 0);
            let first = frames.len() + 1;
            prop_assert_eq!(without_padding(&padded), padded.get(..first));
        }

        #[test]
        fn a_packet_with_little_padding_or_none_is_left_alone(frames in frames(), padding in 0..16_usize) {
            let mut padded = frames.clone();
            padded.resize(frames.len() + padding, 0);
            prop_assert_eq!(without_padding(&padded), None);
        }

        #[test]
        fn zeros_of_a_frame_without_a_length_are_its_data(frames in frames(), last in last(), zeros in 16..1_500_usize) {
            let mut packet = [frames, last].concat();
            packet.resize(packet.len() + zeros, 0);
            prop_assert_eq!(without_padding(&packet), None);
        }

        #[test]
        fn of_any_bytes_only_zeros_at_the_end_go(mut bytes in vec(prop_oneof![any::<u8>(), 0..0x32_u8], 0..100), zeros in 0..100_usize) {
            bytes.resize(bytes.len() + zeros, 0);
            if let Some(kept) = without_padding(&bytes) {
                prop_assert!(kept.last() == Some(&0) && bytes.starts_with(kept));
                prop_assert!(bytes[kept.len()..].iter().all(|byte| *byte == 0));
            }
        }

        #[test]
        fn zeros_that_a_frame_still_lacks_are_not_padding(frames in frames(), missing in 1..1_500_u64, zeros in 16..1_500_u64) {
            // CRYPTO of `zeros` bytes, of which `missing` are not there.
            let mut packet = [frames, varints(0x06, &[0, zeros + missing])].concat();
            packet.resize(packet.len() + zeros as usize, 0);
            prop_assert_eq!(without_padding(&packet), None);
        }
    }

    #[test]
    fn a_packet_of_nothing_but_padding_keeps_one_frame() {
        assert_eq!(without_padding(&[0; 1_200]), Some([0].as_slice()));
        assert_eq!(without_padding(&[]), None);
    }

    #[test]
    fn behind_a_type_that_is_not_known_or_not_encoded_in_one_way_nothing_is_touched() {
        // PADDING in two bytes, an unknown type, a reserved one.
        for kind in [&[0x40, 0x00][..], &[0x20], &[0x40, 0xb0], &[0xff; 8]] {
            let mut packet = [kind, &[0; 100]].concat();
            assert_eq!(without_padding(&packet), None, "{kind:?}");
            packet.splice(..0, [0x01, 0x00, 0x00]);
            assert_eq!(without_padding(&packet), None, "{kind:?}");
        }
    }

    #[test]
    fn a_range_count_beyond_the_packet_ends_the_walk() {
        let mut packet = varints(0x02, &[0, 0, (1 << 62) - 1, 0]);
        packet.resize(1_200, 0);
        assert_eq!(without_padding(&packet), None);
    }
}
