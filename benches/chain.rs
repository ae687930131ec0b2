//! The whole chain beside its peers: `make bench`.
//!
//! Starts an upstream and, for each contestant, an edge and an origin, all pinned; lets the load generator drive each
//! scenario through each contestant in turn, the order rotated every round; prints medians, ranges and ratios pair by
//! pair. This one binary is also the load generator (`chain load PLAN`) and the upstream (`chain upstream`): it runs
//! itself again with that word, so that each is a process of its own and can be pinned.
//!
//! `BENCH_ROUNDS` (7), `BENCH_SECONDS` (1, length of a measurement; some are a multiple of it), `BENCH_CHAINS` and
//! `BENCH_SCENARIOS` (names or their beginnings, separated by commas) narrow or widen a run: what is named is measured in
//! every round; otherwise rare contestants and long scenarios are in the first round alone. `BENCH_MINUTES` (15): no round
//! begins that would end later. `BENCH_CERTS` names a folder as `edge ca` makes it, instead of fresh certificates.
//! `BENCH_PROGRAMS` names the folder with the `edge` and the `origin` that are measured (`make bench` measures those of
//! `make release`; otherwise it is those of this build), `BENCH_BASELINE` another one: a contestant of its own, beside which
//! a change shows what it costs or saves.
//!
//! Linux only. Peers come from Debian sid and PyPI and are unpacked under target/ without root; links with delay and loss
//! need it.

#![cfg_attr(
    test,
    allow(dead_code, unused_imports, reason = "without a harness tests are stripped; tests/instrument.rs runs them")
)]

mod chains;
mod load;
mod machine;
#[path = "../interop/runner/net/mod.rs"]
#[allow(dead_code, reason = "measurements use a part of what the interop runner needs")]
mod net;
mod report;
mod rounds;
mod upstream;

use std::error::Error;
use std::process::ExitCode;

/// What the bench returns where nobody tells errors apart: it stops and says why.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["load", plan] => load::main(plan),
        ["upstream", ip] => upstream::main(ip),
        ["readme"] | ["readme", "--bench"] => report::readme::main(&rounds::folder().join("chain.json")),
        ["check"] | ["check", "--bench"] => rounds::cross_check::main(),
        ["train"] | ["train", "--bench"] => rounds::training::main(),
        words if words.contains(&"--bench") => rounds::main(),
        // `cargo test --all-targets` starts this binary too; it has nothing to check there.
        _ => {
            eprintln!("run it with: make bench");
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
