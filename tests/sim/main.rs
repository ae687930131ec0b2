//! The whole tunnel in a simulation: real QUIC endpoints, links and exchanges of PoPs and gateways on a virtual network
//! in paused time. Deterministic: a seed gives a scenario, a scenario gives one run. See README.md beside this file.

mod client;
mod handler;
mod host;
mod net;
mod run;
mod scenario;
mod trust;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use self::run::{Report, run};
use self::scenario::Scenario;

/// Seeds of a run that asks for nothing else.
const SEEDS: u64 = 256;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

fn log_if_asked() {
    if std::env::var_os("TRUNKLINE_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_env("TRUNKLINE_LOG");
        let _ =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().try_init();
    }
}

/// Panics with the scenario, ready to become a file, if anything was violated.
fn must_hold(scenario: &Scenario, report: &Report) {
    assert!(
        report.violations.is_empty(),
        "seed {}: {}\nPut this into tests/scenarios/NAME.toml to keep it:\n\n{}",
        scenario.seed,
        report.violations.join("\n  "),
        toml::to_string(scenario).expect("TOML"),
    );
}

#[test]
fn invariants_hold_in_every_scenario() {
    log_if_asked();
    run::name_seed_in_panics();
    if let Some(seed) = number("TRUNKLINE_SEED") {
        let scenario = Scenario::from_seed(seed);
        let report = run(&scenario, true);
        println!("{report:?}");
        return must_hold(&scenario, &report);
    }
    let (first, seeds) = (number("TRUNKLINE_FIRST").unwrap_or(0), number("TRUNKLINE_SEEDS").unwrap_or(SEEDS));
    let (next, failed, sum) = (AtomicU64::new(first), Mutex::new(Vec::new()), Mutex::new(Report::default()));
    let begun = trunkline::clock::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < first + seeds) {
                    let scenario = Scenario::from_seed(seed);
                    let report = run(&scenario, false);
                    add(&mut sum.lock(), &report);
                    if !report.violations.is_empty() {
                        failed.lock().push((seed, scenario, report));
                    }
                }
            });
        }
    });
    let sum = sum.into_inner();
    println!(
        "{seeds} seeds from {first} on in {:.1} s: {} s simulated, {} datagrams, {} exchanges complete, {} ended with a fault, {} resumed",
        begun.elapsed().as_secs_f64(),
        sum.simulated_ms / 1000,
        sum.datagrams,
        sum.complete,
        sum.faults,
        sum.resumed,
    );
    let mut failed = failed.into_inner();
    failed.sort_by_key(|(seed, ..)| *seed);
    for (seed, _, report) in &failed {
        println!("seed {seed}: {}", report.violations.first().map_or("", String::as_str));
    }
    if let Some((_, scenario, report)) = failed.first() {
        println!("{} of {seeds} seeds failed", failed.len());
        must_hold(scenario, report);
    }
}

fn add(sum: &mut Report, report: &Report) {
    sum.datagrams += report.datagrams;
    sum.complete += report.complete;
    sum.faults += report.faults;
    sum.resumed += report.resumed;
    sum.simulated_ms += report.simulated_ms;
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for seed in [3, 5, 8] {
        let scenario = Scenario::from_seed(seed);
        let (first, second) = (run(&scenario, false), run(&scenario, false));
        assert_eq!((first.digest, first.datagrams), (second.digest, second.datagrams), "seed {seed}");
        assert!(first.datagrams > 100);
    }
}

#[test]
fn a_scenario_reads_back_from_what_is_printed() {
    for seed in 0..50 {
        let text = toml::to_string(&Scenario::from_seed(seed)).unwrap();
        let back: Scenario = toml::from_str(&text).unwrap();
        assert_eq!(toml::to_string(&back).unwrap(), text);
    }
}

#[test]
fn kept_scenarios_hold() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios");
    let wanted = std::env::var("TRUNKLINE_SCENARIO").ok();
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if wanted.as_ref().is_some_and(|wanted| *wanted != name) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let scenario: Scenario = toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{name}");
        must_hold(&scenario, &run(&scenario, wanted.is_some()));
    }
}
