//! Stage 1, HTTP/3: how many bytes of answers a connection holds on their way to its client (sans-IO): three times the
//! congestion window, so that a path is never without something to send, even while it waits for what was lost, and a client
//! that takes nothing holds no more than it had shown to take, or [`START`]. Asked by the connection's requests as they write.
//!
//! Invariant: the size is between [`START`] (or the configured maximum, if that is less) and the maximum, and what it is
//! beyond [`FREE`] is reserved in the budget: connections that wait for their next request keep theirs, and must not leave
//! others with next to nothing.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::tunnel::exchange::retention::Budget;

/// What a connection may hold before its path is known, bytes.
pub const START: u64 = 128 << 10;

/// What a connection may hold without asking the budget, bytes.
pub const FREE: u64 = 1 << 20;
/// Congestion windows: one is under way, and what was lost of it is acknowledged up to two round trips later.
const PATHS: u64 = 3;

/// See the module.
pub struct SendWindow {
    state: Mutex<State>,
    max: u64,
    budget: Arc<Budget>,
}

struct State {
    size: u64,
    /// Bytes since the path was looked at.
    written: u64,
}

impl SendWindow {
    /// Grows to `max` and within `budget`, which all connections of a process share.
    pub fn new(max: u64, budget: Arc<Budget>) -> Self {
        Self { state: Mutex::new(State { size: START.min(max), written: 0 }), max, budget }
    }

    /// Bytes were written: the new size, if it changes. The path is looked at once for every half of the window.
    pub fn handle_written(&self, bytes: u64, congestion_window: impl FnOnce() -> u64) -> Option<u64> {
        let state = &mut *self.state.lock();
        state.written += bytes;
        if state.written < state.size / 2 {
            return None;
        }
        state.written = 0;
        let least = START.min(self.max);
        let wanted = congestion_window().saturating_mul(PATHS).clamp(least, self.max);
        if wanted > state.size {
            let more = beyond(wanted) - beyond(state.size);
            state.size = if self.budget.reserve(more) { wanted } else { state.size.max(FREE.min(wanted)) };
        } else if wanted < state.size / 2 {
            self.budget.release(beyond(state.size) - beyond(wanted));
            state.size = wanted;
        } else {
            return None;
        }
        Some(state.size)
    }
}

impl Drop for SendWindow {
    fn drop(&mut self) {
        self.budget.release(beyond(self.state.get_mut().size));
    }
}

/// What of a size comes out of the budget.
fn beyond(size: u64) -> u64 {
    size.saturating_sub(FREE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_three_times_what_the_path_takes_between_its_start_and_its_maximum() {
        let budget = Arc::new(Budget::new(100 << 20));
        let window = SendWindow::new(8 << 20, budget.clone());
        assert_eq!(window.handle_written(START / 2, || 12_000), None, "it starts with more than that");
        assert_eq!(window.handle_written(START / 2 - 1, || unreachable!("too early to look")), None);
        assert_eq!(window.handle_written(1, || 1 << 20), Some(3 << 20));
        assert_eq!(window.handle_written(2 << 20, || 800 << 10), None, "not for a little");
        assert_eq!(window.handle_written(2 << 20, || 1 << 30), Some(8 << 20));
        assert_eq!(window.handle_written(4 << 20, || 12_000), Some(START));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn beyond_a_part_of_their_own_all_connections_grow_within_the_budget_and_give_it_back() {
        let budget = Arc::new(Budget::new(1 << 20));
        let [first, second] = [(); 2].map(|()| SendWindow::new(8 << 20, budget.clone()));
        assert_eq!(first.handle_written(START, || 512 << 10), Some(1_536 << 10));
        assert_eq!(second.handle_written(START, || 1 << 20), Some(FREE), "3 MiB would be too much");
        drop(first);
        assert_eq!(second.handle_written(FREE, || 512 << 10), Some(1_536 << 10));
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_maximum_below_the_start_is_kept() {
        let window = SendWindow::new(16 << 10, Arc::new(Budget::new(1 << 20)));
        assert_eq!(window.handle_written(8 << 10, || 1 << 20), None);
    }
}
