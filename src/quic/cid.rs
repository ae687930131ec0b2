//! Connection IDs that name a worker. Made by each worker's endpoint; read by the kernel's steering program
//! ([`super::bind_udp`]) and, after a restart, by the endpoint that must answer with a stateless reset.
//!
//! Layout, 8 bytes: one byte whose remainder by the number of workers is the worker's index and which is otherwise random, 3
//! bytes nonce, 4 bytes of a keyed MAC over both and nothing else. An observer learns the worker's index and cannot link
//! two IDs of a connection (RFC 9000 section 5.1).

use std::fmt;

use aws_lc_rs::{hmac, rand};
use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;

const CID_LEN: usize = 8;
const SIGNED_LEN: usize = 4;
/// RFC 9000 section 7.2 asks for 8 bytes at least.
const INITIAL_CID_LEN: usize = 16;

/// One of a fixed number of workers that share a UDP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    index: u8,
    last: u8,
}

impl Worker {
    /// Worker `index` of `count`; `None` unless `index < count <= 256`.
    pub fn new(index: usize, count: usize) -> Option<Self> {
        let (index, last) = (u8::try_from(index).ok()?, u8::try_from(count.checked_sub(1)?).ok()?);
        (index <= last).then_some(Self { index, last })
    }

    /// The worker's index.
    pub fn index(self) -> usize {
        self.index.into()
    }

    /// How many workers there are, 1 to 256.
    pub fn count(self) -> usize {
        usize::from(self.last) + 1
    }

    /// Whether the kernel steers packets with this first CID byte here.
    fn owns(self, byte: u8) -> bool {
        usize::from(byte) % self.count() == self.index()
    }

    /// The byte nearest to `random` that is steered here.
    fn steering_byte(self, random: u8) -> u8 {
        let base = usize::from(random) - usize::from(random) % self.count();
        // The last, incomplete row of remainders may lack ours; the row below has it.
        u8::try_from(base + self.index())
            .unwrap_or_else(|_| u8::try_from(base.saturating_sub(self.count()) + self.index()).unwrap_or(self.index))
    }
}

/// Makes and recognises the connection IDs of one worker.
#[derive(Clone)]
pub struct CidGenerator {
    key: hmac::Key,
    worker: Worker,
}

impl CidGenerator {
    /// A generator for `worker`; every worker and every restart uses the same `key`.
    pub(super) fn new(key: hmac::Key, worker: Worker) -> Self {
        Self { key, worker }
    }

    fn mac(&self, signed: &[u8]) -> [u8; CID_LEN - SIGNED_LEN] {
        let tag = hmac::sign(&self.key, signed);
        let mut out = [0; CID_LEN - SIGNED_LEN];
        for (to, from) in out.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        out
    }
}

impl fmt::Debug for CidGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CidGenerator").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl ConnectionIdGenerator for CidGenerator {
    fn generate_cid(&mut self) -> ConnectionId {
        let [random, a, b, c] = random::<SIGNED_LEN>();
        let signed = [self.worker.steering_byte(random), a, b, c];
        let [first, second, third, fourth] = signed;
        let [m0, m1, m2, m3] = self.mac(&signed);
        ConnectionId::new(&[first, second, third, fourth, m0, m1, m2, m3])
    }

    /// True only for IDs that an endpoint with this key made and that are steered to this worker. The second condition
    /// keeps a worker silent, instead of resetting another worker's connection, should steering ever fail.
    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let (signed, mac) = cid.split_at_checked(SIGNED_LEN).ok_or(InvalidCid)?;
        let ours = signed.first().is_some_and(|byte| self.worker.owns(*byte));
        if ours && self.mac(signed) == *mac { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// A first destination CID, random but for its first byte: the kernel steers it to worker `seat` modulo the number of workers
/// of the server that is dialled, which need not be known. For [`quinn::ClientConfig::initial_dst_cid_provider`].
pub fn initial_cid(seat: u8) -> ConnectionId {
    let mut bytes = random::<INITIAL_CID_LEN>();
    if let Some(first) = bytes.first_mut() {
        *first = seat;
    }
    ConnectionId::new(&bytes)
}

/// Random bytes. The generator of aws-lc-rs aborts the process rather than fail, so the error case cannot be met; zeros
/// would only make CIDs collide, which quinn notices.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let filled = rand::fill(&mut bytes);
    debug_assert!(filled.is_ok(), "random source failed");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generator(index: usize, count: usize, key: &[u8]) -> CidGenerator {
        CidGenerator::new(hmac::Key::new(hmac::HMAC_SHA256, key), Worker::new(index, count).unwrap())
    }

    #[test]
    fn every_random_byte_is_turned_into_one_that_leads_to_the_worker() {
        for count in 1..=256 {
            for index in 0..count {
                let worker = Worker::new(index, count).unwrap();
                for random in 0..=255 {
                    assert!(worker.owns(worker.steering_byte(random)), "{worker:?} {random}");
                }
            }
        }
    }

    #[test]
    fn a_worker_must_be_one_of_its_group_and_fit_a_byte() {
        assert!(Worker::new(0, 0).is_none());
        assert!(Worker::new(2, 2).is_none());
        assert!(Worker::new(0, 257).is_none());
        assert_eq!(Worker::new(255, 256).map(Worker::count), Some(256));
    }

    #[test]
    fn ids_are_recognised_by_the_same_worker_with_the_same_key_only() {
        let mut made_by = generator(1, 3, b"key");
        for _ in 0..100 {
            let cid = made_by.generate_cid();
            assert!(generator(1, 3, b"key").validate(&cid).is_ok(), "after a restart");
            assert!(generator(1, 3, b"other").validate(&cid).is_err());
            assert!(generator(2, 3, b"key").validate(&cid).is_err());
        }
    }

    #[test]
    fn foreign_ids_of_any_length_are_refused() {
        let generator = generator(0, 1, b"key");
        for len in 0..=20 {
            assert!(generator.validate(&ConnectionId::new(&vec![7; len])).is_err());
        }
    }

    #[test]
    fn ids_differ() {
        let mut generator = generator(0, 4, b"key");
        let made: std::collections::HashSet<_> = (0..1000).map(|_| generator.generate_cid()).collect();
        assert!(made.len() > 990);
    }

    #[test]
    fn an_initial_id_leads_to_the_worker_and_is_long_enough() {
        for seat in 0..=255 {
            let (cid, index) = (initial_cid(seat), usize::from(seat) % 5);
            assert!(cid.len() >= 8);
            assert!(Worker::new(index, 5).unwrap().owns(cid[0]));
        }
    }
}
