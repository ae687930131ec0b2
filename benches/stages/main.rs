//! One stage at a time, without sockets: `cargo bench --bench stages [NAME]`; `make bench-ci` counts instructions.
//!
//! Shows where a regression of the whole chain lies. Times need a quiet machine; allocations are the same everywhere, and
//! instructions are for one compiler: baseline.toml has those that a change must not exceed by more than a twentieth.
//! Names begin with the stage number of ARCHITECTURE.md.

mod allocations;
mod balance;
mod baseline;
mod callgrind;
mod exchange;
mod head;
mod route;
mod stopwatch;

use std::process::ExitCode;

use stopwatch::{Stopwatch, Way};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|word| word == flag);
    let wanted = arguments.iter().find(|word| !word.starts_with('-')).cloned().unwrap_or_default();
    if has("--instructions") {
        return callgrind::main(has("--write"));
    }
    let way = match () {
        () if has(callgrind::NAMES) => Way::Name,
        () if has(callgrind::COUNT) => Way::Count,
        () if has("--bench") => Way::Time,
        // `cargo test --all-targets` starts this too: each operation once, to see that it still runs.
        () => Way::Try,
    };
    let stopwatch = Stopwatch::new(way, wanted);
    head::run(&stopwatch);
    route::run(&stopwatch);
    balance::run(&stopwatch);
    exchange::run(&stopwatch);
    ExitCode::SUCCESS
}
