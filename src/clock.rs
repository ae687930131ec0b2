//! The only place that reads the clock, so that tests with paused time see one time everywhere.

use std::time::Instant;

/// Monotonic time now. Inside a tokio runtime with paused time this is the paused time.
#[inline]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
