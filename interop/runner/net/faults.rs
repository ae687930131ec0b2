//! What a lane does to packets on purpose: loss, corruption, single drops, darkness.
//!
//! Called by the hub, once for each packet of a direction, in order. Pure state: the same seed and the same packets give
//! the same fates.

use super::packet::{Flow, UDP};

/// A rate of bad luck, as the interop runner's scenarios have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Luck {
    /// Out of a hundred packets.
    pub percent: u8,
    /// After so many in a row the next one is spared; 0: no such mercy.
    pub burst_max: u8,
}

/// What happens to the packets of one direction.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// These are lost.
    pub loss: Luck,
    /// And these, out of a thousand packets: for rates below one percent.
    pub loss_permille: u16,
    /// One byte of these is changed, among the first fifty of the UDP payload, with the checksum made right.
    pub corruption: Luck,
    /// These UDP packets are lost, counted from 1.
    pub drops: Vec<u64>,
}

/// How a packet fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on, whole.
    Passed,
    /// It goes on with one byte changed.
    Corrupted,
    /// It is gone.
    Lost,
}

/// The faults of one direction.
#[derive(Debug)]
pub struct Faults {
    plan: Plan,
    random: fastrand::Rng,
    /// Nothing passes.
    dark: bool,
    seen: u64,
    lost_in_row: u8,
    corrupted_in_row: u8,
}

/// Bytes at the start of a UDP payload among which one is changed: headers are hit often.
const CORRUPTED_AMONG: usize = 50;

impl Faults {
    /// Faults by `plan`, chosen by `seed`.
    pub fn new(plan: Plan, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { plan, random, dark: false, seen: 0, lost_in_row: 0, corrupted_in_row: 0 }
    }

    /// Begins or ends darkness.
    pub fn darken(&mut self, dark: bool) {
        self.dark = dark;
    }

    /// Decides on the next packet, and changes it if that is its fate.
    pub fn strike(&mut self, packet: &mut [u8]) -> Fate {
        if self.dark {
            return Fate::Lost;
        }
        let flow = Flow::read(packet);
        let udp = flow.filter(|flow| flow.protocol == UDP);
        self.seen += u64::from(udp.is_some());
        if udp.is_some() && self.plan.drops.contains(&self.seen)
            || unlucky(self.plan.loss, &mut self.lost_in_row, &mut self.random)
            || self.plan.loss_permille > 0 && self.random.u16(..1_000) < self.plan.loss_permille
        {
            return Fate::Lost;
        }
        match udp {
            Some(flow) if self.corrupts(&flow, packet) => Fate::Corrupted,
            _ => Fate::Passed,
        }
    }

    fn corrupts(&mut self, flow: &Flow, packet: &mut [u8]) -> bool {
        let Some(payload) = flow.udp_payload(packet).filter(|payload| !payload.is_empty()) else { return false };
        // Version Negotiation must arrive whole: it is the right answer to a corrupted version, and unprotected.
        if is_version_negotiation(payload) {
            return false;
        }
        if !unlucky(self.plan.corruption, &mut self.corrupted_in_row, &mut self.random) {
            return false;
        }
        let at = self.random.usize(..payload.len().min(CORRUPTED_AMONG));
        let old = payload.get(at).copied().unwrap_or_default();
        flow.corrupt(packet, at, old ^ self.random.u8(1..));
        true
    }
}

fn is_version_negotiation(payload: &[u8]) -> bool {
    payload.first().is_some_and(|first| first & 0x80 != 0) && payload.get(1..5) == Some(&[0; 4])
}

fn unlucky(luck: Luck, in_row: &mut u8, random: &mut fastrand::Rng) -> bool {
    let spared = luck.burst_max > 0 && *in_row >= luck.burst_max;
    let hit = luck.percent > 0 && !spared && random.u8(..100) < luck.percent;
    *in_row = if hit { in_row.saturating_add(1) } else { 0 };
    hit
}

#[cfg(test)]
mod tests {
    use super::super::packet::made;
    use super::*;

    fn packet() -> Vec<u8> {
        made::udp("10.0.1.2:4433", "10.0.2.2:443", &[0x40; 1_200])
    }

    fn fates(plan: &Plan, seed: u64, count: usize) -> Vec<Fate> {
        let mut faults = Faults::new(plan.clone(), seed);
        (0..count).map(|_| faults.strike(&mut packet())).collect()
    }

    #[test]
    fn a_seed_decides_every_fate() {
        let plan = Plan { loss: Luck { percent: 30, burst_max: 3 }, ..Plan::default() };
        assert_eq!(fates(&plan, 5, 500), fates(&plan, 5, 500));
        assert_ne!(fates(&plan, 5, 500), fates(&plan, 6, 500));
    }

    #[test]
    fn loss_comes_at_its_rate_and_no_more_than_a_burst_in_a_row() {
        let plan = Plan { loss: Luck { percent: 30, burst_max: 3 }, ..Plan::default() };
        let fates = fates(&plan, 1, 10_000);
        let lost = fates.iter().filter(|fate| **fate == Fate::Lost).count();
        assert!((2_700..3_200).contains(&lost), "{lost} of 10,000");
        assert!(fates.windows(4).all(|row| row.contains(&Fate::Passed)));
        assert!(fates.windows(3).any(|row| row == [Fate::Lost; 3]));
    }

    #[test]
    fn corruption_changes_exactly_one_byte_of_the_payload_and_keeps_the_checksum_right() {
        let mut faults = Faults::new(Plan { corruption: Luck { percent: 100, burst_max: 0 }, ..Plan::default() }, 9);
        for _ in 0..200 {
            let mut changed = packet();
            assert_eq!(faults.strike(&mut changed), Fate::Corrupted);
            let payload = changed[28..].to_vec();
            assert_eq!(payload.iter().filter(|byte| **byte != 0x40).count(), 1);
            assert_eq!(changed, made::udp("10.0.1.2:4433", "10.0.2.2:443", &payload));
        }
    }

    #[test]
    fn version_negotiation_is_never_corrupted() {
        let mut faults = Faults::new(Plan { corruption: Luck { percent: 100, burst_max: 0 }, ..Plan::default() }, 9);
        let mut packet = made::udp("10.0.1.2:4433", "10.0.2.2:443", &[0xc3, 0, 0, 0, 0, 1, 2, 3]);
        assert_eq!(faults.strike(&mut packet), Fate::Passed);
    }

    #[test]
    fn listed_packets_are_lost_and_darkness_takes_all() {
        let plan = Plan { drops: vec![2, 3], ..Plan::default() };
        assert_eq!(fates(&plan, 0, 4), [Fate::Passed, Fate::Lost, Fate::Lost, Fate::Passed]);
        let mut faults = Faults::new(Plan::default(), 0);
        faults.darken(true);
        assert_eq!(faults.strike(&mut packet()), Fate::Lost);
        faults.darken(false);
        assert_eq!(faults.strike(&mut packet()), Fate::Passed);
    }
}
