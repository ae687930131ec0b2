//! QUIC as an onlooker sees it: captures are read here, without any part of the stacks under test.
//!
//! Called by the judge.

pub mod connection;
pub mod hello;
pub mod keylog;
pub mod keys;
pub mod trace;
pub mod wire;
