//! What is up while measurements go on, and how one is made.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::link;
use super::options::Options;
use super::scenario::Scenario;
use crate::Outcome;
use crate::chains::{Chain, Contestant, HOST, Process, Site, Sites, Stage, pinned};
use crate::load::{Plan, Protocol, Report};
use crate::machine::Cores;
use crate::net::command::output;
use crate::report::{Book, Entry};

/// What a measurement may take besides its own length: opening a thousand connections, above all.
const SLACK: Duration = Duration::from_secs(40);

/// Everything that is up while measurements go on.
pub struct Bench<'a> {
    options: &'a Options,
    stage: Stage,
    upstream: Process,
    /// None is one that broke and did not start again.
    chains: Vec<(Contestant, Option<Chain>)>,
    whole: bool,
}

impl<'a> Bench<'a> {
    /// Starts the upstream and all chains; those that do not answer are left out.
    pub fn set_up(dir: &Path, options: &'a Options, book: &mut Book) -> Outcome<Self> {
        std::fs::create_dir_all(dir)?;
        let cores = Cores::choose()?;
        let (upstream, address) = upstream(dir, cores, &Site::loopback())?;
        let stage = Stage::new(dir.to_owned(), address, cores)?;
        let mut bench = Self { options, stage, upstream, chains: Vec::new(), whole: true };
        if let Some(why) = link::obstacle().filter(|_| options.scenarios.iter().any(|one| one.link.is_some())) {
            book.note(format!("without the scenarios on links: {why}"));
        }
        for contestant in options.contestants.iter().copied() {
            bench.chains.push((contestant, None));
            bench.restart(bench.chains.len() - 1, book);
        }
        Ok(bench)
    }

    /// Whether nothing failed, so that nobody wants to see logs.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Chain `index`, if it is up.
    pub fn chain(&self, index: usize) -> Option<&Chain> {
        self.chains.get(index)?.1.as_ref()
    }

    /// Every scenario once through each of its contestants.
    pub fn round(&mut self, round: usize, book: &mut Book) {
        let count = self.chains.len();
        for scenario in &self.options.scenarios {
            for turn in 0..count {
                let index = (round + turn) % count;
                if self.chains[index].1.is_some() && self.options.takes(round, scenario, self.chains[index].0) {
                    self.turn(round, scenario, index, book);
                }
            }
        }
    }

    /// One measurement. One that cannot be made is an empty cell with its error, not the end of a long run.
    fn turn(&mut self, round: usize, scenario: &Scenario, index: usize, book: &mut Book) {
        if scenario.link.is_some() && link::obstacle().is_some() {
            return;
        }
        let contestant = self.chains[index].0;
        let report = if scenario.link.is_some() {
            self.measure_elsewhere(contestant, scenario)
        } else {
            if scenario.needs_fresh() {
                self.restart(index, book);
            }
            self.measure_here(index, scenario)
        };
        let report = report.unwrap_or_else(|error| {
            self.whole = false;
            if scenario.link.is_none() {
                self.restart(index, book);
            }
            Report::failed(error.to_string())
        });
        let (name, figures) = (contestant.name(), scenario.figures);
        book.enter(Entry { round, scenario: scenario.name, figures, contestant: name, report });
    }

    /// Starts chain `index` anew. One that does not come up, tried twice, takes no further part.
    fn restart(&mut self, index: usize, book: &mut Book) {
        if let Err(error) = self.try_restart(index).or_else(|_| self.try_restart(index)) {
            self.chains[index].1 = None;
            self.whole = false;
            book.leave_out(self.chains[index].0.name(), &error.to_string());
        }
    }

    fn try_restart(&mut self, index: usize) -> Outcome<()> {
        self.chains[index].1 = None;
        self.chains[index].1 = Some(self.chains[index].0.start(&self.stage)?);
        self.probe(index)
    }

    /// Waits until chain `index` answers over all its protocols.
    fn probe(&self, index: usize) -> Outcome<()> {
        for protocol in protocols(self.chains[index].0) {
            let scenario = Scenario { protocol: *protocol, ..Scenario::probe() };
            self.measure_here(index, &scenario).map_err(|error| format!("{protocol:?}: {error}"))?;
        }
        Ok(())
    }

    /// Runs `scenario` through chain `index` as it stands.
    pub fn measure_here(&self, index: usize, scenario: &Scenario) -> Outcome<Report> {
        let (contestant, chain) = &self.chains[index];
        let chain = chain.as_ref().ok_or("it is not up")?;
        let others = self.chains.iter().enumerate().filter(|(other, _)| *other != index);
        let others = others.filter_map(|(_, (_, chain))| chain.as_ref()).flat_map(Chain::pids);
        let bystanders = others.chain([self.upstream.pid(), std::process::id()]).collect();
        self.measure(*contestant, chain, scenario, bystanders, &self.stage)
    }

    /// Measures on a link: everything is started for it alone.
    fn measure_elsewhere(&self, contestant: Contestant, scenario: &Scenario) -> Outcome<Report> {
        let link = scenario.link.ok_or("there is no link")?;
        let dir = self.stage.dir.join("link");
        let sites: Sites = link.make(&dir)?;
        let (upstream, address) = upstream(&dir, self.stage.cores, &sites.origin)?;
        let stage = self.stage.at(dir, address, sites);
        let chain = contestant.start(&stage)?;
        let idle = self.chains.iter().filter_map(|(_, chain)| chain.as_ref()).flat_map(Chain::pids);
        let bystanders: Vec<_> = idle.chain([self.upstream.pid(), upstream.pid(), std::process::id()]).collect();
        let probe = Scenario { protocol: scenario.protocol, ..Scenario::probe() };
        self.measure(contestant, &chain, &probe, bystanders.clone(), &stage)?;
        self.measure(contestant, &chain, scenario, bystanders, &stage)
    }

    /// Runs the load generator once against `chain`.
    fn measure(
        &self,
        contestant: Contestant,
        chain: &Chain,
        scenario: &Scenario,
        bystanders: Vec<u32>,
        stage: &Stage,
    ) -> Outcome<Report> {
        let window_ms = self.options.window_ms(scenario);
        let direct = contestant == Contestant::Direct;
        let plan = Plan {
            target: chain.address,
            host: HOST.to_owned(),
            ca: stage.certificates.path("site-ca.pem"),
            protocol: if direct { Protocol::Plain } else { scenario.protocol },
            shape: scenario.shape,
            ask: scenario.ask,
            warm_up_ms: (window_ms / 4).min(500),
            window_ms,
            watch: chain.pids(),
            bystanders,
        };
        let mut command = this_program()?;
        command.args(["load", &serde_json::to_string(&plan)?]);
        let command = pinned(stage.sites.client.enclose(&mut command)?, stage.cores.load);
        let output = output(command, SLACK + Duration::from_millis(window_ms))?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

fn protocols(contestant: Contestant) -> &'static [Protocol] {
    if contestant == Contestant::Direct { &[Protocol::Plain] } else { &[Protocol::Http3, Protocol::Http2] }
}

/// Starts the upstream where an origin is.
fn upstream(dir: &Path, cores: Cores, site: &Site) -> Outcome<(Process, std::net::SocketAddr)> {
    let mut command = this_program()?;
    command.args(["upstream", &site.ip.to_string()]);
    let upstream = Process::start(site.enclose(&mut command)?, cores.load, &dir.join("upstream.log"))?;
    let ready = upstream.ready()?;
    let address = ready["http"].as_str().ok_or("the upstream named no address")?.parse()?;
    Ok((upstream, address))
}

/// This program once more, for another role.
fn this_program() -> Outcome<Command> {
    Ok(Command::new(std::env::current_exe()?))
}
