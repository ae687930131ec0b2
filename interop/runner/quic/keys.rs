//! The keys of QUIC packets (RFC 9001 section 5), derived from what the judge has: the first connection id for Initial
//! packets, the log of TLS secrets for all others.
//!
//! Called by the trace. The crypto library does the cryptography; this only knows labels and layouts.

use aws_lc_rs::aead::quic::{self, HeaderProtectionKey};
use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;

/// RFC 9001 section 5.2.
const INITIAL_SALT: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f,
    0x0a,
];

/// A TLS 1.3 cipher suite that QUIC uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// TLS_AES_128_GCM_SHA256
    Aes128,
    /// TLS_AES_256_GCM_SHA384
    Aes256,
    /// TLS_CHACHA20_POLY1305_SHA256
    ChaCha20,
}

impl Suite {
    /// By its number in TLS (RFC 8446 appendix B.4).
    pub fn from_number(number: u16) -> Option<Self> {
        [(0x1301, Self::Aes128), (0x1302, Self::Aes256), (0x1303, Self::ChaCha20)]
            .into_iter()
            .find(|(n, _)| *n == number)
            .map(|(_, suite)| suite)
    }

    fn hash(self) -> hkdf::Algorithm {
        if self == Self::Aes256 { hkdf::HKDF_SHA384 } else { hkdf::HKDF_SHA256 }
    }

    fn packet(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128 => &aead::AES_128_GCM,
            Self::Aes256 => &aead::AES_256_GCM,
            Self::ChaCha20 => &aead::CHACHA20_POLY1305,
        }
    }

    fn header(self) -> &'static quic::Algorithm {
        match self {
            Self::Aes128 => &quic::AES_128,
            Self::Aes256 => &quic::AES_256,
            Self::ChaCha20 => &quic::CHACHA20,
        }
    }
}

/// Length of what is derived, in bytes.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label of RFC 8446 section 7.1, with an empty context.
fn expand(secret: &hkdf::Prk, label: &str, length: usize) -> Option<Vec<u8>> {
    let size = u16::try_from(length).ok()?.to_be_bytes();
    let label = [b"tls13 ", label.as_bytes()].concat();
    let info: [&[u8]; 4] = [&size, &[u8::try_from(label.len()).ok()?], &label, &[0]];
    let mut out = vec![0; length];
    secret.expand(&info, Length(length)).ok()?.fill(&mut out).ok()?;
    Some(out)
}

/// A traffic secret of one direction.
#[derive(Clone, Debug)]
pub struct Secret {
    suite: Suite,
    bytes: Vec<u8>,
}

impl Secret {
    /// From the log of secrets.
    pub fn new(suite: Suite, bytes: Vec<u8>) -> Self {
        Self { suite, bytes }
    }

    /// Those of Initial packets, client's first.
    pub fn initial(connection_id: &[u8]) -> Option<[Self; 2]> {
        let shared = hkdf::Salt::new(hkdf::HKDF_SHA256, &INITIAL_SALT).extract(connection_id);
        let one = |label| Some(Self::new(Suite::Aes128, expand(&shared, label, 32)?));
        Some([one("client in")?, one("server in")?])
    }

    fn expand(&self, label: &str, length: usize) -> Option<Vec<u8>> {
        expand(&hkdf::Prk::new_less_safe(self.suite.hash(), &self.bytes), label, length)
    }

    /// The one after a key update (RFC 9001 section 6.1).
    pub fn next(&self) -> Option<Self> {
        Some(Self::new(self.suite, self.expand("quic ku", self.bytes.len())?))
    }

    /// What opens packets.
    pub fn packet(&self) -> Option<PacketKey> {
        let algorithm = self.suite.packet();
        let key = UnboundKey::new(algorithm, &self.expand("quic key", algorithm.key_len())?).ok()?;
        Some(PacketKey { key: LessSafeKey::new(key), iv: self.expand("quic iv", 12)?.try_into().ok()? })
    }

    /// What uncovers headers; it outlives key updates.
    pub fn header(&self) -> Option<HeaderKey> {
        let algorithm = self.suite.header();
        let length = if self.suite == Suite::Aes128 { 16 } else { 32 };
        Some(HeaderKey(HeaderProtectionKey::new(algorithm, &self.expand("quic hp", length)?).ok()?))
    }
}

/// Opens packets.
pub struct PacketKey {
    key: LessSafeKey,
    iv: [u8; 12],
}

impl PacketKey {
    /// The frames in `sealed`, if it was sealed with this key, number and header.
    pub fn open(&self, number: u64, header: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = self.iv;
        for (byte, number) in nonce.iter_mut().skip(4).zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        let mut bytes = sealed.to_vec();
        let length =
            self.key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(header), &mut bytes).ok()?.len();
        bytes.truncate(length);
        Some(bytes)
    }
}

/// Uncovers headers.
pub struct HeaderKey(HeaderProtectionKey);

impl HeaderKey {
    /// The header of `packet` uncovered, and the truncated packet number with its length in bytes (RFC 9001 section 5.4).
    pub fn uncover(&self, packet: &[u8], number_at: usize) -> Option<(Vec<u8>, u64, usize)> {
        let mask = self.0.new_mask(packet.get(number_at + 4..number_at + 20)?).ok()?;
        let first = packet.first()? ^ mask[0] & if packet.first()? & 0x80 == 0 { 0x1f } else { 0x0f };
        let length = usize::from(first & 3) + 1;
        let mut header = packet.get(..number_at + length)?.to_vec();
        *header.first_mut()? = first;
        for (byte, mask) in header.iter_mut().skip(number_at).zip(mask.iter().skip(1)) {
            *byte ^= mask;
        }
        let number = header.get(number_at..)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Some((header, number, length))
    }
}

/// The whole packet number from its last `length` bytes (RFC 9000 appendix A.3).
pub fn whole_number(largest: Option<u64>, truncated: u64, length: usize) -> u64 {
    let expected = largest.map_or(0, |largest| largest + 1);
    let window = 1 << (8 * length);
    let candidate = expected & !(window - 1) | truncated;
    if candidate + window / 2 <= expected {
        candidate + window
    } else if candidate > expected + window / 2 && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|index| u8::from_str_radix(&text[2 * index..2 * index + 2], 16).unwrap()).collect()
    }

    #[test]
    fn initial_secrets_are_those_of_rfc_9001_appendix_a() {
        let [client, server] = Secret::initial(&hex("8394c8f03e515708")).unwrap();
        assert_eq!(client.bytes, hex("c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea"));
        assert_eq!(server.bytes, hex("3c199828fd139efd216c155ad844cc81fb82fa8d7446fa7d78be803acdda951b"));
        assert_eq!(client.expand("quic hp", 16).unwrap(), hex("9f50449e04a0e810283a1e9933adedd2"));
    }

    #[test]
    fn the_chacha20_packet_of_rfc_9001_appendix_a_5_opens() {
        let secret =
            Secret::new(Suite::ChaCha20, hex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b"));
        let packet = hex("4cfe4189655e5cd55c41f69080575d7999c25a5bfb");
        let (header, truncated, length) = secret.header().unwrap().uncover(&packet, 1).unwrap();
        assert_eq!((header.clone(), truncated, length), (hex("4200bff4"), 0xbff4, 3));
        let number = whole_number(Some(654_360_563), truncated, length);
        assert_eq!(number, 654_360_564);
        assert_eq!(secret.packet().unwrap().open(number, &header, &packet[4..]), Some(vec![1]));
        assert_eq!(
            secret.next().unwrap().bytes,
            hex("1223504755036d556342ee9361d253421a826c9ecdf3c7148684b36b714881f9")
        );
    }

    #[test]
    fn packet_numbers_follow_the_example_of_rfc_9000_appendix_a_3() {
        assert_eq!(whole_number(Some(0xa82f_30ea), 0x9b32, 2), 0xa82f_9b32);
        assert_eq!(whole_number(None, 0, 1), 0);
        assert_eq!(whole_number(Some(255), 0, 1), 256);
    }
}
