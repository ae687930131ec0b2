//! The results of a run: collected entry by entry; published as text, as JSON and as a plot, and from JSON in README.
//!
//! Filled by `rounds`. Knows which rounds were too noisy to count; never measures anything itself.

mod figures;
mod plot;
mod print;
pub mod readme;
mod spread;
mod table;

pub use figures::Figures;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::load::Report;
use table::{NOISE_MAX, Row};

/// One measurement.
#[derive(Serialize)]
pub struct Entry {
    /// The round, from 0.
    pub round: usize,
    /// The scenario's name.
    pub scenario: &'static str,
    /// What is read from it.
    #[serde(skip)]
    pub figures: Figures,
    /// Whose it is.
    pub contestant: &'static str,
    /// What the load generator found.
    pub report: Report,
}

/// What figures mean nothing without.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Head {
    date: String,
    cpu: String,
    kernel: String,
    network: String,
    command: String,
    /// The first one is what the others are compared with.
    contestants: Vec<String>,
    /// What a reader must know besides: who was left out and why, how noisy the machine was.
    notes: Vec<String>,
}

/// A finished run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    run: Head,
    table: Vec<Row>,
}

/// All measurements of a run.
pub struct Book {
    head: Head,
    contestants: Vec<&'static str>,
    entries: Vec<Entry>,
}

impl Book {
    /// An empty one; the first contestant is the one that the others are compared with.
    pub fn new(network: &str, contestants: Vec<&'static str>, command: String) -> Self {
        let head = Head {
            date: httpdate::fmt_http_date(SystemTime::now()),
            cpu: cpu_model(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            network: network.to_owned(),
            command,
            contestants: contestants.iter().map(|name| (*name).to_owned()).collect(),
            notes: Vec::new(),
        };
        Self { head, contestants, entries: Vec::new() }
    }

    /// Says, now and with the result, that somebody takes no part, or no further part, and why.
    pub fn leave_out(&mut self, contestant: &str, why: &str) {
        self.note(format!("LEFT OUT: {contestant}: {why}"));
    }

    /// Says something now and with the result.
    pub fn note(&mut self, note: String) {
        eprintln!("{note}");
        self.head.notes.push(note);
    }

    /// Adds a measurement and says on stderr that the run goes on.
    pub fn enter(&mut self, entry: Entry) {
        let figures = entry.figures.read(&entry.report);
        let words: Vec<String> = figures.iter().map(|figure| format!("{} {}", figure.shown(), figure.unit)).collect();
        let usage = entry.report.usage;
        let noise = if usage.foreign_cores > NOISE_MAX { "  (noisy)" } else { "" };
        let cores = match usage.seconds {
            0.0 => String::new(),
            _ => format!("; chain {:.2}, bench {:.2} cores", usage.chain_cores(), usage.bench_cores()),
        };
        let errors = match &entry.report.first_error {
            Some(error) => format!("  {} errors: {error}", entry.report.errors),
            None => String::new(),
        };
        let (round, scenario, name) = (entry.round + 1, entry.scenario, entry.contestant);
        eprintln!("round {round}  {scenario:<18} {name:<18} {}{cores}{noise}{errors}", words.join(", "));
        self.entries.push(entry);
    }

    /// Prints the table and writes JSON and plot into `dir`.
    pub fn publish(mut self, dir: &Path) -> Outcome<()> {
        let table = table::rows(&self.contestants, &self.entries);
        self.head.notes.extend(self.noise());
        let results = Results { run: self.head.clone(), table };
        println!("{}", print::text(&results));
        fs::create_dir_all(dir)?;
        let file = self.write(&results, dir)?;
        fs::write(dir.join("chain.svg"), plot::svg(&results))?;
        println!("all measurements: {}\nplot: {}", file.display(), dir.join("chain.svg").display());
        Ok(())
    }

    /// How busy others were: the condition of every figure.
    fn noise(&self) -> Option<String> {
        let foreign = spread::Spread::of(self.entries.iter().map(|entry| entry.report.usage.foreign_cores))?;
        let noisy = self.entries.iter().filter(|entry| entry.report.usage.foreign_cores > NOISE_MAX).count();
        let (foreign, all) = (print::range(foreign), self.entries.len());
        Some(format!("foreign cores busy: {foreign}; {noisy} of {all} measurements above {NOISE_MAX}"))
    }

    fn write(&self, results: &Results, dir: &Path) -> Outcome<PathBuf> {
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let mut json = serde_json::to_value(results)?;
        json["measurements"] = serde_json::to_value(&self.entries)?;
        let json = serde_json::to_vec_pretty(&json)?;
        fs::write(dir.join("chain.json"), &json)?;
        let file = dir.join(format!("chain-{seconds}.json"));
        fs::write(&file, &json)?;
        Ok(file)
    }
}

fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    model.trim_start_matches([' ', '\t', ':']).to_owned()
}
