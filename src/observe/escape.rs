//! Values of clients in log lines: whatever the bytes, a line stays one line, a JSON string stays valid and nothing
//! reaches a terminal as a control sequence. Called when a line is formatted.

/// Appends `value` for a text line: printable ASCII as it is, `"` and `\` with a backslash, all else as `\xNN`.
pub fn push_text(line: &mut Vec<u8>, value: &[u8]) {
    for &byte in value {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
            b' '..=b'~' => line.push(byte),
            _ => push_hex_byte(line, b"\\x", byte),
        }
    }
}

/// Appends `value` for the inside of a JSON string (RFC 8259 section 7). Valid UTF-8 stays, control and invisible
/// format characters become `\uNNNN`, bytes that are not UTF-8 become the four characters `\xNN`.
pub fn push_json(line: &mut Vec<u8>, value: &[u8]) {
    if value.iter().all(is_plain) {
        line.extend_from_slice(value);
        return;
    }
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_json_char(line, c);
        }
        for &byte in chunk.invalid() {
            push_hex_byte(line, b"\\\\x", byte);
        }
    }
}

/// Stands for itself in both forms: printable ASCII but for quote and backslash. Nearly all values have nothing else.
fn is_plain(byte: &u8) -> bool {
    (b' '..=b'~').contains(byte) && *byte != b'"' && *byte != b'\\'
}

fn push_json_char(line: &mut Vec<u8>, c: char) {
    match c {
        '"' => line.extend_from_slice(b"\\\""),
        '\\' => line.extend_from_slice(b"\\\\"),
        ' '..='~' => line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        _ if c.is_control() || is_invisible(c) => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let [high, low] = unit.to_be_bytes();
                push_hex_byte(line, b"\\u", high);
                push_hex_byte(line, b"", low);
            }
        }
        _ => line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Line separators and characters that reorder or hide text.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn push_hex_byte(line: &mut Vec<u8>, prefix: &[u8], byte: u8) {
    line.extend_from_slice(prefix);
    for nibble in [byte >> 4, byte & 15] {
        line.push(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(value: &[u8]) -> String {
        let mut line = Vec::new();
        push_text(&mut line, value);
        String::from_utf8(line).unwrap()
    }

    fn json(value: &[u8]) -> String {
        let mut line = Vec::new();
        push_json(&mut line, value);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn hostile_bytes_are_spelt_out() {
        let hostile = b"a\r\nb\x1b[2J\x00\"\\\xff";
        assert_eq!(text(hostile), r#"a\x0d\x0ab\x1b[2J\x00\"\\\xff"#);
        assert_eq!(json(hostile), r#"a\u000d\u000ab\u001b[2J\u0000\"\\\\xff"#);
    }

    #[test]
    fn json_keeps_letters_and_spells_out_what_reorders_text() {
        assert_eq!(json("zürich \u{202e} \u{9b}".as_bytes()), "zürich \\u202e \\u009b");
    }

    proptest! {
        #[test]
        fn text_is_always_printable_ascii(value: Vec<u8>) {
            prop_assert!(text(&value).bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }

        #[test]
        fn json_always_parses_and_gives_utf8_back(value: String) {
            let parsed: String = serde_json::from_str(&format!("\"{}\"", json(value.as_bytes()))).unwrap();
            prop_assert_eq!(parsed, value);
        }

        #[test]
        fn json_of_any_bytes_parses_and_has_no_controls(value: Vec<u8>) {
            let line = json(&value);
            prop_assert!(!line.chars().any(char::is_control));
            let parsed = serde_json::from_str::<String>(&format!("\"{line}\""));
            prop_assert!(parsed.is_ok(), "{}", line);
        }
    }
}
