//! The gateway side: dials PoPs, keeps tunnels to them, and turns exchanges into upstream requests.

pub mod upstream;
