//! The PoP: terminates client connections and carries their requests to origins through tunnels.

pub mod filter;
pub mod listener;
pub mod route;
