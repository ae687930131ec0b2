//! Stage 1, HTTP/3: encoding of field sections with the static table and plain literals.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::super::super::head::is_connection_specific;
use super::table::TABLE;
use super::{integer, table};

/// Appends the head of a response: the section's prefix, `:status` and the fields.
///
/// Fields that HTTP/3 does not have (RFC 9114 section 4.2) are left out. Returns the section's size as RFC 9114 section
/// 4.2.2 counts it.
pub fn response(out: &mut BytesMut, status: StatusCode, headers: &HeaderMap) -> usize {
    out.put_slice(&[0, 0]);
    match table::status(status.as_u16()) {
        Some(index) => integer::put(out, 6, 0xc0, u64::from(index)),
        None => {
            integer::put(out, 4, 0x50, 24);
            string(out, status.as_str().as_bytes());
        }
    }
    7 + 3 + 32 + fields(out, headers)
}

/// Appends a trailer section with its prefix. Returns its size.
pub fn trailers(out: &mut BytesMut, headers: &HeaderMap) -> usize {
    out.put_slice(&[0, 0]);
    fields(out, headers)
}

fn fields(out: &mut BytesMut, headers: &HeaderMap) -> usize {
    let mut size = 0;
    for (name, value) in headers {
        if !is_connection_specific(name) {
            field(out, name, value);
            size += name.as_str().len() + value.len() + 32;
        }
    }
    size
}

fn field(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    match table::entries(name) {
        Some(entries) => {
            let found = entries.clone().find(|index| TABLE.get(*index).is_some_and(|(_, v)| v.as_bytes() == value));
            match found {
                Some(index) => integer::put(out, 6, 0xc0, index as u64),
                None => {
                    integer::put(out, 4, 0x50, entries.start as u64);
                    string(out, value);
                }
            }
        }
        None => {
            integer::put(out, 3, 0x20, name.len() as u64);
            out.put_slice(name);
            string(out, value);
        }
    }
}

fn string(out: &mut BytesMut, value: &[u8]) {
    integer::put(out, 7, 0, value.len() as u64);
    out.put_slice(value);
}

#[cfg(test)]
mod tests {
    use super::super::decode::{Name, Section, SectionLimits, StaticName};
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn decoded(out: BytesMut) -> Vec<(String, Vec<u8>)> {
        let mut section = Section::new(out.freeze(), SectionLimits { bytes_max: usize::MAX }).unwrap();
        std::iter::from_fn(|| section.next_line().unwrap())
            .map(|line| match line.name {
                Name::Static(StaticName::Field(name)) => (name.to_string(), line.value.to_vec()),
                Name::Static(StaticName::Pseudo(pseudo)) => (pseudo.name().to_owned(), line.value.to_vec()),
                Name::Literal(name) => (String::from_utf8(name.to_vec()).unwrap(), line.value.to_vec()),
            })
            .collect()
    }

    #[test]
    fn static_entries_cost_one_or_two_bytes() {
        let mut headers = HeaderMap::new();
        headers.insert("vary", HeaderValue::from_static("accept-encoding"));
        headers.insert("x-frame-options", HeaderValue::from_static("deny"));
        headers.insert("connection", HeaderValue::from_static("close"));
        let mut out = BytesMut::new();
        let size = response(&mut out, StatusCode::OK, &headers);
        assert_eq!(&out[..], [0, 0, 0xc0 | 25, 0xc0 | 59, 0xff, 97 - 63]);
        assert_eq!(size, 42 + 4 + 15 + 32 + 15 + 4 + 32);
    }

    proptest! {
        #[test]
        fn heads_round_trip(
            code in 200u16..600,
            fields in vec(("(x-[a-z]{1,20}|content-type|server|age|cache-control)", "[ -~]{0,200}"), 0..20),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value.trim()).unwrap());
            }
            let mut out = BytesMut::new();
            let size = response(&mut out, StatusCode::from_u16(code).unwrap(), &headers);
            let lines = decoded(out);
            let mut expected = vec![(":status".to_owned(), code.to_string().into_bytes())];
            expected.extend(headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())));
            prop_assert_eq!(size, lines.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>());
            prop_assert_eq!(lines, expected);
        }
    }
}
