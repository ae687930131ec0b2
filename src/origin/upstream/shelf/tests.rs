use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fake {
    number: u32,
    closed: bool,
    streams_max: usize,
}

impl Usable for Fake {
    fn has_room(&self, streams: usize) -> bool {
        !self.closed && streams < self.streams_max
    }

    fn is_closed(&self) -> bool {
        self.closed
    }
}

impl Wait for Rc<Cell<bool>> {
    fn is_gone(&self) -> bool {
        self.get()
    }
}

type TestShelf = Shelf<Fake, Fake, Rc<Cell<bool>>>;

fn fake(number: u32) -> Fake {
    Fake { number, closed: false, streams_max: 1 }
}

fn waiter() -> Rc<Cell<bool>> {
    Rc::new(Cell::new(false))
}

#[test]
fn the_newest_connection_of_the_own_worker_comes_first() {
    let now = clock::now();
    let mut shelf = TestShelf::new(4, 0, Some(false));
    for worker in [1, 2, 1, 2] {
        let Some(Taken::Open(id)) = shelf.ask(worker, true) else { panic!("room for four") };
        shelf.handle_exclusive(id);
    }
    for (id, worker) in [(0, 1), (1, 2), (2, 1), (3, 2)] {
        assert_eq!(shelf.handle_free(id, worker, fake(0), now), None);
    }
    let order: Vec<_> = (0..4).map(|_| shelf.ask(1, false)).collect();
    let ids: Vec<_> = order.iter().map(|taken| if let Some(Taken::Idle(id, _)) = taken { *id } else { 99 }).collect();
    assert_eq!(ids, [2, 0, 3, 1], "own newest, own older, then the others'");
    assert_eq!(shelf.ask(1, false), None);
}

#[test]
fn only_one_connection_is_opened_until_its_protocol_is_known() {
    let now = clock::now();
    let mut shelf = TestShelf::new(10, 10, None);
    assert_eq!(shelf.ask(1, false), Some(Taken::Open(0)));
    assert_eq!(shelf.ask(1, false), None, "it may carry this one too");
    shelf.enqueue(waiter(), 1).unwrap();
    shelf.enqueue(waiter(), 1).unwrap();
    assert_eq!(shelf.next_served(), None);
    shelf.handle_shared(0, 1, Fake { streams_max: 2, ..fake(0) }, now);
    let served: Vec<_> = std::iter::from_fn(|| shelf.next_served()).map(|(_, _, taken)| taken).collect();
    assert!(matches!(served[..], [Taken::Stream(0, _), Taken::Open(1)]), "{served:?}");
}

#[test]
fn nobody_waits_for_a_connection_of_an_upgrade() {
    let mut shelf = TestShelf::new(3, 10, Some(true));
    assert_eq!(shelf.ask_own(), Some(0));
    assert_eq!(shelf.ask(1, false), Some(Taken::Open(1)), "not held up by the upgrade's");
    assert_eq!(shelf.ask_own(), Some(2));
    assert_eq!(shelf.ask_own(), None, "but it counts");
}

#[test]
fn a_connect_that_failed_lets_the_next_one_try() {
    let mut shelf = TestShelf::new(1, 10, None);
    assert_eq!(shelf.ask(1, false), Some(Taken::Open(0)));
    shelf.enqueue(waiter(), 2).unwrap();
    assert_eq!(shelf.next_served(), None);
    shelf.handle_closed(0);
    let (_, worker, taken) = shelf.next_served().unwrap();
    assert_eq!((worker, taken), (2, Taken::Open(1)));
}

#[test]
fn those_who_gave_up_take_no_place_in_the_queue() {
    let mut shelf = TestShelf::new(1, 2, Some(false));
    assert_eq!(shelf.ask(1, false), Some(Taken::Open(0)));
    let waiters = [waiter(), waiter(), waiter()];
    shelf.enqueue(waiters[0].clone(), 1).unwrap();
    shelf.enqueue(waiters[1].clone(), 1).unwrap();
    assert!(shelf.enqueue(waiters[2].clone(), 1).is_err());
    waiters[0].set(true);
    shelf.enqueue(waiters[2].clone(), 1).unwrap();
    shelf.handle_closed(0);
    let (served, _, _) = shelf.next_served().unwrap();
    assert!(Rc::ptr_eq(&served, &waiters[1]));
}

#[test]
fn connections_unused_for_long_are_taken_out_oldest_first() {
    let start = clock::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut shelf = TestShelf::new(4, 0, Some(false));
    for id in 0..3 {
        assert_eq!(shelf.ask(1, true), Some(Taken::Open(id)));
        shelf.handle_exclusive(id);
    }
    for (id, number) in [(0, 10), (1, 11), (2, 12)] {
        shelf.handle_free(id, 1, fake(number), at(id));
    }
    assert_eq!(shelf.oldest_idle(), Some(at(0)));
    let (exclusive, _) = shelf.take_expired(at(1));
    assert_eq!(exclusive.iter().map(|connection| connection.number).collect::<Vec<_>>(), [10, 11]);
    assert_eq!(shelf.oldest_idle(), Some(at(2)));
    assert_eq!(shelf.open(), 3, "open until their sockets are closed");
}

#[derive(Clone, Debug)]
enum Step {
    Ask { worker: usize, fresh: bool },
    GiveUp(usize),
    Opened(usize),
    Fail(usize),
    Finish(usize),
    Die(usize),
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize, any::<bool>()).prop_map(|(worker, fresh)| Step::Ask { worker, fresh }),
        1 => any::<usize>().prop_map(Step::GiveUp),
        4 => any::<usize>().prop_map(Step::Opened),
        1 => any::<usize>().prop_map(Step::Fail),
        5 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::Die),
        1 => Just(Step::Expire),
    ]
}

/// Everything outside the shelf: what exists and who uses it.
struct World {
    shelf: TestShelf,
    multiplexed: bool,
    open_max: usize,
    opening: Vec<(ConnectionId, usize)>,
    /// Streams in use of each connection that exists.
    alive: BTreeMap<ConnectionId, (usize, usize)>,
    waiting: Vec<Rc<Cell<bool>>>,
}

const STREAMS: usize = 3;

impl World {
    fn handle(&mut self, taken: Taken<Fake, Fake>, worker: usize) {
        match taken {
            Taken::Open(id) => self.opening.push((id, worker)),
            Taken::Idle(id, _) | Taken::Stream(id, _) => self.alive.get_mut(&id).expect("it exists").1 += 1,
        }
    }

    fn settle(&mut self) {
        while let Some((waiter, worker, taken)) = self.shelf.next_served() {
            assert!(!waiter.get(), "nobody is served who gave up");
            let at = self.waiting.iter().position(|known| Rc::ptr_eq(known, &waiter)).expect("it waited");
            assert!(self.waiting[..at].iter().all(|earlier| earlier.get()), "in order");
            self.waiting.drain(..=at);
            self.handle(taken, worker);
        }
    }

    fn check(&self) {
        assert_eq!(self.shelf.open(), self.opening.len() + self.alive.len());
        assert!(self.shelf.open() <= self.open_max);
        let streams_max = if self.multiplexed { STREAMS } else { 1 };
        assert!(self.alive.values().all(|&(_, streams)| streams <= streams_max));
        let waits = self.waiting.iter().any(|waiter| !waiter.get());
        let unused = self.alive.values().any(|&(_, streams)| streams == 0);
        assert!(
            !waits || !unused || self.multiplexed && self.shelf.open() < self.open_max,
            "nobody waits beside an unused connection"
        );
        assert!(!waits || self.shelf.open() > 0, "whoever waits has something to wait for");
    }

    fn connection(&self) -> Fake {
        Fake { number: 0, closed: false, streams_max: if self.multiplexed { STREAMS } else { 1 } }
    }

    fn used(&self, pick: usize) -> Option<ConnectionId> {
        let used: Vec<_> = self.alive.iter().filter(|(_, (_, streams))| *streams > 0).map(|(id, _)| *id).collect();
        (!used.is_empty()).then(|| used[pick % used.len()])
    }

    fn apply(&mut self, step: Step) {
        let now = clock::now();
        match step {
            Step::Ask { worker, fresh } => match self.shelf.ask(worker, fresh) {
                Some(taken) => self.handle(taken, worker),
                None => {
                    let waiter = waiter();
                    if self.shelf.enqueue(waiter.clone(), worker).is_ok() {
                        self.waiting.push(waiter);
                    }
                }
            },
            Step::GiveUp(pick) if !self.waiting.is_empty() => self.waiting[pick % self.waiting.len()].set(true),
            Step::Opened(pick) if !self.opening.is_empty() => {
                let (id, worker) = self.opening.swap_remove(pick % self.opening.len());
                self.alive.insert(id, (worker, 1));
                if self.multiplexed {
                    self.shelf.handle_shared(id, worker, self.connection(), now);
                } else {
                    self.shelf.handle_exclusive(id);
                }
            }
            Step::Fail(pick) if !self.opening.is_empty() => {
                let (id, _) = self.opening.swap_remove(pick % self.opening.len());
                self.shelf.handle_closed(id);
            }
            Step::Finish(pick) => {
                let Some(id) = self.used(pick) else { return };
                let connection = self.connection();
                let (worker, streams) = self.alive.get_mut(&id).expect("it is used");
                *streams -= 1;
                if self.multiplexed {
                    assert_eq!(self.shelf.handle_stream_end(id, now), None);
                } else {
                    assert_eq!(self.shelf.handle_free(id, *worker, connection, now), None);
                }
            }
            Step::Die(pick) if !self.alive.is_empty() => {
                let id = *self.alive.keys().nth(pick % self.alive.len()).expect("one of them");
                self.alive.remove(&id);
                self.shelf.handle_closed(id);
            }
            Step::Expire => {
                let before: Vec<_> =
                    self.alive.iter().filter(|(_, (_, streams))| *streams == 0).map(|(id, _)| *id).collect();
                let (exclusive, shared) = self.shelf.take_expired(now);
                assert_eq!(exclusive.len() + shared.len(), before.len());
                for id in before {
                    self.alive.remove(&id);
                    self.shelf.handle_closed(id);
                }
            }
            _ => {}
        }
        self.settle();
    }
}

proptest! {
    #[test]
    fn no_order_of_events_breaks_the_invariants(
        steps in prop::collection::vec(step(), 0..200),
        multiplexed in any::<bool>(),
        known in any::<bool>(),
        open_max in 1..6_usize,
        queue_max in 0..6_usize,
    ) {
        let shelf = TestShelf::new(open_max, queue_max, known.then_some(multiplexed));
        let mut world = World {
            shelf, multiplexed, open_max, opening: Vec::new(), alive: BTreeMap::new(), waiting: Vec::new(),
        };
        for step in steps {
            world.apply(step);
            world.check();
        }
    }
}
