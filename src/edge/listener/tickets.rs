//! TLS session tickets that every PoP of a fleet can read: a client of a PoP that vanished resumes at the next one in one
//! round trip. Called by rustls for each handshake; owns the keys of one file.
//!
//! The file holds one key a line, 64 hexadecimal digits each (`openssl rand -hex 32`). The first one seals, all open: a
//! new key is put in front on every PoP's second line first, then on the first. Early data stays off: a shared ticket
//! cannot be used only once.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use rustls::server::ProducesTickets;

use crate::tls::TlsError;

/// Seconds that a ticket is good for.
const LIFETIME: u32 = 12 * 3_600;
const NAME_LEN: usize = 16;
const KEY_LEN: usize = 32;
/// Keys in one file.
const KEYS_MAX: usize = 16;
/// No ticket of ours is longer.
const TICKET_MAX: usize = 16 << 10;

struct Key {
    /// Tells which key sealed a ticket.
    name: [u8; NAME_LEN],
    aead: LessSafeKey,
}

/// The keys of one file.
pub struct SharedTickets {
    keys: Vec<Key>,
}

impl fmt::Debug for SharedTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTickets").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl SharedTickets {
    /// Reads the keys.
    ///
    /// # Errors
    /// When the file cannot be read or a line is no key.
    pub fn load(path: &Path) -> Result<Arc<Self>, TlsError> {
        let text = std::fs::read_to_string(path).map_err(|source| TlsError::Read { path: path.into(), source })?;
        Self::parse(&text).map(Arc::new).ok_or_else(|| TlsError::TicketKeys { path: path.into() })
    }

    fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys = lines.map(|line| Key::new(&unhex(line)?)).collect::<Option<Vec<_>>>()?;
        (1..=KEYS_MAX).contains(&keys.len()).then_some(Self { keys })
    }
}

impl Key {
    fn new(secret: &[u8; KEY_LEN]) -> Option<Self> {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"trunkline ticket key name");
        let name = tag.as_ref().first_chunk::<NAME_LEN>().copied()?;
        Some(Self { name, aead: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret).ok()?) })
    }
}

impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    /// Key name, nonce, sealed state.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let aad = Aad::from(key.name);
        key.aead.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = self.keys.iter().find(|key| key.name == *name)?;
        let mut state = sealed.to_vec();
        let aad = Aad::from(key.name);
        let length = key.aead.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut state).ok()?.len();
        state.truncate(length);
        Some(state)
    }
}

fn unhex(line: &str) -> Option<[u8; KEY_LEN]> {
    let digits = line.as_bytes();
    if digits.len() != 2 * KEY_LEN {
        return None;
    }
    let mut key = [0; KEY_LEN];
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(keys: &[char]) -> SharedTickets {
        let lines: Vec<_> = keys.iter().map(|digit| digit.to_string().repeat(64)).collect();
        SharedTickets::parse(&lines.join("\n")).unwrap()
    }

    #[test]
    fn a_ticket_of_one_pop_is_good_at_another_with_the_same_keys() {
        let (here, there) = (tickets(&['a', 'b']), tickets(&['b', 'a']));
        let ticket = here.encrypt(b"state").unwrap();
        assert_eq!(there.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        assert_eq!(tickets(&['c']).decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_that_was_touched_is_refused() {
        let tickets = tickets(&['a']);
        let ticket = tickets.encrypt(b"state").unwrap();
        for at in 0..ticket.len() {
            let mut touched = ticket.clone();
            touched[at] ^= 1;
            assert_eq!(tickets.decrypt(&touched), None, "byte {at}");
            assert_eq!(tickets.decrypt(&ticket[..at]), None);
        }
    }

    #[test]
    fn a_line_that_is_no_key_is_refused() {
        for text in ["", "abc", &"g".repeat(64), &format!("{}\nshort", "a".repeat(64))] {
            assert!(SharedTickets::parse(text).is_none(), "{text}");
        }
    }
}
