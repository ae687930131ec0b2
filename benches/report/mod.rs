//! The results of a run: collected entry by entry, published as text, as a markdown table and as JSON.
//!
//! Filled by `rounds`. Knows which rounds were too noisy to count; never measures anything itself.

mod figures;
mod print;
mod spread;
mod table;

pub use figures::Figures;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

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

/// All measurements of a run.
#[derive(Serialize)]
pub struct Book {
    date: String,
    cpu: String,
    kernel: String,
    network: String,
    contestants: Vec<&'static str>,
    entries: Vec<Entry>,
}

impl Book {
    /// An empty one; the first contestant is the one that the others are compared with.
    pub fn new(network: &str, contestants: Vec<&'static str>) -> Self {
        Self {
            date: httpdate::fmt_http_date(SystemTime::now()),
            cpu: cpu_model(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            network: network.to_owned(),
            contestants,
            entries: Vec::new(),
        }
    }

    /// Adds a measurement and says on stderr that the run goes on.
    pub fn enter(&mut self, entry: Entry) {
        let figures = entry.figures.read(&entry.report);
        let words: Vec<String> = figures.iter().map(|figure| format!("{} {}", figure.shown(), figure.unit)).collect();
        let usage = entry.report.usage;
        let noise = if usage.foreign_cores > NOISE_MAX { "  (noisy)" } else { "" };
        let cores = format!("chain {:.2}, bench {:.2} cores", usage.chain_cores(), usage.bench_cores());
        let errors = match &entry.report.first_error {
            Some(error) => format!("  {} errors: {error}", entry.report.errors),
            None => String::new(),
        };
        let (round, scenario, name) = (entry.round + 1, entry.scenario, entry.contestant);
        eprintln!("round {round}  {scenario:<14} {name:<18} {}; {cores}{noise}{errors}", words.join(", "));
        self.entries.push(entry);
    }

    /// Prints the tables and writes the JSON file into `dir`.
    pub fn publish(&self, dir: &Path) -> Outcome<()> {
        let rows = table::rows(&self.contestants, &self.entries);
        println!("{}", print::text(self, &rows));
        println!("{}", print::markdown(self, &rows));
        let file = self.write(&rows, dir)?;
        println!("all measurements: {}", file.display());
        Ok(())
    }

    fn write(&self, rows: &[Row], dir: &Path) -> Outcome<PathBuf> {
        fs::create_dir_all(dir)?;
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let json = serde_json::to_vec_pretty(&serde_json::json!({ "run": self, "table": rows }))?;
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
