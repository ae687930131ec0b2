//! Padding is taken away from packets between their opening and quinn, which reads it byte by byte: a client fills up its first
//! flights and its probes of the packet size with some 7 KB of it.
//!
//! Used by [`super::session`], whose keys for packets from the client are these: trailing PADDING frames go, except for one
//! (RFC 9000 section 12.4: a packet holds at least one frame). A packet of which not every frame is understood stays as it is:
//! quinn judges it.
//!
//! Two lengths that quinn keeps stay true:
//! - *Memory.* quinn takes the payload's length for the memory that a piece of stream or handshake data in it holds, and copies
//!   pieces out of their packets when that is too much. So what is left of a packet is copied to memory of exactly its
//!   length; a payload that was only made shorter would let a client hold 1,452 bytes for each one that is counted.
//! - *What an address may be sent before it is validated* (RFC 9000 section 8.1): quinn counts whole datagrams, but of the very
//!   first packet its payload after opening. That packet is opened with keys that are of no session, and they are not these.

#[cfg(test)]
mod tests;
mod walk;

use bytes::BytesMut;
use quinn::crypto::{CryptoError, PacketKey};

use walk::without_padding;

/// The key inside, but for the padding of what it opens.
pub(super) struct Unpadded<K>(pub(super) K);

impl<K: PacketKey> PacketKey for Unpadded<K> {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        self.0.encrypt(packet, buf, header_len);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        self.0.decrypt(packet, header, payload)?;
        if let Some(kept) = without_padding(payload) {
            // Memory of exactly its length: see the module.
            *payload = BytesMut::from(kept);
        }
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.0.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}
