//! The gateway side: dials PoPs, keeps tunnels to them, and turns exchanges into upstream requests.

mod body;
pub mod failover;
pub mod gateway;
mod run;
pub mod upstream;

pub use run::{RunError, run};
