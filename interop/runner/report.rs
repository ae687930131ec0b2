//! What came out: a line for each run, the matrix, the count, and the same as JSON.
//!
//! Called by the matrix and by our own cases.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use trunkline::clock;

use super::Outcome;
use super::judge::Verdict;

/// One run and how it ended.
#[derive(Clone, Debug)]
pub struct Record {
    /// The case.
    pub case: String,
    /// Client and server; of our own cases, what the links were like.
    pub pair: String,
    /// The seed.
    pub seed: u64,
    /// How it ended.
    pub verdict: Verdict,
    /// If it failed: how the second try ended, which counts.
    pub again: Option<Verdict>,
    /// How long it took.
    pub took: Duration,
}

impl Record {
    /// A line for people.
    pub fn line(&self) -> String {
        let Self { case, pair, seed, .. } = self;
        let mut line = format!("{:7.1} s  {pair}  {case}: {}", self.took.as_secs_f64(), words(&self.verdict));
        if let Some(again) = &self.again {
            // A String takes whatever is written.
            let _ = write!(line, " (seed {seed}; second try with the same seed: {})", words(again));
        }
        line
    }

    /// Whether it failed, also at its second try if it had one.
    pub fn failed(&self) -> bool {
        matches!(self.again.as_ref().unwrap_or(&self.verdict), Verdict::Failed(_))
    }

    /// Whether it passed at its second try.
    pub fn passed_late(&self) -> bool {
        matches!(self.again, Some(Verdict::Passed(_)))
    }

    fn passed(&self) -> bool {
        self.passed_late() || matches!(self.verdict, Verdict::Passed(_))
    }

    fn cell(&self) -> String {
        let late = if self.again.is_some() { " (2nd try)" } else { "" };
        match self.again.as_ref().unwrap_or(&self.verdict) {
            Verdict::Passed(note) => format!("{}{late}", note.as_deref().unwrap_or("ok")),
            Verdict::Unsupported(_) => "-".to_owned(),
            Verdict::Skipped(_) => "skipped".to_owned(),
            Verdict::Failed(_) => "FAILED".to_owned(),
        }
    }
}

fn words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Passed(None) => "passed".to_owned(),
        Verdict::Passed(Some(note)) => format!("passed, {note}"),
        Verdict::Unsupported(why) => format!("unsupported: {why}"),
        Verdict::Skipped(why) => format!("SKIPPED: {why}"),
        Verdict::Failed(why) => format!("FAILED: {why}"),
    }
}

/// How many failed.
pub fn failed(records: &[Record]) -> usize {
    records.iter().filter(|record| record.failed()).count()
}

/// How many were left out.
pub fn skipped(records: &[Record]) -> usize {
    records.iter().filter(|record| matches!(record.verdict, Verdict::Skipped(_))).count()
}

/// The last line, with those above it that passed at the second try only.
pub fn count(records: &[Record]) -> String {
    let late: Vec<_> = records.iter().filter(|record| record.passed_late()).collect();
    let mut text: String =
        late.iter().map(|record| format!("passed at the second try: {}\n", record.line().trim_start())).collect();
    let passed = records.iter().filter(|record| record.passed()).count();
    // A String takes whatever is written.
    let _ = write!(text, "{passed} passed, of these {} at the second try, {} failed", late.len(), failed(records));
    match skipped(records) {
        0 => text,
        skipped => format!("{text}, {skipped} skipped"),
    }
}

/// A table in Markdown: cases downwards, pairs across.
pub fn matrix(records: &[Record]) -> String {
    let mut pairs: Vec<&str> = Vec::new();
    let mut cases: Vec<&str> = Vec::new();
    let mut cells = BTreeMap::new();
    for record in records {
        if !pairs.contains(&record.pair.as_str()) {
            pairs.push(&record.pair);
        }
        if !cases.contains(&record.case.as_str()) {
            cases.push(&record.case);
        }
        cells.insert((record.case.as_str(), record.pair.as_str()), record.cell());
    }
    let mut table = format!("| case | {} |\n|---|{}\n", pairs.join(" | "), "---|".repeat(pairs.len()));
    for case in cases {
        let row: String =
            pairs.iter().map(|pair| format!(" {} |", cells.get(&(case, *pair)).map_or("", String::as_str))).collect();
        // A String takes whatever is written.
        let _ = writeln!(table, "| {case} |{row}");
    }
    table
}

/// All tables, with the day, the seed and the peers' versions.
pub fn tables(groups: &[Vec<Record>], versions: &BTreeMap<String, String>, seed: u64) -> String {
    let day = httpdate::fmt_http_date(clock::wall());
    let versions: String = versions.iter().map(|(name, version)| format!("; {name} {version}")).collect();
    let tables: Vec<_> = groups.iter().map(|group| matrix(group)).collect();
    format!("{day}, seed {seed}{versions}.\n\n{}", tables.join("\n"))
}

/// Everything, for programs.
pub fn write_json(path: &Path, records: &[Record], versions: &BTreeMap<String, String>) -> Outcome<()> {
    let runs: Vec<_> = records.iter().map(json_of).collect();
    fs::write(path, format!("{:#}\n", json!({ "versions": versions, "runs": runs })))?;
    Ok(())
}

fn json_of(record: &Record) -> serde_json::Value {
    let verdict = |verdict: &Verdict| match verdict {
        Verdict::Passed(note) => json!({ "verdict": "passed", "measured": note }),
        Verdict::Unsupported(why) => json!({ "verdict": "unsupported", "reason": why }),
        Verdict::Skipped(why) => json!({ "verdict": "skipped", "reason": why }),
        Verdict::Failed(why) => json!({ "verdict": "failed", "reason": why }),
    };
    json!({
        "case": record.case,
        "pair": record.pair,
        "seed": record.seed,
        "result": verdict(&record.verdict),
        "again": record.again.as_ref().map(verdict),
        "seconds": record.took.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(case: &str, verdict: Verdict, again: Option<Verdict>) -> Record {
        Record { case: case.to_owned(), pair: "c -> s".to_owned(), seed: 7, verdict, again, took: Duration::ZERO }
    }

    #[test]
    fn a_second_try_counts_and_shows_what_failed_before_it() {
        let late = || Verdict::Failed("no Retry was sent".to_owned());
        let records = [
            record("handshake", Verdict::Passed(None), None),
            record("retry", late(), Some(Verdict::Passed(None))),
            record("ecn", late(), Some(late())),
            record("v2", Verdict::Unsupported("no".to_owned()), None),
        ];
        let count = count(&records);
        let (first, last) = count.split_once('\n').unwrap();
        assert!(first.contains("FAILED: no Retry was sent (seed 7; second try with the same seed: passed)"), "{first}");
        assert_eq!(last, "2 passed, of these 1 at the second try, 1 failed");
        let rows = "| case | c -> s |\n|---|---|\n| handshake | ok |\n| retry | ok (2nd try) |\n| ecn | FAILED |\n| v2 | - |\n";
        assert_eq!(matrix(&records), rows);
    }

    #[test]
    fn what_was_left_out_is_said_and_has_not_failed() {
        let records = [record("handshake", Verdict::Skipped("no time was left".to_owned()), None)];
        assert_eq!(count(&records), "0 passed, of these 0 at the second try, 0 failed, 1 skipped");
    }
}
