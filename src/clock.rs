//! The only place that reads the clock, so that tests with paused time see one time everywhere.

use std::time::{Instant, SystemTime};

/// Monotonic time now. Inside a tokio runtime with paused time this is the paused time.
#[inline]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The time of day, for dates that others read. It may jump.
#[inline]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
