//! Our load generator against another one, h2load, on the same chain: `make bench-check`.
//!
//! Both hold the same number of connections and streams on the same core, in turn. What they find should agree: requests
//! a second, latencies, and above all what a request costs the chain.

use std::process::Command;
use std::time::Duration;

use super::bench::Bench;
use super::options::Options;
use super::scenario::Scenario;
use crate::Outcome;
use crate::chains::{Contestant, HOST, debian, pinned};
use crate::load::{Protocol, Shape};
use crate::machine::{Cores, Meter, isolate};
use crate::net::command::output;
use crate::report::Book;

/// Seconds of each measurement; h2load counts whole ones.
const SECONDS: u32 = 3;

/// Compares them on our own chain.
pub fn main() -> Outcome<()> {
    let h2load = debian("nghttp2-client")?.join("h2load");
    let mut options = Options::read()?;
    options.contestants = vec![Contestant::Trunkline];
    isolate()?;
    let dir = super::fresh_folder("check")?;
    let mut book = Book::new("", vec![Contestant::Trunkline.name()], String::new());
    let bench = Bench::set_up(&dir, &options, &mut book)?;
    let scenario = Scenario::all().into_iter().find(|one| one.name == "h2-small").ok_or("no scenario for HTTP/2")?;
    let scenario = Scenario { length: f64::from(SECONDS) * 1_000.0 / options.window_ms(&scenario) as f64, ..scenario };
    for _ in 0..options.rounds {
        let report = bench.measure_here(0, &scenario)?;
        let each = report.usage.chain_cpu * 1e6 / report.requests as f64;
        let rate = report.requests as f64 / report.usage.seconds;
        let (p50, p99) = (report.latency.p50_us, report.latency.p99_us);
        println!("ours    {rate:.0} requests/s, p50 {p50:.0} us, p99 {p99:.0} us, {each:.1} CPU us/request");
        println!("h2load  {}", theirs(&bench, &h2load, &scenario)?);
    }
    Ok(())
}

/// The same with h2load, in its own words, and the CPU time of the chain.
fn theirs(bench: &Bench<'_>, h2load: &std::path::Path, scenario: &Scenario) -> Outcome<String> {
    let Shape::Closed { connections, streams } = scenario.shape else { return Err("not a closed loop".into()) };
    assert_eq!(scenario.protocol, Protocol::Http2, "h2load speaks TCP");
    let chain = bench.chain(0).ok_or("the chain is not up")?;
    let mut command = Command::new(h2load);
    command.args([format!("-c{connections}"), format!("-m{streams}"), format!("-D{SECONDS}"), "-t1".to_owned()]);
    command.arg(format!("--connect-to={}", chain.address));
    command.arg(format!("https://{HOST}:{}{}", chain.address.port(), scenario.ask.path()));
    let meter = Meter::start(&chain.pids(), &[])?;
    let time_max = Duration::from_secs(u64::from(SECONDS) + 20);
    let output = String::from_utf8(output(pinned(&mut command, Cores::choose()?.load), time_max)?.stdout)?;
    let usage = meter.stop()?;
    let line = |begin: &str| output.lines().find(|line| line.trim_start().starts_with(begin)).map(str::trim);
    let done = line("requests:").and_then(|words| words.split(' ').find_map(|word| word.parse::<f64>().ok()));
    // min, max, median, p95, p99 behind the name.
    let latency: Vec<&str> =
        line("request ").unwrap_or_default().split([' ', ':']).filter(|word| !word.is_empty()).collect();
    let (Some(done), [_, _, _, p50, _, p99, ..]) = (done, latency.as_slice()) else {
        return Err(format!("h2load said something new:\n{output}").into());
    };
    let (rate, each) = (done / f64::from(SECONDS), usage.chain_cpu * 1e6 / done);
    Ok(format!("{rate:.0} requests/s, p50 {p50}, p99 {p99}, {each:.1} CPU us/request"))
}
