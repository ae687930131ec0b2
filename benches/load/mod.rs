//! The load generator: HTTP/3 (quinn, h3) and HTTP/2 (hyper) clients under a closed or an open loop.
//!
//! Started by `rounds` as a process of its own with one current-thread runtime, so that it can be pinned away from what
//! it measures. Takes a [`Plan`] as JSON in its argument and prints a [`Report`] as JSON. It reads the clocks of the
//! watched processes itself, at the very start and end of the measurement, so that no message between processes blurs
//! the window. It decides nothing about what is good or bad.

mod client;
mod filler;
mod http1;
mod http2;
mod http3;
mod pace;
mod plan;
mod shapes;
mod tally;
mod tls;
mod trouble;

pub use filler::Filler;
pub use plan::{Ask, Plan, Protocol, Shape, Trouble};
pub use tally::Report;

use std::time::Duration;

use crate::Outcome;

/// Runs the plan in `json` and prints the report as one line on stdout.
pub fn main(json: &str) -> Outcome<()> {
    let plan: Plan = serde_json::from_str(json)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(shapes::run(&plan))?;
    println!("{}", serde_json::to_string(&report)?);
    // Connections that are still open are not worth an orderly end.
    runtime.shutdown_timeout(Duration::ZERO);
    Ok(())
}
