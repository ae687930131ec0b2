//! Keeps the tunnels: which PoPs to hold is decided in the sans-IO [`machine`], when to dial again in [`backoff`];
//! `supervisor` drives the machine, `dial` holds one link each and does the only I/O of this folder.

pub mod backoff;
mod dial;
pub mod machine;
mod owner;
mod supervisor;

pub use dial::{Dialler, Holder};
pub use supervisor::Supervisor;
