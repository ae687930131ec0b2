//! What a path carries: measured for each round trip, sans-IO. Called by [`super`] for each acknowledgement and loss.
//!
//! After the start, in which the window doubles each round trip until the path is full, the window is what the path
//! delivered at best in the last [`ROUNDS`] round trips, times its least round-trip time; in one of eight a quarter more, to
//! find out whether there is more, in the next one less, to let go of the queue that this made (as BBR does,
//! draft-ietf-ccwg-bbr). After congestion it asks for no more for a while. The least round-trip time is measured again when it
//! was not seen for [`STALE`]: with half a window, which leaves no queue of one's own.
//!
//! Invariants: what is delivered is counted over at least one round trip, of sending as of acknowledging, so that
//! acknowledgements that come all at once do not look like a fast path; rounds in which the sender had too little to send
//! never lower what is known; a loss that is congestion lowers it once for each round trip.

use std::time::{Duration, Instant};

/// Round trips that an estimate lives: longer than a cycle of [`GAINS`].
const ROUNDS: usize = 10;
/// Of the window, by the round.
const GAINS: [f64; 8] = [1.25, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
const START: Stage = Stage::Start { best: 0.0, flat: 0 };
/// The first cycle begins by letting go of the queue that the start made.
const AFTER_START: Stage = Stage::Cruise { phase: 1 };
/// Later ones do not.
const CRUISE: Stage = Stage::Cruise { phase: 2 };
/// A start goes on while a round delivers so many times what the best one before did...
const GROWTH: f64 = 1.25;
/// ...or until so many rounds in a row did not.
const PLATEAU: u32 = 3;
/// What is left after congestion.
const BACKOFF: f64 = 0.85;
/// What is left of the window of those who send little.
const LEAST_BACKOFF: f64 = 0.7;
/// Loss beyond the usual that is congestion: share of the bytes of a round, and packets.
const EXCESS: f64 = 0.02;
const EXCESS_PACKETS: f64 = 3.0;
/// More than this share is never usual.
const USUAL_MAX: f64 = 0.08;
/// Weight of a round in what is usual, once enough rounds were seen.
const USUAL_GAIN: f64 = 1.0 / 16.0;
/// Fewer bytes tell nothing of loss.
const USUAL_BYTES: f64 = 60_000.0;
/// A round trip is longer because of a queue when it is so many times the least one, and this much more.
const QUEUE: f64 = 1.25;
const QUEUE_MIN: Duration = Duration::from_millis(4);
/// Paths change: a least round-trip time that was not seen again for so long may be over.
const STALE: Duration = Duration::from_secs(10);
/// Then so many rounds have so much of a window: the first lets the queue go, the second sees the path without it.
const LOOK: Stage = Stage::Look { rounds: 2 };
const LOOK_GAIN: f64 = 0.5;
/// Rounds after congestion in which no more is asked for, and the window may be smaller than an initial one.
const STRAINED: u32 = 24;
/// Acknowledgements may come for so many packets at once: more must be under way, packets, but at most half as much more.
const ACKS: f64 = 10.0;
/// Packets whose round-trip times tell of the round's, and how much more there is in a queue (RFC 9406 section 4.3).
const SAMPLES: u32 = 8;
const SLOWER_MIN: Duration = Duration::from_millis(4);
const SLOWER_MAX: Duration = Duration::from_millis(16);

/// What is known of the path of one connection.
#[derive(Clone, Debug)]
pub(super) struct Path {
    stage: Stage,
    /// The window of the start.
    started: f64,
    /// Bytes per second of the last rounds.
    rates: [f64; ROUNDS],
    next: usize,
    round: Round,
    nearest: Option<Nearest>,
    usual: Usual,
    initial: f64,
    /// Losses of packets sent before are part of a congestion that was heeded.
    heeded: Option<Instant>,
    /// Rounds until congestion is forgotten.
    strained: u32,
    /// The last round was of one that has little to send.
    limited: bool,
    /// Whoever has little to send may always send so many bytes.
    least: f64,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Doubles; the best round so far, in bytes per second, and how many since then were not much better.
    Start { best: f64, flat: u32 },
    /// Goes through [`GAINS`].
    Cruise { phase: usize },
    /// Measures the least round-trip time.
    Look { rounds: u32 },
}

/// The least round-trip time.
#[derive(Clone, Copy, Debug)]
struct Nearest {
    time: Duration,
    /// When it was seen last.
    seen: Instant,
}

/// One round trip: it ends when a packet is acknowledged that was sent in it.
#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    /// When the latest packet was sent that was acknowledged before.
    sent_before: Instant,
    latest: Instant,
    delivered: u64,
    lost: u64,
    app_limited: bool,
    /// Congestion in it: what it delivers counts for no more than that much of it.
    share: f64,
    /// Its losses were seen to be a queue's: they are not what is usual.
    queued: bool,
    /// The shortest time from sending to acknowledgement, and how many were seen.
    shortest: Duration,
    samples: u32,
    /// The same of the round before, if it had enough.
    shortest_before: Option<Duration>,
    delivered_before: u64,
}

/// The share of bytes that is lost without congestion.
#[derive(Clone, Copy, Debug, Default)]
struct Usual {
    share: f64,
    weight: f64,
    delivered: u64,
    lost: u64,
}

impl Path {
    pub(super) fn new(now: Instant, initial: f64) -> Self {
        Self {
            stage: START,
            started: initial,
            rates: [0.0; ROUNDS],
            next: 0,
            round: Round::new(now),
            nearest: None,
            usual: Usual::default(),
            initial,
            heeded: None,
            strained: 0,
            limited: true,
            least: initial,
        }
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Start { .. })
    }

    /// Whether the window must be no larger than [`Path::window`].
    pub(super) fn is_looking(&self) -> bool {
        matches!(self.stage, Stage::Look { .. })
    }

    /// Bytes that may be under way.
    pub(super) fn window(&self, mtu: f64) -> f64 {
        let carried = self.rate() * self.nearest.map_or(0.0, |nearest| nearest.time.as_secs_f64());
        let gain = match self.stage {
            Stage::Start { .. } => return self.started,
            Stage::Look { .. } => LOOK_GAIN,
            Stage::Cruise { .. } if self.strained > 0 => 1.0,
            Stage::Cruise { phase } => GAINS.get(phase).copied().unwrap_or(1.0),
        };
        let least = if self.limited { self.least } else { 0.0 };
        (gain * carried + (carried / 2.0).min(ACKS * mtu)).max(least)
    }

    /// Bytes per second.
    pub(super) fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    pub(super) fn handle_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        self.round.handle_ack(now, sent, bytes, app_limited);
        if self.is_starting() && !app_limited {
            self.started += bytes as f64;
        }
        if sent >= self.round.began {
            self.end_round(now);
        }
    }

    fn end_round(&mut self, now: Instant) {
        let round = self.round;
        let rate = round.rate(now);
        if !round.app_limited || rate > self.rate() {
            if let Some(slot) = self.rates.get_mut(self.next) {
                *slot = rate;
            }
            self.next = (self.next + 1) % ROUNDS;
        }
        self.strained = self.strained.saturating_sub(1);
        if self.strained == 0 {
            self.least = self.initial;
        }
        if !round.queued {
            self.usual.handle_round(round.delivered, round.lost);
        }
        self.round = round.next(now);
        self.limited = round.app_limited;
        let is_stale = self.see(now, &round);
        match &mut self.stage {
            Stage::Cruise { .. } if is_stale && !round.app_limited => self.stage = LOOK,
            Stage::Cruise { phase } => *phase = (*phase + 1) % GAINS.len(),
            Stage::Look { rounds } => {
                *rounds -= 1;
                if *rounds == 0 {
                    self.nearest = Some(Nearest { time: round.shortest, seen: now });
                    self.stage = CRUISE;
                }
            }
            Stage::Start { best, flat } if !round.app_limited => {
                if rate >= *best * GROWTH {
                    (*best, *flat) = (rate, 0);
                } else {
                    *flat += 1;
                }
                if *flat >= PLATEAU || round.is_slower() {
                    self.stage = AFTER_START;
                }
            }
            Stage::Start { .. } => {}
        }
    }

    /// Takes the round's shortest round-trip time; whether the least one may be over. One that sends little makes no queue, and
    /// what it sees holds.
    fn see(&mut self, now: Instant, round: &Round) -> bool {
        let seen = Nearest { time: round.shortest, seen: now };
        let Some(nearest) = &mut self.nearest else {
            self.nearest = Some(seen);
            return false;
        };
        let is_stale = now.saturating_duration_since(nearest.seen) > STALE;
        if round.shortest <= nearest.time || is_stale && round.app_limited {
            *nearest = seen;
        } else if round.shortest <= nearest.time + nearest.time / 16 {
            nearest.seen = now;
        }
        is_stale
    }

    /// So many bytes were lost, the latest of them sent at `sent`; none: the network marked it instead.
    pub(super) fn handle_loss(&mut self, now: Instant, sent: Instant, bytes: u64, mtu: f64, smoothed: Duration) {
        self.round.lost += bytes;
        let queues = self.nearest.is_some_and(|nearest| smoothed > nearest.time.mul_f64(QUEUE) + QUEUE_MIN);
        self.round.queued |= bytes == 0 || queues;
        let congested = bytes == 0 || queues || self.usual.is_exceeded(&self.round, mtu);
        if !congested || self.heeded.is_some_and(|heeded| sent <= heeded) {
            return;
        }
        self.heeded = Some(now);
        self.strained = STRAINED;
        self.least *= LEAST_BACKOFF;
        if self.is_starting() {
            self.stage = AFTER_START;
        }
        for rate in &mut self.rates {
            *rate *= BACKOFF;
        }
        self.round.share *= BACKOFF;
    }

    /// Nothing is known any more.
    pub(super) fn restart(&mut self, now: Instant, window: f64) {
        *self =
            Self { usual: self.usual, strained: STRAINED, started: window, least: 0.0, ..Self::new(now, self.initial) };
    }
}

impl Round {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            sent_before: now,
            latest: now,
            delivered: 0,
            lost: 0,
            app_limited: false,
            share: 1.0,
            queued: false,
            shortest: Duration::MAX,
            samples: 0,
            shortest_before: None,
            delivered_before: 0,
        }
    }

    fn next(&self, now: Instant) -> Self {
        let enough = self.samples >= SAMPLES;
        Self {
            sent_before: self.latest,
            latest: self.latest,
            shortest_before: enough.then_some(self.shortest),
            delivered_before: self.delivered,
            ..Self::new(now)
        }
    }

    fn handle_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        self.delivered += bytes;
        self.app_limited |= app_limited;
        self.latest = self.latest.max(sent);
        self.shortest = self.shortest.min(now.saturating_duration_since(sent));
        self.samples += 1;
    }

    /// Bytes per second.
    fn rate(&self, now: Instant) -> f64 {
        let acknowledging = now.saturating_duration_since(self.began);
        let sending = self.latest.saturating_duration_since(self.sent_before);
        let seconds = acknowledging.max(sending).as_secs_f64();
        if seconds > 0.0 { self.share * self.delivered as f64 / seconds } else { 0.0 }
    }

    /// Whether a queue grows: no packet came back as fast as the fastest of the round before (HyStart++, RFC 9406
    /// section 4.2).
    fn is_slower(&self) -> bool {
        let enough = self.samples >= SAMPLES;
        let slower = |before: Duration| self.shortest >= before + (before / 8).clamp(SLOWER_MIN, SLOWER_MAX);
        enough && self.shortest_before.is_some_and(slower)
    }
}

impl Usual {
    fn handle_round(&mut self, delivered: u64, lost: u64) {
        self.delivered += delivered;
        self.lost += lost;
        let all = (self.delivered + self.lost) as f64;
        if all < USUAL_BYTES {
            return;
        }
        self.weight = (self.weight + 1.0).min(1.0 / USUAL_GAIN);
        self.share += (self.lost as f64 / all - self.share) / self.weight;
        self.share = self.share.min(USUAL_MAX);
        (self.delivered, self.lost) = (0, 0);
    }

    /// Rounds that are too small to tell count together.
    fn is_exceeded(&self, round: &Round, mtu: f64) -> bool {
        let lost = (self.lost + round.lost) as f64;
        let sent = lost + (self.delivered + round.delivered).max(round.delivered_before) as f64;
        lost >= EXCESS_PACKETS * mtu && lost > (self.share + EXCESS) * sent
    }
}
