//! Stage 1, HTTP/3: field sections (RFC 9204) with the static table only.
//!
//! We announce a dynamic table of capacity 0, so a field section depends on nothing but its own bytes: no shared state
//! between streams, no blocked streams, no memory per connection. Without I/O; called by `fields`.

pub mod decode;
pub mod encode;
mod huffman;
mod integer;
mod table;

#[cfg(test)]
pub mod tests {
    use super::{huffman, integer};
    use bytes::{Bytes, BytesMut};

    /// A section of literals, Huffman code and plain by turns, whatever the fields contain.
    pub fn encode(fields: &[(&str, &str)]) -> Bytes {
        let mut out = BytesMut::from(&[0u8, 0][..]);
        for (index, (name, value)) in fields.iter().enumerate() {
            let coded = index % 2 == 1;
            let form = |text: &str| if coded { huffman::tests::encode(text.as_bytes()) } else { text.into() };
            let (name, value) = (form(name), form(value));
            integer::put(&mut out, 3, 0x20 | u8::from(coded) << 3, name.len() as u64);
            out.extend_from_slice(&name);
            integer::put(&mut out, 7, u8::from(coded) << 7, value.len() as u64);
            out.extend_from_slice(&value);
        }
        out.freeze()
    }
}
