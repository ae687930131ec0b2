//! The PoP: terminates client connections and carries their requests to origins through tunnels.

mod acceptor;
mod body;
mod crowd;
pub mod dispatch;
pub mod filter;
#[cfg(not(feature = "interop"))]
mod http3;
#[cfg(feature = "interop")]
#[path = "interop.rs"]
mod http3;
pub mod listener;
pub mod route;
mod run;
mod serve;

pub use run::{RunError, run};
