//! The PoP: terminates client connections and carries their requests to origins through tunnels.

mod acceptor;
mod body;
mod crowd;
pub mod dispatch;
pub mod filter;
pub mod listener;
pub mod route;
mod run;
mod serve;

pub use run::{RunError, run};
