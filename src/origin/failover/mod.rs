//! Keeps the tunnels: which PoPs to hold is decided in the sans-IO [`machine`], when to dial again in [`backoff`];
//! `supervisor` drives the machine, `dial` holds one link each, `connect` and `route` have the only I/O of this folder.

pub mod backoff;
mod connect;
mod dial;
pub mod machine;
mod owner;
mod route;
mod supervisor;

pub use dial::{Dialler, Holder};
pub use supervisor::{MigrateError, Supervisor};
