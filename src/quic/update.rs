//! Keys of key updates (RFC 9001 section 6), derived when the first packet asks for them. quinn wants the next ones at hand from the
//! end of the handshake on, most connections never update theirs, and a pair of keys holds more than a kilobyte.
//!
//! Made and asked by [`super::session`].

use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use parking_lot::Mutex;
use quinn::crypto::{CryptoError, KeyPair, PacketKey};
use rustls::quic::{PacketKeySet, Secrets};

/// All updates of one connection, one after the other.
pub(super) struct Updates {
    secrets: Arc<Mutex<Secrets>>,
    last: Option<Arc<Phase>>,
}

impl Updates {
    /// The first of them is made of `secrets`.
    pub(super) fn new(secrets: Secrets) -> Self {
        Self { secrets: Arc::new(Mutex::new(secrets)), last: None }
    }

    /// Whether the keys given last are there already.
    #[cfg(test)]
    pub(super) fn are_derived(&self) -> bool {
        self.last.as_ref().is_some_and(|phase| phase.made.get().is_some())
    }

    /// The keys of the next update. Those of the one before are derived now if they were not yet: each step of the secrets
    /// gives one pair.
    pub(super) fn next(&mut self) -> KeyPair<Key> {
        if let Some(last) = &self.last {
            last.keys();
        }
        let phase = Arc::new(Phase { made: OnceLock::new(), secrets: self.secrets.clone() });
        self.last = Some(phase.clone());
        KeyPair { local: Key { phase: phase.clone(), ours: true }, remote: Key { phase, ours: false } }
    }
}

/// The time between two updates.
struct Phase {
    made: OnceLock<PacketKeySet>,
    secrets: Arc<Mutex<Secrets>>,
}

impl Phase {
    fn keys(&self) -> &PacketKeySet {
        self.made.get_or_init(|| self.secrets.lock().next_packet_keys())
    }
}

/// One direction's key of a phase.
pub(super) struct Key {
    phase: Arc<Phase>,
    ours: bool,
}

impl Key {
    fn key(&self) -> &dyn PacketKey {
        let keys = self.phase.keys();
        if self.ours { &keys.local } else { &keys.remote }
    }
}

impl PacketKey for Key {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        self.key().encrypt(packet, buf, header_len);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        self.key().decrypt(packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.key().tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.key().confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.key().integrity_limit()
    }
}
