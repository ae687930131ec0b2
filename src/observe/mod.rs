//! What the process says about itself: log, access log, metrics. Consumes events, decides nothing.
//!
//! Nothing here ever waits on behalf of a request: lines go into a bounded buffer that one thread empties, counters
//! are resolved before the first request, and a full buffer drops the line and counts it.

pub mod access;
pub mod event;
pub mod lines;
pub mod log;
pub mod metrics;
pub mod ready;
pub mod record;
pub mod timestamp;

mod escape;
mod process;
