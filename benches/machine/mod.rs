//! The machine under the bench: who used its processors, on which cores processes may run, and its network.
//!
//! Linux only, as the bench is. Reads the kernel's accounts and decides nothing.

mod account;
mod cores;
mod network;
mod usage;

pub use cores::{Cores, pin};
pub use network::{isolate, ready_loopback, tcp_control};
pub use usage::{Meter, Usage};
