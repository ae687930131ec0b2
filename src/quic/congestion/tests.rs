//! Flows over a simulated bottleneck: its rate, delay, queue and losses are exact and follow from a seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use quinn::congestion::Controller;

use super::{Control, Cubic};
use crate::clock;

const MTU: u16 = 1_452;
/// Packets that a receiver acknowledges at once.
const ACKS: u64 = 2;
const ACK_DELAY: Duration = Duration::from_millis(25);
/// Packets that the pacer lets go in one go.
const BURST: f64 = 10.0;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What decides on a flow's window.
enum Governor {
    Ours(Box<Control>),
    Cubic(Cubic),
}

impl Governor {
    fn window(&self) -> f64 {
        match self {
            Self::Ours(control) => control.bytes() as f64,
            Self::Cubic(cubic) => cubic.window().max(2.0 * f64::from(MTU)),
        }
    }

    fn handle_ack(&mut self, now: Instant, sent: Instant, app_limited: bool, rtt: Duration) {
        match self {
            Self::Ours(control) => control.handle_ack(now, sent, MTU.into(), app_limited, rtt),
            Self::Cubic(cubic) => cubic.handle_ack(now, sent, MTU.into(), app_limited, rtt, MTU.into()),
        }
    }

    fn handle_loss(&mut self, now: Instant, sent: Instant, packets: u64) {
        match self {
            Self::Ours(control) => control.handle_loss(now, sent, false, packets * u64::from(MTU)),
            Self::Cubic(cubic) => cubic.handle_loss(now, sent, 2.0 * f64::from(MTU)),
        }
    }
}

/// The way through which all flows go.
#[derive(Clone, Copy)]
struct Bottleneck {
    /// Packets per second.
    rate: f64,
    /// Both ways together, without the queue.
    round_trip: Duration,
    /// Packets that wait.
    queue: usize,
    /// Lost for other reasons.
    loss: f64,
}

struct Flow {
    governor: Governor,
    begins: Duration,
    /// Packets per second that there are to send; else as many as go.
    supply: Option<f64>,
    supplied: f64,
    sent: BTreeMap<u64, Instant>,
    next: u64,
    largest: Option<u64>,
    smoothed: Option<Duration>,
    tokens: f64,
    filled: Instant,
    woken: Option<Instant>,
    arrived: Vec<u64>,
    expected: u64,
    ack_due: Option<Instant>,
    delivered: u64,
    lost: u64,
    app_limited: bool,
}

impl Flow {
    fn new(governor: Governor, begins: Duration, now: Instant) -> Self {
        Self {
            governor,
            begins,
            supply: None,
            supplied: 0.0,
            sent: BTreeMap::new(),
            next: 0,
            largest: None,
            smoothed: None,
            tokens: BURST,
            filled: now,
            woken: None,
            arrived: Vec::new(),
            expected: 0,
            ack_due: None,
            delivered: 0,
            lost: 0,
            app_limited: false,
        }
    }

    fn rtt(&self) -> Duration {
        self.smoothed.unwrap_or(ms(100))
    }

    /// A packet may go now, or when.
    fn may_send(&mut self, now: Instant) -> Result<(), Option<Instant>> {
        if self.supply.is_some() && self.supplied < 1.0 {
            self.app_limited = true;
            return Err(None);
        }
        self.app_limited = false;
        let window = self.governor.window();
        if (self.sent.len() + 1) as f64 * f64::from(MTU) > window {
            return Err(None);
        }
        let rate = 1.25 * window / f64::from(MTU) / self.rtt().as_secs_f64();
        self.tokens = (self.tokens + (now - self.filled).as_secs_f64() * rate).min(BURST);
        self.filled = now;
        match self.tokens >= 1.0 {
            true => Ok(()),
            false => Err(Some(now + Duration::from_secs_f64((1.0 - self.tokens) / rate) + Duration::from_nanos(1))),
        }
    }

    fn handle_acks(&mut self, now: Instant, acknowledged: &[u64]) {
        for number in acknowledged {
            let Some(sent) = self.sent.remove(number) else { continue };
            self.delivered += 1;
            let rtt = self.rtt();
            self.governor.handle_ack(now, sent, self.app_limited, rtt);
            if self.largest.is_none_or(|largest| *number > largest) {
                self.largest = Some(*number);
                let sample = now - sent;
                self.smoothed = Some(self.smoothed.map_or(sample, |old| (old * 7 + sample) / 8));
            }
        }
        let late = self.largest.unwrap_or_default().saturating_sub(2);
        let gone: Vec<_> = self.sent.range(..late).map(|(number, sent)| (*number, *sent)).collect();
        self.lose(now, &gone);
    }

    fn lose(&mut self, now: Instant, gone: &[(u64, Instant)]) {
        let Some((_, latest)) = gone.last() else { return };
        for (number, _) in gone {
            self.sent.remove(number);
        }
        self.lost += gone.len() as u64;
        self.governor.handle_loss(now, *latest, gone.len() as u64);
    }

    /// A tail that nothing follows is lost when nothing was heard for three round trips.
    fn give_up(&mut self, now: Instant) {
        let patience = self.rtt() * 3 + ACK_DELAY;
        if self.sent.last_key_value().is_some_and(|(_, sent)| now - *sent > patience) {
            let gone: Vec<_> = self.sent.iter().map(|(number, sent)| (*number, *sent)).collect();
            self.lose(now, &gone);
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival(usize, u64),
    AckTimer(usize),
    Acks(usize, Vec<u64>),
    Send(usize),
    Tick,
}

struct Simulation {
    way: Bottleneck,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    order: u64,
    flows: Vec<Flow>,
    /// When the bottleneck is done with all that waits.
    busy_until: Instant,
    random: fastrand::Rng,
    start: Instant,
}

impl Simulation {
    fn new(way: Bottleneck, governors: Vec<(Governor, Duration)>, start: Instant) -> Self {
        let flows = governors.into_iter().map(|(governor, begins)| Flow::new(governor, begins, start)).collect();
        let random = fastrand::Rng::with_seed(7);
        let events = BinaryHeap::new();
        let mut simulation = Self { way, now: start, events, order: 0, flows, busy_until: start, random, start };
        for at in 0..simulation.flows.len() {
            let begins = simulation.flows[at].begins;
            simulation.after(begins, Event::Send(at));
        }
        simulation.after(ms(5), Event::Tick);
        simulation
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.order += 1;
        self.events.push(Reverse((self.now + delay, self.order, event)));
    }

    /// Goes on until `until` after the start; what each flow delivered meanwhile, packets per second.
    fn run(&mut self, until: Duration) -> Vec<f64> {
        let (before, since): (Vec<_>, _) = (self.flows.iter().map(|flow| flow.delivered).collect(), self.now);
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > self.start + until {
                self.events.push(Reverse((at, 0, event)));
                break;
            }
            self.now = at;
            self.handle(event);
        }
        self.now = self.start + until;
        let seconds = (self.now - since).as_secs_f64();
        self.flows.iter().zip(before).map(|(flow, before)| (flow.delivered - before) as f64 / seconds).collect()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Send(at) => {
                self.flows[at].woken = None;
                self.send(at);
            }
            Event::Arrival(at, number) => self.arrive(at, number),
            Event::AckTimer(at) => {
                if self.flows[at].ack_due.is_some_and(|due| due <= self.now) {
                    self.acknowledge(at);
                }
            }
            Event::Acks(at, numbers) => {
                self.flows[at].handle_acks(self.now, &numbers);
                self.send(at);
            }
            Event::Tick => {
                for at in 0..self.flows.len() {
                    let now = self.now;
                    let flow = &mut self.flows[at];
                    flow.give_up(now);
                    if let Some(supply) = flow.supply {
                        flow.supplied = (flow.supplied + supply * 0.005).min(100.0);
                    }
                    if now >= self.start + self.flows[at].begins {
                        self.send(at);
                    }
                }
                self.after(ms(5), Event::Tick);
            }
        }
    }

    fn send(&mut self, at: usize) {
        loop {
            let now = self.now;
            let flow = &mut self.flows[at];
            match flow.may_send(now) {
                Ok(()) => {}
                Err(Some(when)) if flow.woken.is_none() => {
                    flow.woken = Some(when);
                    self.after(when - now, Event::Send(at));
                    return;
                }
                Err(_) => return,
            }
            flow.tokens -= 1.0;
            flow.supplied -= 1.0;
            let number = flow.next;
            flow.next += 1;
            flow.sent.insert(number, now);
            self.enqueue(at, number);
        }
    }

    fn enqueue(&mut self, at: usize, number: u64) {
        let waiting = self.busy_until.saturating_duration_since(self.now).as_secs_f64() * self.way.rate;
        if waiting > self.way.queue as f64 || self.random.f64() < self.way.loss {
            return;
        }
        self.busy_until = self.busy_until.max(self.now) + Duration::from_secs_f64(1.0 / self.way.rate);
        let arrives = self.busy_until + self.way.round_trip / 2;
        self.after(arrives - self.now, Event::Arrival(at, number));
    }

    fn arrive(&mut self, at: usize, number: u64) {
        let now = self.now;
        let flow = &mut self.flows[at];
        let gap = number != flow.expected;
        flow.expected = number + 1;
        flow.arrived.push(number);
        if gap || flow.arrived.len() as u64 >= ACKS {
            self.acknowledge(at);
        } else if flow.ack_due.is_none() {
            flow.ack_due = Some(now + ACK_DELAY);
            self.after(ACK_DELAY, Event::AckTimer(at));
        }
    }

    fn acknowledge(&mut self, at: usize) {
        let flow = &mut self.flows[at];
        flow.ack_due = None;
        let numbers = std::mem::take(&mut flow.arrived);
        self.after(self.way.round_trip / 2, Event::Acks(at, numbers));
    }
}

fn ours(now: Instant) -> Governor {
    Governor::Ours(Box::new(Control::new(now, MTU)))
}

fn cubic() -> Governor {
    Governor::Cubic(Cubic::new(f64::from(MTU) * 10.0))
}

/// 100 Mbit/s and a queue of 25 ms.
const fn way(round_trip: u64, loss: f64) -> Bottleneck {
    Bottleneck { rate: 8_600.0, round_trip: ms(round_trip), queue: 215, loss }
}

/// The share of `way` that a flow gets alone, once it has started.
fn alone(way: Bottleneck, governor: impl Fn(Instant) -> Governor) -> f64 {
    let now = clock::now();
    let mut simulation = Simulation::new(way, vec![(governor(now), ms(0))], now);
    simulation.run(ms(2_000));
    simulation.run(ms(12_000))[0] / way.rate
}

/// The shares that two flows get, the second of which began later, and what of all packets was lost.
fn together(way: Bottleneck, first: Governor, second: Governor) -> (f64, f64, f64) {
    let mut simulation = Simulation::new(way, vec![(first, ms(0)), (second, ms(3_000))], clock::now());
    simulation.run(ms(10_000));
    let rates = simulation.run(ms(40_000));
    let (lost, sent) = simulation.flows.iter().fold((0, 0), |(lost, sent), flow| (lost + flow.lost, sent + flow.next));
    (rates[0] / way.rate, rates[1] / way.rate, lost as f64 / sent as f64)
}

#[test]
fn without_other_losses_the_way_is_full() {
    for (round_trip, least) in [(15, 0.95), (50, 0.95), (150, 0.85)] {
        let share = alone(way(round_trip, 0.0), ours);
        assert!(share > least, "{share} at {round_trip} ms");
    }
}

#[test]
fn losses_that_are_no_congestion_leave_most_of_the_way() {
    for (round_trip, loss, least) in [(15, 0.005, 0.9), (50, 0.005, 0.9), (50, 0.02, 0.75), (50, 0.05, 0.15)] {
        let (share, without) = (alone(way(round_trip, loss), ours), alone(way(round_trip, loss), |_| cubic()));
        assert!(share > least, "{share} at {round_trip} ms and {loss}");
        assert!(without < least / 3.0, "CUBIC alone has {without} at {round_trip} ms and {loss}: no hard way");
    }
}

#[test]
fn beside_cubic_neither_starves_where_the_queue_is_as_long_as_half_a_round_trip() {
    let now = clock::now();
    let (theirs, mine, lost) = together(way(50, 0.0), cubic(), ours(now));
    assert!(theirs > 0.25 && mine > 0.25 && lost < 0.01, "{theirs} {mine} {lost}");
    let (mine, theirs, lost) = together(way(50, 0.0), ours(now), cubic());
    assert!(theirs > 0.25 && mine > 0.25 && lost < 0.01, "{theirs} {mine} {lost}");
}

#[test]
fn two_flows_share_a_way_and_lose_little_even_where_the_queue_is_short() {
    let now = clock::now();
    for queue in [20, 40, 215] {
        let (one, other, lost) = together(Bottleneck { queue, ..way(50, 0.0) }, ours(now), ours(now));
        assert!(one.min(other) > 0.15 && one + other > 0.75 && lost < 0.04, "{one} {other} {lost} at {queue}");
    }
}

#[test]
fn losses_do_not_hold_back_a_flow_that_has_little_to_send() {
    let now = clock::now();
    let mut simulation = Simulation::new(way(20, 0.005), vec![(ours(now), ms(0))], now);
    simulation.flows[0].supply = Some(300.0);
    for second in 1..30 {
        simulation.run(ms(second * 1_000));
        let window = simulation.flows[0].governor.window();
        // Six packets are under way at a time.
        assert!(window >= f64::from(MTU) * 8.0, "{window} after {second} s");
    }
    assert!(simulation.flows[0].lost > 20);
}

#[test]
fn a_path_that_became_longer_is_used_like_one_that_always_was() {
    let now = clock::now();
    let mut simulation = Simulation::new(way(2, 0.01), vec![(ours(now), ms(0))], now);
    simulation.run(ms(5_000));
    simulation.way.round_trip = ms(50);
    simulation.run(ms(35_000));
    let share = simulation.run(ms(45_000))[0] / simulation.way.rate;
    assert!(share > 0.8, "{share}");
}

/// A control that fills a way, without the losses of a start.
fn settled() -> (Control, Instant) {
    let now = clock::now();
    let mut simulation = Simulation::new(way(50, 0.0), vec![(ours(now), ms(0))], now);
    simulation.run(ms(5_000));
    match simulation.flows.remove(0).governor {
        Governor::Ours(control) => (*control, simulation.now),
        Governor::Cubic(_) => unreachable!(),
    }
}

#[test]
fn one_lost_packet_takes_no_more_than_cubic_and_leaves_what_the_path_carries() {
    let (mut control, now) = settled();
    let carried = 8_600.0 * 0.05 * f64::from(MTU);
    control.smoothed = ms(50);
    control.handle_loss(now, now, false, MTU.into());
    assert!(control.bytes() as f64 >= 0.75 * carried, "{} of {carried}", control.bytes());
}

#[test]
fn a_mark_of_the_network_lowers_the_window_once_a_round_trip() {
    let (mut control, now) = settled();
    let before = control.bytes();
    control.handle_loss(now, now, false, 0);
    let after = control.bytes();
    assert!(after < before * 9 / 10, "{before} {after}");
    control.handle_loss(now + ms(1), now, false, 0);
    assert_eq!(control.bytes(), after);
}

#[test]
fn congestion_lowers_what_the_round_that_it_came_in_counts_for() {
    let (mut control, now) = settled();
    let before = control.path.rate();
    control.handle_loss(now, now, false, 0);
    // The rest of the round was under way, and arrives as fast as ever.
    control.handle_ack(now + ms(50), now, 8_600 / 20 * u64::from(MTU), false, ms(50));
    assert!(control.path.rate() < 0.9 * before, "{} {before}", control.path.rate());
}

#[test]
fn a_packet_lost_in_the_first_round_does_not_end_the_start() {
    let now = clock::now();
    let mut control = Control::new(now, MTU);
    // Before its first measurement quinn has the configured time.
    control.handle_ack(now + ms(10), now, MTU.into(), false, ms(333));
    control.handle_ack(now + ms(10), now, MTU.into(), false, ms(333));
    control.handle_loss(now + ms(10), now, false, MTU.into());
    assert!(control.path.is_starting());
}

#[test]
fn flows_with_windows_of_a_few_packets_notice_that_they_are_too_many() {
    let (now, many) = (clock::now(), 40);
    let way = Bottleneck { rate: 860.0, round_trip: ms(100), queue: 20, loss: 0.0 };
    let flows = (0..many).map(|nth| (ours(now), ms(nth * 50))).collect();
    let mut simulation = Simulation::new(way, flows, now);
    simulation.run(ms(10_000));
    let count = |s: &Simulation| s.flows.iter().fold((0, 0), |(l, n), flow| (l + flow.lost, n + flow.next));
    let before = count(&simulation);
    simulation.run(ms(30_000));
    let after = count(&simulation);
    let lost = (after.0 - before.0) as f64 / (after.1 - before.1) as f64;
    // Two packets of each are as many as the way and its queue hold: CUBIC loses 15 %.
    assert!(lost < 0.25, "{lost}");
}

#[test]
fn persistent_congestion_leaves_the_least_window_and_a_new_start() {
    let (mut control, now) = settled();
    control.handle_loss(now, now, true, 100_000);
    assert_eq!(control.bytes(), 2 * u64::from(MTU));
    control.handle_ack(now + ms(50), now, MTU.into(), false, ms(50));
    assert_eq!(control.bytes(), 3 * u64::from(MTU));
}

#[test]
fn quinn_is_told_what_the_window_became_by_acknowledgements_losses_and_packet_sizes() {
    let now = clock::now();
    let mut control = Control::new(now, MTU);
    assert_eq!(control.window(), control.initial_window());
    control.handle_ack(now + ms(50), now, 10 * u64::from(MTU), false, ms(50));
    control.on_end_acks(now + ms(50), 0, false, None);
    let grown = control.window();
    assert!(grown > control.initial_window() && grown == control.bytes());
    control.on_congestion_event(now + ms(60), now + ms(55), true, 100_000);
    assert_eq!(control.window(), 2 * u64::from(MTU));
    control.on_mtu_update(9_000);
    assert_eq!(control.window(), 2 * 9_000);
}
