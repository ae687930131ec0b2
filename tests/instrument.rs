//! Runs the tests that stand beside the code of the bench: a bench target has no test harness of its own.

#![allow(dead_code, reason = "the bench's own main is not part of this")]

#[path = "../benches/chains/mod.rs"]
mod chains;
#[path = "../benches/load/mod.rs"]
mod load;
#[path = "../benches/machine/mod.rs"]
mod machine;
#[path = "../interop/runner/net/mod.rs"]
mod net;
#[path = "../benches/report/mod.rs"]
mod report;
#[path = "../benches/rounds/mod.rs"]
mod rounds;
#[path = "../benches/upstream/mod.rs"]
mod upstream;

/// As in benches/chain.rs.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
