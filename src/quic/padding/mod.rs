//! Padding is taken away from packets between their opening and quinn, which reads it byte by byte: a client fills up its first
//! flights and its probes of the packet size with some 7 KB of it.
//!
//! Called for the listener's configuration. It is a layer around the server's cryptography that changes nothing but what the
//! keys for packets from the client return: trailing PADDING frames go, except for one (RFC 9000 section 12.4: a packet holds
//! at least one frame). A packet of which the layer does not understand every frame stays as it is: quinn judges it.
//!
//! Two lengths that quinn keeps stay true:
//! - *Memory.* quinn takes the payload's length for the memory that a piece of stream or handshake data in it holds, and copies
//!   pieces out of their packets when that is too much. So what is left of a packet is copied to memory of exactly its
//!   length; a payload that was only made shorter would let a client hold 1,452 bytes for each one that is counted.
//! - *What an address may be sent before it is validated* (RFC 9000 section 8.1): quinn counts whole datagrams, but of the very
//!   first packet its payload after opening. That packet is opened with the configuration's own keys, and they are not
//!   wrapped.

#[cfg(test)]
mod tests;
mod walk;

use std::any::Any;
use std::sync::Arc;

use bytes::BytesMut;
use quinn::{ConnectionId, Side};
use quinn_proto::TransportError;
use quinn_proto::crypto::{
    CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session,
    UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;

use walk::without_padding;

/// The configuration `server`, whose connections see no more padding than they must.
pub fn unpadded(server: Arc<dyn ServerConfig>) -> Arc<dyn ServerConfig> {
    Arc::new(Unpadded(server))
}

/// The same as what is inside, but for the padding.
struct Unpadded<T>(T);

impl ServerConfig for Unpadded<Arc<dyn ServerConfig>> {
    /// For a connection's first packet, whose length counts: see the module.
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.0.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        Box::new(Unpadded(self.0.clone().start_session(version, params)))
    }
}

impl Session for Unpadded<Box<dyn Session>> {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        unpadded_keys(self.0.initial_keys(dst_cid, side))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.0.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.0.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.0.early_crypto().map(|(header, packet)| (header, unpadded_key(packet)))
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.0.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.0.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.0.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        self.0.write_handshake(buf).map(unpadded_keys)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.0.next_1rtt_keys().map(unpadded_pair)
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.0.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.0.export_keying_material(output, label, context)
    }
}

fn unpadded_keys(keys: Keys) -> Keys {
    Keys { packet: unpadded_pair(keys.packet), ..keys }
}

fn unpadded_pair(pair: KeyPair<Box<dyn PacketKey>>) -> KeyPair<Box<dyn PacketKey>> {
    KeyPair { remote: unpadded_key(pair.remote), ..pair }
}

fn unpadded_key(key: Box<dyn PacketKey>) -> Box<dyn PacketKey> {
    Box::new(Unpadded(key))
}

impl PacketKey for Unpadded<Box<dyn PacketKey>> {
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
