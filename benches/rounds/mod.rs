//! The course of a run: which scenarios, in which order, through which contestants; and how each is started.
//!
//! In every round each scenario goes through all contestants one right after the other, so that they meet the same
//! machine, and the order is rotated from round to round. All chains are up all the time; only one is under load.

mod options;
mod scenario;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Outcome;
use crate::chains::{Chain, Contestant, HOST, Process, Stage, pinned};
use crate::load::{Plan, Protocol, Report};
use crate::machine::{Cores, isolate};
use crate::report::{Book, Entry, Figures};
use options::Options;
use scenario::Scenario;

/// `make bench`.
pub fn main() -> Outcome<()> {
    let options = Options::read()?;
    for contestant in &options.contestants {
        contestant.programs()?;
    }
    let network = match isolate() {
        Ok(()) => "loopback of its own, packets of 1,500 bytes".to_owned(),
        Err(error) => format!("the machine's loopback, large packets ({error})"),
    };
    // Stays behind when something fails: configurations and logs tell why.
    let dir = folder().join("run");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let mut bench = Bench::set_up(&dir, options)?;
    let mut book = Book::new(&network, bench.options.contestants.iter().map(|c| c.name()).collect());
    bench.run(&mut book)?;
    drop(bench);
    std::fs::remove_dir_all(&dir)?;
    book.publish(&folder())
}

/// Everything that is up while measurements go on.
struct Bench {
    options: Options,
    stage: Stage,
    upstream: Process,
    chains: Vec<(Contestant, Chain)>,
}

impl Bench {
    fn set_up(dir: &Path, options: Options) -> Outcome<Self> {
        std::fs::create_dir_all(dir)?;
        let cores = Cores::choose()?;
        let upstream = Process::start(this_program()?.arg("upstream"), cores.load, &dir.join("upstream.log"))?;
        let ready = upstream.ready()?;
        let address = ready["http"].as_str().ok_or("the upstream named no address")?.parse()?;
        let stage = Stage::new(dir.to_owned(), address, cores)?;
        let mut bench = Self { options, stage, upstream, chains: Vec::new() };
        for contestant in bench.options.contestants.clone() {
            let chain = contestant.start(&bench.stage)?;
            bench.chains.push((contestant, chain));
            bench.probe(bench.chains.len() - 1)?;
        }
        Ok(bench)
    }

    /// Waits until chain `index` answers over both protocols.
    fn probe(&self, index: usize) -> Outcome<()> {
        for protocol in [Protocol::Http3, Protocol::Http2] {
            let name = self.chains[index].0.name();
            let scenario = Scenario { protocol, ..Scenario::probe() };
            self.measure(index, &scenario).map_err(|error| format!("{name}, {protocol:?}: {error}"))?;
        }
        Ok(())
    }

    fn run(&mut self, book: &mut Book) -> Outcome<()> {
        let count = self.chains.len();
        let scenarios = self.options.scenarios.clone();
        for round in 0..self.options.rounds {
            for scenario in &scenarios {
                for turn in 0..count {
                    book.enter(self.turn(round, scenario, (round + turn) % count)?);
                }
            }
        }
        Ok(())
    }

    /// One measurement. One that cannot be made is an empty cell with its error, not the end of a long run.
    fn turn(&mut self, round: usize, scenario: &Scenario, index: usize) -> Outcome<Entry> {
        if scenario.figures == Figures::Idle {
            self.restart(index)?;
        }
        let report = self.measure(index, scenario).unwrap_or_else(|error| Report::failed(error.to_string()));
        let contestant = self.chains[index].0.name();
        Ok(Entry { round, scenario: scenario.name, figures: scenario.figures, contestant, report })
    }

    /// Starts chain `index` anew: memory that an earlier load left behind must not serve what is measured now.
    fn restart(&mut self, index: usize) -> Outcome<()> {
        let contestant = self.chains[index].0;
        self.chains[index].1 = contestant.start(&self.stage)?;
        self.probe(index)
    }

    /// Runs the load generator once against chain `index`.
    fn measure(&self, index: usize, scenario: &Scenario) -> Outcome<Report> {
        let plan = serde_json::to_string(&self.plan(index, scenario))?;
        let mut command = this_program()?;
        pinned(command.args(["load", &plan]), self.stage.cores.load);
        let output = command.stderr(Stdio::piped()).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn plan(&self, index: usize, scenario: &Scenario) -> Plan {
        let others = self.chains.iter().enumerate().filter(|(other, _)| *other != index);
        let mut bystanders: Vec<u32> = others.flat_map(|(_, (_, chain))| chain.pids()).collect();
        bystanders.extend([self.upstream.pid(), std::process::id()]);
        let chain = &self.chains[index].1;
        Plan {
            target: chain.address,
            host: HOST.to_owned(),
            ca: self.stage.certificates.path("site-ca.pem"),
            protocol: scenario.protocol,
            shape: scenario.shape,
            ask: scenario.ask,
            warm_up_ms: self.options.window_ms / 4,
            window_ms: self.options.window_ms,
            watch: chain.pids(),
            bystanders,
        }
    }
}

/// Where results lie: target/bench.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench")
}

/// This program once more, for another role.
fn this_program() -> Outcome<Command> {
    Ok(Command::new(std::env::current_exe()?))
}
