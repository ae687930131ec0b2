//! Which PoPs to hold tunnels to (sans-IO). PoPs come in order of preference; the first healthy ones up to the wanted
//! number are held, the next one is kept warm, and whatever fails is replaced by the next at once while it is redialled.
//!
//! The order is that of the configuration, but for three things: the PoP that the operator chose comes first, those that
//! a draining PoP named come right behind it, and the last of those that count prefers another failure domain if the ones
//! before it share one.
//!
//! Invariants, checked after every event: at least `wanted` PoPs that have not failed are held, if there are as many, and
//! in two failure domains, if two are wanted and there are such; a PoP with ready links is let go only while `wanted`
//! preferred ones are ready and settled; everything preferred to a held PoP is held.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Failure domains that those held, or held and warm, are spread over.
const DOMAINS: usize = 2;
/// A PoP that came back must stay this long before its replacement is let go; doubled with each further loss.
const SETTLE: Duration = Duration::from_secs(10);
/// Longest settling time.
const SETTLE_MAX: Duration = Duration::from_secs(300);
/// How long a PoP that the operator chose may take to get a ready link; then the choice lapses.
pub const MIGRATE_TIMEOUT: Duration = Duration::from_secs(10);

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

/// What is known of a PoP.
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
    /// What may fail at once with others of the same domain.
    domain: usize,
    ready: usize,
    health: Health,
    losses: u32,
    role: Role,
    /// It drains, or did and has not come back: it named these to go to.
    next: Vec<usize>,
}

impl Pop {
    fn is_up(&self) -> bool {
        self.ready > 0 && !matches!(self.health, Health::Failed)
    }

    /// Whether it may be counted on, and whether it has shown so.
    fn standing(&self, now: Instant) -> (bool, bool) {
        match self.health {
            Health::Unknown => (true, false),
            Health::Up { settled } => (settled <= now, settled <= now),
            Health::Failed => (false, false),
        }
    }
}

/// The PoP that the operator put first.
#[derive(Clone, Copy, Debug)]
struct Choice {
    pop: usize,
    /// It lapses then unless the PoP has a ready link; none once it had one.
    until: Option<Instant>,
    /// The choice that comes back if it lapses.
    before: Option<usize>,
}

/// How a PoP stands as the operator's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// It is not chosen, or the choice lapsed.
    No,
    /// It has no ready link yet.
    Pending,
    /// It comes first.
    Yes,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Machine {
    pops: Vec<Pop>,
    wanted: usize,
    choice: Option<Choice>,
}

impl Machine {
    /// PoPs in order of preference by their failure domains, of which `wanted` shall be held.
    pub fn new(domains: impl IntoIterator<Item = usize>, wanted: usize, now: Instant) -> Self {
        let pop =
            |domain| Pop { domain, ready: 0, health: Health::Unknown, losses: 0, role: Role::Off, next: Vec::new() };
        let mut machine = Self { pops: domains.into_iter().map(pop).collect(), wanted, choice: None };
        machine.assign(now);
        machine
    }

    /// What the PoP at `index` is for now.
    pub fn role(&self, index: usize) -> Role {
        self.pops.get(index).map_or(Role::Off, |pop| pop.role)
    }

    /// How many links to the PoP are ready.
    pub fn ready(&self, index: usize) -> usize {
        self.pops.get(index).map_or(0, |pop| pop.ready)
    }

    /// How the PoP stands as the operator's choice.
    pub fn chosen(&self, index: usize) -> Chosen {
        match self.choice {
            Some(choice) if choice.pop != index => Chosen::No,
            Some(Choice { until: Some(_), .. }) => Chosen::Pending,
            Some(_) => Chosen::Yes,
            None => Chosen::No,
        }
    }

    /// A link to the PoP is ready.
    pub fn handle_ready(&mut self, index: usize, now: Instant) {
        if let Some(pop) = self.pops.get_mut(index) {
            pop.ready += 1;
            pop.next.clear();
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

    /// The PoP said that it drains, and where to go: its links stay until it closes them, but it counts for nothing.
    pub fn handle_drain(&mut self, index: usize, next: Vec<usize>, now: Instant) {
        if let Some(pop) = self.pops.get_mut(index) {
            pop.health = Health::Failed;
            pop.next = next;
        }
        self.assign(now);
    }

    /// The operator wants this PoP to come first, or none in particular.
    pub fn handle_migrate(&mut self, to: Option<usize>, now: Instant) {
        let before =
            self.choice.and_then(|choice| if choice.until.is_some() { choice.before } else { Some(choice.pop) });
        self.choice = to.map(|pop| Choice { pop, until: Some(now + MIGRATE_TIMEOUT), before });
        if let Some(pop) = to.and_then(|index| self.pops.get_mut(index)) {
            // Who is asked for need not prove itself first.
            pop.losses = 0;
            pop.health = match pop.health {
                Health::Up { .. } => Health::Up { settled: now },
                Health::Unknown | Health::Failed => Health::Unknown,
            };
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
        settling.chain(self.choice.and_then(|choice| choice.until)).min()
    }

    /// Whether as many PoPs as wanted, or all there are, have ready links without `without`; and one of those that it
    /// named, unless they all fail.
    pub fn is_covered_without(&self, without: usize) -> bool {
        let others = self.pops.iter().enumerate().filter(|(index, _)| *index != without);
        let up = others.filter(|(_, pop)| pop.is_up()).count();
        let named =
            || self.pops.get(without).into_iter().flat_map(|pop| &pop.next).filter_map(|next| self.pops.get(*next));
        let there = named().any(Pop::is_up) || named().all(|pop| matches!(pop.health, Health::Failed));
        up >= self.wanted.min(self.pops.len().saturating_sub(1)) && there
    }

    /// The PoPs, the preferred first: as [`Self::preference`] has them, but that the healthy ones up to the last that is
    /// held (or the warm one, if only one is) do not all share a domain while others are left to try.
    fn order(&self, now: Instant) -> Vec<usize> {
        let mut rest = self.preference();
        let mut order = Vec::with_capacity(rest.len());
        let (mut healthy, mut only) = (0, None);
        while !rest.is_empty() {
            let shared = only.filter(|_| healthy + 1 == self.wanted.max(DOMAINS));
            let elsewhere = |index: &usize| self.pops.get(*index).is_some_and(|pop| Some(pop.domain) != shared);
            let index = rest.remove(rest.iter().position(elsewhere).unwrap_or(0));
            order.push(index);
            if let Some(pop) = self.pops.get(index).filter(|pop| pop.standing(now).0) {
                only = (healthy == 0 || only == Some(pop.domain)).then_some(pop.domain);
                healthy += 1;
            }
        }
        order
    }

    /// The PoPs in the order of the configuration, the operator and draining PoPs.
    fn preference(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.pops.len());
        let configured =
            self.pops.iter().enumerate().flat_map(|(index, pop)| [index].into_iter().chain(pop.next.clone()));
        let chosen = self.choice.into_iter().flat_map(|choice| [choice.pop].into_iter().chain(choice.before));
        for index in chosen.chain(configured) {
            if !order.contains(&index) {
                order.push(index);
            }
        }
        order
    }

    fn assign(&mut self, now: Instant) {
        self.judge_choice(now);
        let (mut healthy, mut settled) = (0, 0);
        let (mut warm, mut warm_settled) = (false, false);
        for index in self.order(now) {
            let Some(pop) = self.pops.get_mut(index) else { continue };
            let had = std::mem::replace(&mut pop.role, Role::Off);
            let (is_healthy, is_settled) = pop.standing(now);
            if healthy < self.wanted {
                pop.role = Role::Held;
                healthy += usize::from(is_healthy);
                settled += usize::from(is_settled);
            } else if settled < self.wanted && had == Role::Held && pop.ready > 0 {
                // Make before break: those preferred to it are not ready yet.
                pop.role = Role::Held;
            } else if !warm || (!warm_settled && had == Role::Warm && pop.ready > 0) {
                pop.role = Role::Warm;
                warm |= is_healthy;
                warm_settled |= is_settled;
            }
        }
        self.check_invariants(now);
    }

    /// A choice holds once its PoP has a ready link, and lapses if that takes too long.
    fn judge_choice(&mut self, now: Instant) {
        let Some(Choice { pop, until: Some(until), before }) = self.choice else { return };
        let is_up = self.pops.get(pop).is_some_and(|pop| matches!(pop.health, Health::Up { .. }));
        if is_up {
            self.choice = Some(Choice { pop, until: None, before: None });
        } else if until <= now {
            self.choice = before.map(|pop| Choice { pop, until: None, before: None });
        }
    }

    fn check_invariants(&self, now: Instant) {
        let healthy = |pop: &&Pop| pop.standing(now).0;
        let held_healthy = self.pops.iter().filter(|pop| pop.role == Role::Held).filter(healthy).count();
        let all_healthy = self.pops.iter().filter(healthy).count();
        debug_assert!(held_healthy >= self.wanted.min(all_healthy), "{self:?}");
        let domains = |pops: &mut dyn Iterator<Item = &Pop>| pops.map(|pop| pop.domain).collect::<BTreeSet<_>>().len();
        let held = domains(&mut self.pops.iter().filter(|pop| pop.role == Role::Held).filter(healthy));
        let there = domains(&mut self.pops.iter().filter(healthy));
        debug_assert!(held >= DOMAINS.min(self.wanted).min(there), "{self:?}");
        let ordered: Vec<_> = self.order(now).into_iter().filter_map(|index| self.pops.get(index)).collect();
        debug_assert_eq!(ordered.len(), self.pops.len(), "{self:?}");
        let last_needed = ordered.iter().rposition(|pop| pop.role == Role::Held && pop.ready == 0);
        let hole = ordered.iter().position(|pop| pop.role != Role::Held);
        debug_assert!(last_needed.is_none() || hole.is_none() || last_needed < hole, "{self:?}");
    }
}

fn settling(losses: u32) -> Duration {
    SETTLE.saturating_mul(1 << losses.saturating_sub(1).min(10)).min(SETTLE_MAX)
}

#[cfg(test)]
mod tests;
