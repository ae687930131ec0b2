//! The machine under single events and under random ones.

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
    assert_eq!(roles(&Machine::new(0..5, 2, now)), "HHw--");
    assert_eq!(roles(&Machine::new(0..2, 2, now)), "HH");
    assert_eq!(roles(&Machine::new(0..1, 1, now)), "H");
}

#[test]
fn a_lost_pop_is_replaced_at_once_and_taken_back_when_it_has_settled() {
    let now = crate::clock::now();
    let mut machine = Machine::new(0..4, 2, now);
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
    let mut machine = Machine::new(0..3, 1, now);
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
    let mut machine = Machine::new(0..3, 2, now);
    machine.handle_ready(0, now);
    machine.handle_ready(1, now);
    machine.handle_drain(0, Vec::new(), now);
    assert_eq!(roles(&machine), "HHH");
    assert!(!machine.is_covered_without(0));
    machine.handle_ready(2, now);
    assert!(machine.is_covered_without(0));
}

#[test]
fn who_drains_is_replaced_by_whom_it_named_and_taken_back_in_its_place() {
    let now = crate::clock::now();
    let mut machine = Machine::new(0..4, 1, now);
    (0..2).for_each(|pop| machine.handle_ready(pop, now));
    machine.handle_drain(0, vec![3, 2], now);
    assert_eq!(roles(&machine), "HwwH", "named: held or warm before the one that was warm, which stays until they are");
    assert!(!machine.is_covered_without(0), "the warm one is ready, but not the one that was named");
    machine.handle_ready(3, now);
    assert!(machine.is_covered_without(0));
    machine.handle_ready(2, now);
    assert_eq!(roles(&machine), "H-wH");
    machine.handle_lost(0, now);
    machine.handle_ready(0, now);
    machine.handle_timeout(now + SETTLE);
    assert_eq!(roles(&machine), "Hw--");
}

#[test]
fn who_was_named_and_cannot_be_reached_holds_nobody_up() {
    let now = crate::clock::now();
    let mut machine = Machine::new(0..3, 1, now);
    (0..2).for_each(|pop| machine.handle_ready(pop, now));
    machine.handle_drain(0, vec![2], now);
    assert!(!machine.is_covered_without(0));
    machine.handle_dial_failed(2, now);
    assert!(machine.is_covered_without(0));
    assert_eq!(machine.role(1), Role::Held);
}

#[test]
fn the_operators_choice_is_ready_before_another_is_let_go() {
    let now = crate::clock::now();
    let mut machine = Machine::new(0..4, 1, now);
    (0..2).for_each(|pop| machine.handle_ready(pop, now));
    machine.handle_migrate(Some(3), now);
    assert_eq!((roles(&machine).as_str(), machine.chosen(3)), ("Hw-H", Chosen::Pending));
    machine.handle_ready(3, now);
    assert_eq!((roles(&machine).as_str(), machine.chosen(3)), ("w--H", Chosen::Yes));
    machine.handle_timeout(now + MIGRATE_TIMEOUT);
    assert_eq!(machine.chosen(3), Chosen::Yes);
    machine.handle_migrate(None, now);
    assert_eq!(roles(&machine), "Hw--", "the warm one is ready already");
}

#[test]
fn a_choice_that_cannot_be_reached_lapses_and_the_one_before_it_stays() {
    let now = crate::clock::now();
    let mut machine = Machine::new(0..3, 1, now);
    machine.handle_ready(0, now);
    machine.handle_migrate(Some(1), now);
    machine.handle_ready(1, now);
    machine.handle_migrate(Some(2), now);
    machine.handle_dial_failed(2, now);
    assert_eq!((roles(&machine).as_str(), machine.chosen(2)), ("wHH", Chosen::Pending));
    let due = machine.poll_timeout(now).unwrap();
    assert_eq!(due, now + MIGRATE_TIMEOUT);
    machine.handle_timeout(due);
    assert_eq!((roles(&machine).as_str(), machine.chosen(2)), ("wH-", Chosen::No));
    assert_eq!(machine.chosen(1), Chosen::Yes);
}

#[test]
fn a_chosen_pop_that_dies_is_replaced_and_taken_back() {
    let now = crate::clock::now();
    let mut machine = Machine::new(0..2, 1, now);
    machine.handle_ready(0, now);
    machine.handle_migrate(Some(1), now);
    machine.handle_ready(1, now);
    assert_eq!(roles(&machine), "wH");
    machine.handle_lost(1, now);
    assert_eq!(roles(&machine), "HH");
    machine.handle_ready(1, now);
    machine.handle_timeout(now + SETTLE);
    assert_eq!(roles(&machine), "wH");
}

#[test]
fn two_that_are_held_are_in_different_failure_domains_as_long_as_there_are_two() {
    let now = crate::clock::now();
    let mut machine = Machine::new([1, 1, 1, 2, 2], 2, now);
    assert_eq!(roles(&machine), "Hw-H-", "the last one is in the next domain");
    [0, 1, 3].into_iter().for_each(|pop| machine.handle_ready(pop, now));
    machine.handle_lost(3, now);
    assert_eq!(roles(&machine), "Hw-HH", "its replacement is in the same other domain");
    machine.handle_ready(4, now);
    machine.handle_lost(4, now);
    assert_eq!(roles(&machine), "HHwHH", "the other domain is lost: it is dialled, and two are held all the same");
    machine.handle_ready(4, now);
    machine.handle_timeout(now + SETTLE);
    assert_eq!(roles(&machine), "Hw-HH", "one of it is back and settled; the one that is preferred to it is dialled");
    machine.handle_lost(0, now + SETTLE);
    assert_eq!(roles(&machine), "HHwHH", "the next of the first domain");
}

#[test]
fn the_warm_one_is_in_another_failure_domain_than_the_only_one_that_is_held() {
    let now = crate::clock::now();
    let mut machine = Machine::new([1, 1, 2], 1, now);
    assert_eq!(roles(&machine), "H-w");
    machine.handle_migrate(Some(2), now);
    machine.handle_ready(2, now);
    assert_eq!(roles(&machine), "w-H");
}

#[derive(Clone, Debug)]
enum Event {
    Ready(usize),
    Lost(usize),
    DialFailed(usize),
    Drain(usize, usize),
    Migrate(Option<usize>),
    Wait(u64),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0usize..5).prop_map(Event::Ready),
        (0usize..5).prop_map(Event::Lost),
        (0usize..5).prop_map(Event::DialFailed),
        (0usize..5, 0usize..5).prop_map(|(pop, next)| Event::Drain(pop, next)),
        proptest::option::of(0usize..5).prop_map(Event::Migrate),
        (0u64..40).prop_map(Event::Wait),
    ]
}

proptest! {
    /// The invariants are asserted inside; here: when everything comes back and time passes, the preferred are held.
    #[test]
    fn whatever_happens_the_invariants_hold_and_preference_wins_in_the_end(
        events in proptest::collection::vec(any_event(), 0..60),
        wanted in 1usize..4,
        domains in proptest::collection::vec(0usize..4, 5),
    ) {
        let mut now = crate::clock::now();
        let mut machine = Machine::new(domains.clone(), wanted, now);
        for event in events {
            match event {
                Event::Ready(pop) => machine.handle_ready(pop, now),
                Event::Lost(pop) => machine.handle_lost(pop, now),
                Event::DialFailed(pop) => machine.handle_dial_failed(pop, now),
                Event::Drain(pop, next) => machine.handle_drain(pop, vec![next], now),
                Event::Migrate(to) => machine.handle_migrate(to, now),
                Event::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    machine.handle_timeout(now);
                }
            }
        }
        for pop in 0..5 {
            machine.handle_ready(pop, now);
        }
        machine.handle_migrate(None, now);
        machine.handle_timeout(now + SETTLE_MAX);
        // The first ones, but that the last that counts is elsewhere, if there is an elsewhere.
        let last = wanted.max(DOMAINS) - 1;
        let elsewhere = (last..5).find(|pop| domains[..last].iter().any(|domain| *domain != domains[*pop]));
        let mut expected: Vec<_> = (0..5).collect();
        let last_is = expected.remove(elsewhere.unwrap_or(last));
        expected.insert(last, last_is);
        let role = |pop| match expected.iter().position(|other| *other == pop).unwrap() {
            place if place < wanted => 'H',
            place if place == wanted => 'w',
            _ => '-',
        };
        prop_assert_eq!(roles(&machine), (0..5).map(role).collect::<String>());
    }
}
