//! The credit that the exchanges of one client connection have together (sans-IO): what the connection's client has asked
//! for and does not take is bounded by this, however many requests it spreads it over. Shared by their [`super::receiver`]s,
//! each of which asks before it lets its gateway send more.
//!
//! Invariant: the windows of `n` exchanges of which nothing was taken are at most `size + n * WINDOW_MIN` bytes together.
//! `size` starts at [`START`] and grows only by what the client has shown to take: it doubles when half of it was taken
//! within two round trips of a link, and an exchange of which four times the window was taken may have that window whatever
//! its neighbours hold, so that readers that stall do not slow one that does not.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The least that an exchange may be sent before anything of it was taken, bytes.
pub const WINDOW_MIN: u64 = 16 << 10;
/// What a connection's exchanges may be sent together, beyond [`WINDOW_MIN`] each, before anything was taken, bytes.
pub const START: u64 = 256 << 10;
/// How many times a window must have been taken of an exchange that gets it beyond what its connection has.
const PROOF: u64 = 4;

/// See the module.
#[derive(Debug)]
pub struct Credit(Mutex<State>);

#[derive(Debug)]
struct State {
    size: u64,
    used: u64,
    /// Bytes taken since `since`.
    taken: u64,
    since: Option<Instant>,
}

impl Default for Credit {
    fn default() -> Self {
        Self(Mutex::new(State { size: START, used: 0, taken: 0, since: None }))
    }
}

impl Credit {
    /// The window of a new exchange: `most`, or less where others hold windows already. To be released.
    pub fn open(&self, most: u64) -> u64 {
        let state = &mut *self.0.lock();
        let half = state.size.saturating_sub(state.used) / 2;
        let window = half.max(WINDOW_MIN).min(most);
        state.used += window;
        window
    }

    /// The reader of an exchange took `bytes` more.
    pub fn handle_taken(&self, bytes: u64, now: Instant, rtt: Duration) {
        let state = &mut *self.0.lock();
        let since = *state.since.get_or_insert(now);
        state.taken += bytes;
        if state.taken < state.size / 2 {
            return;
        }
        let took = now.saturating_duration_since(since);
        if took < rtt * 2 && state.used > state.size / 2 {
            state.size *= 2;
        } else if took > rtt * super::receiver::IDLE_ROUND_TRIPS {
            state.size = (state.size / 2).max(START);
        }
        state.taken = 0;
        state.since = Some(now);
    }

    /// Takes `more` for an exchange that will have `window` then and of which `received` bytes were taken, if there is room
    /// or it has shown its need. To be released.
    pub fn reserve(&self, more: u64, window: u64, received: u64) -> bool {
        let state = &mut *self.0.lock();
        let fits = state.used + more <= state.size || received >= window.saturating_mul(PROOF);
        if fits {
            state.used += more;
        }
        fits
    }

    /// Gives `bytes` back.
    pub fn release(&self, bytes: u64) {
        let state = &mut *self.0.lock();
        debug_assert!(bytes <= state.used, "more given back than taken");
        state.used = state.used.saturating_sub(bytes);
        // What was shown with other requests is forgotten with them.
        state.size = state.size.min((2 * state.used).max(START));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::receiver::Receiver;
    use super::super::retention::Budget;
    use super::*;

    const RTT: Duration = Duration::from_millis(10);
    const MOST: u64 = 128 << 10;
    const WINDOW_MAX: u64 = 4 << 20;

    fn receiver(credit: &Arc<Credit>) -> Receiver {
        Receiver::of_client(credit.clone(), MOST, WINDOW_MAX, Arc::new(Budget::new(1 << 40)))
    }

    /// Takes all that may be sent, `steps` times, each within `took` of the last; the window then.
    fn drain(receiver: &mut Receiver, now: &mut Instant, took: Duration, steps: u32) -> u64 {
        for _ in 0..steps {
            *now += took;
            let (_, left) = receiver.resume_point();
            receiver.handle_received(left).expect("within the credit");
            receiver.poll_ack(*now, || RTT).expect("all of it was used");
        }
        receiver.window()
    }

    proptest! {
        #[test]
        fn what_nobody_takes_is_bounded_however_many_requests_it_is_spread_over(requests in 1usize..300) {
            let credit = Arc::new(Credit::default());
            let unread: Vec<_> = (0..requests).map(|_| receiver(&credit)).collect();
            let sent: u64 = unread.iter().map(Receiver::window).sum();
            prop_assert!(sent <= START + requests as u64 * WINDOW_MIN, "{} for {}", sent, requests);
            drop(unread);
            prop_assert_eq!(credit.0.lock().used, 0);
        }
    }

    #[test]
    fn the_first_requests_of_a_connection_may_be_sent_more_than_the_later_ones() {
        let credit = Arc::new(Credit::default());
        let windows: Vec<_> = (0..6).map(|_| receiver(&credit)).map(|r| (r.window(), std::mem::forget(r)).0).collect();
        assert_eq!(windows, [128 << 10, 64 << 10, 32 << 10, WINDOW_MIN, WINDOW_MIN, WINDOW_MIN]);
    }

    #[test]
    fn one_fast_download_doubles_its_window_with_every_round_trip() {
        let (credit, mut now) = (Arc::new(Credit::default()), crate::clock::now());
        let mut one = receiver(&credit);
        assert_eq!(drain(&mut one, &mut now, RTT, 2), 512 << 10);
        assert_eq!(drain(&mut one, &mut now, RTT, 3), WINDOW_MAX);
        drop(one);
        assert_eq!(credit.0.lock().used, 0);
    }

    #[test]
    fn a_little_taken_of_each_of_many_gives_none_of_them_more() {
        let (credit, mut now) = (Arc::new(Credit::default()), crate::clock::now());
        let mut many: Vec<_> = (0..10).map(|_| receiver(&credit)).collect();
        let before: u64 = many.iter().map(Receiver::window).sum();
        for one in &mut many[3..] {
            drain(one, &mut now, RTT, 4);
        }
        assert_eq!(many.iter().map(Receiver::window).sum::<u64>(), before);
    }

    #[test]
    fn readers_that_stall_do_not_keep_one_that_does_not_from_what_it_needs() {
        let (credit, mut now) = (Arc::new(Credit::default()), crate::clock::now());
        let _stalled: Vec<_> = (0..10).map(|_| receiver(&credit)).collect();
        let mut healthy = receiver(&credit);
        assert_eq!(healthy.window(), WINDOW_MIN);
        assert!(drain(&mut healthy, &mut now, RTT, 60) >= 1 << 20, "{}", healthy.window());
    }
}
