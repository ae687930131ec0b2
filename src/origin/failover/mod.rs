//! Keeps the tunnels: dials PoPs, registers, redials with backoff. Owns the links' tasks and the only I/O of this
//! folder; what to dial and when is decided in the sans-IO [`backoff`].

pub mod backoff;
mod dial;

pub use dial::{Dialler, OriginOwner};
