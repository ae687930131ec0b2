//! The PoP: terminates client connections and carries their requests to origins through tunnels.

pub mod listener;
pub mod route;
