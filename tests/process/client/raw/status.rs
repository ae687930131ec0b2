//! The status code at the start of an encoded field section: as much of HPACK and QPACK as that takes.

/// Code bits of the digits in the Huffman code of RFC 7541 appendix B: `0` to `2` have five bits, the others six.
fn digits(bytes: &[u8]) -> Option<u16> {
    let bit = |n: usize| bytes.get(n / 8).map(|byte| u16::from(byte >> (7 - n % 8) & 1));
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let five = (at..at + 5).try_fold(0, |code, n| Some(code << 1 | bit(n)?))?;
        let digit = if five <= 2 {
            at += 5;
            five
        } else {
            let six = five << 1 | bit(at + 5)?;
            at += 6;
            six.checked_sub(0b01_1001)? + 3
        };
        status = status * 10 + digit;
    }
    Some(status)
}

/// A string literal with three digits; its length has seven bits.
fn literal(bytes: &[u8]) -> Option<u16> {
    let (&first, rest) = bytes.split_first()?;
    let value = rest.get(..usize::from(first & 0x7f))?;
    if first & 0x80 != 0 { digits(value) } else { std::str::from_utf8(value).ok()?.parse().ok() }
}

/// RFC 9204: the section starts with two prefix bytes and `:status`.
pub fn qpack(section: &[u8]) -> Option<u16> {
    const STATUS: [(u8, u16); 14] = [
        (24, 103),
        (25, 200),
        (26, 304),
        (27, 404),
        (28, 503),
        (63, 100),
        (64, 204),
        (65, 206),
        (66, 302),
        (67, 400),
        (68, 403),
        (69, 421),
        (70, 425),
        (71, 500),
    ];
    let line = section.get(2..)?;
    let &first = line.first()?;
    match first >> 6 {
        // Indexed, static; an index of 63 and more continues in the next byte.
        0b11 => {
            let index = if first & 0x3f == 0x3f { 0x3f + line.get(1)? } else { first & 0x3f };
            STATUS.iter().find(|(known, _)| *known == index).map(|(_, status)| *status)
        }
        // Literal with a static name; every `:status` name reference of four bits and a continuation byte.
        0b01 if first & 0x0f == 0x0f => literal(line.get(2..)?),
        _ => None,
    }
}

/// RFC 7541: `:status` comes first, perhaps behind a size update.
pub fn hpack(block: &[u8]) -> Option<u16> {
    const STATUS: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let &first = block.first()?;
    match first {
        0x20..=0x3f => hpack(block.get(1..)?),
        0x88..=0x8e => STATUS.get(usize::from(first - 0x88)).copied(),
        0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e => literal(block.get(1..)?),
        _ => None,
    }
}

#[test]
fn statuses_are_read_in_every_encoding() {
    assert_eq!(qpack(&[0, 0, 0xd9]), Some(200));
    assert_eq!(qpack(&[0, 0, 0xff, 0x06]), Some(421));
    assert_eq!(qpack(&[0, 0, 0x5f, 0x09, 3, b'4', b'3', b'1']), Some(431));
    assert_eq!(hpack(&[0x3f, 0x48, 3]), None);
    assert_eq!(hpack(&[0x20, 0x8c]), Some(400));
    // "421": 011010 00010 00001, padded with ones.
    assert_eq!(hpack(&[0x48, 0x82, 0b0110_1000, 0b0100_0001]), Some(421));
}
