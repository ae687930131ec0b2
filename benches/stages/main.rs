//! One stage at a time, without sockets: `cargo bench --bench stages [NAME]`.
//!
//! Shows where a regression of the whole chain lies. Times need a quiet machine; allocations are the same everywhere, so
//! they are what two machines can compare. Names begin with the stage number of ARCHITECTURE.md.

mod allocations;
mod exchange;
mod head;
mod route;
mod stopwatch;

use stopwatch::Stopwatch;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` starts this too: each stage once, to see that it still runs.
    let full = arguments.iter().any(|word| word == "--bench");
    let wanted = arguments.into_iter().find(|word| !word.starts_with('-')).unwrap_or_default();
    let stopwatch = Stopwatch::new(full, wanted);
    head::run(&stopwatch);
    route::run(&stopwatch);
    exchange::run(&stopwatch);
}
