//! Which PoPs to hold tunnels to (sans-IO). PoPs come in order of preference; the first healthy ones up to the wanted
//! number are held, the next one is kept warm, and whatever fails is replaced by the next at once while it is redialled.
//!
//! Invariants, checked after every event: at least `wanted` PoPs that have not failed are held, if there are as many;
//! a PoP with ready links is let go only while `wanted` preferred ones are ready and settled; everything preferred to a
//! held PoP is held.

use std::time::{Duration, Instant};

/// A PoP that came back must stay this long before its replacement is let go; doubled with each further loss.
const SETTLE: Duration = Duration::from_secs(10);
/// Longest settling time.
const SETTLE_MAX: Duration = Duration::from_secs(300);

/// What a PoP is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// No tunnels.
    Off,
    /// Tunnels that take work only where there is nothing else: registered, weight 0.
    Warm,
    /// Tunnels that take work.
    Held,
}

#[derive(Clone, Copy, Debug)]
enum Health {
    /// Nothing is known against it.
    Unknown,
    /// It has ready links. It counts as healthy from `settled` on.
    Up { settled: Instant },
    /// Its dials fail, its links are lost, or it said that it drains.
    Failed,
}

#[derive(Clone, Debug)]
struct Pop {
    ready: usize,
    health: Health,
    losses: u32,
    role: Role,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Machine {
    pops: Vec<Pop>,
    wanted: usize,
}

impl Machine {
    /// `count` PoPs in order of preference, of which `wanted` shall be held.
    pub fn new(count: usize, wanted: usize, now: Instant) -> Self {
        let pop = Pop { ready: 0, health: Health::Unknown, losses: 0, role: Role::Off };
        let mut machine = Self { pops: vec![pop; count], wanted };
        machine.assign(now);
        machine
    }

    /// What the PoP at `index` is for now.
    pub fn role(&self, index: usize) -> Role {
        self.pops.get(index).map_or(Role::Off, |pop| pop.role)
    }

    /// A link to the PoP is ready.
    pub fn handle_ready(&mut self, index: usize, now: Instant) {
        if let Some(pop) = self.pops.get_mut(index) {
            pop.ready += 1;
            if let Health::Unknown | Health::Failed = pop.health {
                let settle = if pop.losses == 0 { Duration::ZERO } else { settling(pop.losses) };
                pop.health = Health::Up { settled: now + settle };
            }
        }
        self.assign(now);
    }

    /// A ready link to the PoP is over.
    pub fn handle_lost(&mut self, index: usize, now: Instant) {
        if let Some(pop) = self.pops.get_mut(index) {
            pop.ready = pop.ready.saturating_sub(1);
            if pop.ready == 0 && pop.role != Role::Off {
                pop.health = Health::Failed;
                pop.losses = pop.losses.saturating_add(1);
            } else if pop.ready == 0 {
                pop.health = Health::Unknown;
            }
        }
        self.assign(now);
    }

    /// A dial of the PoP failed.
    pub fn handle_dial_failed(&mut self, index: usize, now: Instant) {
        if let Some(pop) = self.pops.get_mut(index)
            && pop.ready == 0
        {
            pop.health = Health::Failed;
        }
        self.assign(now);
    }

    /// The PoP said that it drains: its links stay until it closes them, but it counts for nothing.
    pub fn handle_drain(&mut self, index: usize, now: Instant) {
        if let Some(pop) = self.pops.get_mut(index) {
            pop.health = Health::Failed;
        }
        self.assign(now);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.assign(now);
    }

    /// When [`Self::handle_timeout`] may change something.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let settling = self.pops.iter().filter_map(|pop| match pop.health {
            Health::Up { settled } if settled > now => Some(settled),
            _ => None,
        });
        settling.min()
    }

    /// Whether as many PoPs as wanted, or all there are, have ready links without `without`.
    pub fn is_covered_without(&self, without: usize) -> bool {
        let others = self.pops.iter().enumerate().filter(|(index, _)| *index != without);
        let up = others.filter(|(_, pop)| pop.ready > 0 && !matches!(pop.health, Health::Failed)).count();
        up >= self.wanted.min(self.pops.len().saturating_sub(1))
    }

    fn assign(&mut self, now: Instant) {
        let (mut healthy, mut settled) = (0, 0);
        let mut warm = false;
        for pop in &mut self.pops {
            let had = std::mem::replace(&mut pop.role, Role::Off);
            let (is_healthy, is_settled) = match pop.health {
                Health::Unknown => (true, false),
                Health::Up { settled } => (settled <= now, settled <= now),
                Health::Failed => (false, false),
            };
            if healthy < self.wanted {
                pop.role = Role::Held;
                healthy += usize::from(is_healthy);
                settled += usize::from(is_settled);
            } else if settled < self.wanted && had == Role::Held && pop.ready > 0 {
                // Make before break: those preferred to it are not ready yet.
                pop.role = Role::Held;
            } else if !warm {
                pop.role = Role::Warm;
                warm = is_healthy;
            }
        }
        self.check_invariants(now);
    }

    fn check_invariants(&self, now: Instant) {
        let healthy = |pop: &&Pop| match pop.health {
            Health::Unknown => true,
            Health::Up { settled } => settled <= now,
            Health::Failed => false,
        };
        let held_healthy = self.pops.iter().filter(|pop| pop.role == Role::Held).filter(healthy).count();
        let all_healthy = self.pops.iter().filter(healthy).count();
        debug_assert!(held_healthy >= self.wanted.min(all_healthy), "{self:?}");
        let last_needed = self.pops.iter().rposition(|pop| pop.role == Role::Held && pop.ready == 0);
        let hole = self.pops.iter().position(|pop| pop.role != Role::Held);
        debug_assert!(last_needed.is_none() || hole.is_none() || last_needed < hole, "{self:?}");
    }
}

fn settling(losses: u32) -> Duration {
    SETTLE.saturating_mul(1 << losses.saturating_sub(1).min(10)).min(SETTLE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn roles(machine: &Machine) -> String {
        let letter = |pop: &Pop| match pop.role {
            Role::Off => '-',
            Role::Warm => 'w',
            Role::Held => 'H',
        };
        machine.pops.iter().map(letter).collect()
    }

    #[test]
    fn the_first_wanted_pops_are_held_and_the_next_is_warm() {
        let now = crate::clock::now();
        assert_eq!(roles(&Machine::new(5, 2, now)), "HHw--");
        assert_eq!(roles(&Machine::new(2, 2, now)), "HH");
        assert_eq!(roles(&Machine::new(1, 1, now)), "H");
    }

    #[test]
    fn a_lost_pop_is_replaced_at_once_and_taken_back_when_it_has_settled() {
        let now = crate::clock::now();
        let mut machine = Machine::new(4, 2, now);
        (0..3).for_each(|pop| machine.handle_ready(pop, now));
        assert_eq!(roles(&machine), "HHw-");
        machine.handle_lost(0, now);
        assert_eq!(roles(&machine), "HHHw", "the warm one takes over, the next one gets warm");
        machine.handle_ready(0, now);
        assert_eq!(roles(&machine), "HHHw", "not before it has settled");
        let settled = machine.poll_timeout(now).unwrap();
        assert_eq!(settled, now + SETTLE);
        machine.handle_timeout(settled);
        assert_eq!(roles(&machine), "HHw-");
    }

    #[test]
    fn a_flapping_pop_is_trusted_later_each_time() {
        let mut now = crate::clock::now();
        let mut machine = Machine::new(3, 1, now);
        machine.handle_ready(0, now);
        machine.handle_ready(1, now);
        for losses in 1..6 {
            machine.handle_lost(0, now);
            machine.handle_ready(0, now);
            assert_eq!(machine.poll_timeout(now), Some(now + settling(losses)));
            now += Duration::from_secs(1);
            assert_eq!(machine.role(1), Role::Held);
        }
    }

    #[test]
    fn a_draining_pop_is_replaced_while_its_links_live() {
        let now = crate::clock::now();
        let mut machine = Machine::new(3, 2, now);
        machine.handle_ready(0, now);
        machine.handle_ready(1, now);
        machine.handle_drain(0, now);
        assert_eq!(roles(&machine), "HHH");
        assert!(!machine.is_covered_without(0));
        machine.handle_ready(2, now);
        assert!(machine.is_covered_without(0));
    }

    #[derive(Clone, Debug)]
    enum Event {
        Ready(usize),
        Lost(usize),
        DialFailed(usize),
        Drain(usize),
        Wait(u64),
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0usize..5).prop_map(Event::Ready),
            (0usize..5).prop_map(Event::Lost),
            (0usize..5).prop_map(Event::DialFailed),
            (0usize..5).prop_map(Event::Drain),
            (0u64..40).prop_map(Event::Wait),
        ]
    }

    proptest! {
        /// The invariants are asserted inside; here: when everything comes back and time passes, the preferred are held.
        #[test]
        fn whatever_happens_the_invariants_hold_and_preference_wins_in_the_end(
            events in proptest::collection::vec(any_event(), 0..60),
            wanted in 1usize..4,
        ) {
            let mut now = crate::clock::now();
            let mut machine = Machine::new(5, wanted, now);
            for event in events {
                match event {
                    Event::Ready(pop) => machine.handle_ready(pop, now),
                    Event::Lost(pop) => machine.handle_lost(pop, now),
                    Event::DialFailed(pop) => machine.handle_dial_failed(pop, now),
                    Event::Drain(pop) => machine.handle_drain(pop, now),
                    Event::Wait(seconds) => {
                        now += Duration::from_secs(seconds);
                        machine.handle_timeout(now);
                    }
                }
            }
            for pop in 0..5 {
                machine.handle_ready(pop, now);
            }
            machine.handle_timeout(now + SETTLE_MAX);
            let expected: String = (0..5).map(|i| if i < wanted { 'H' } else if i == wanted { 'w' } else { '-' }).collect();
            prop_assert_eq!(roles(&machine), expected);
        }
    }
}
