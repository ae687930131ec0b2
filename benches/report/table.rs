//! The rows of the result: one for each figure of each scenario, over the rounds that count.

use serde::{Deserialize, Serialize};

use super::Entry;
use super::spread::Spread;

/// Foreign cores busy, on average over a measurement, from which on its round does not count for its scenario.
pub const NOISE_MAX: f64 = 0.5;

/// The contestant that adds nothing.
const DIRECT: &str = "direct";

/// One figure of one scenario.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// The scenario.
    pub scenario: String,
    /// What the figure is, with its unit.
    pub unit: String,
    /// Whether it belongs in a short table.
    pub headline: bool,
    /// Whether it is a speed and not a cost.
    pub more_is_better: bool,
    /// Rounds left out because the machine was busy with something else.
    pub dropped: usize,
    /// Whether all rounds were, so that the figures are of them after all.
    pub noisy: bool,
    /// Requests that failed, over all contestants.
    pub errors: u64,
    /// One for each contestant.
    pub cells: Vec<Cell>,
}

/// One contestant's values.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cell {
    /// Who.
    pub contestant: String,
    /// Its values over the rounds.
    pub value: Option<Spread>,
    /// The first contestant's value divided by this one's, taken round by round.
    pub ratio: Option<Spread>,
}

/// All rows, scenarios in the order in which they were run.
pub fn rows(contestants: &[&'static str], entries: &[Entry]) -> Vec<Row> {
    let mut scenarios: Vec<&'static str> = Vec::new();
    for entry in entries {
        if !scenarios.contains(&entry.scenario) {
            scenarios.push(entry.scenario);
        }
    }
    scenarios.into_iter().flat_map(|scenario| scenario_rows(scenario, contestants, entries)).collect()
}

fn scenario_rows(scenario: &'static str, contestants: &[&'static str], entries: &[Entry]) -> Vec<Row> {
    let entries: Vec<&Entry> = entries.iter().filter(|entry| entry.scenario == scenario).collect();
    let rounds = entries.iter().map(|entry| entry.round + 1).max().unwrap_or(0);
    let quiet = |round: &usize| {
        entries.iter().filter(|entry| entry.round == *round).all(|entry| entry.report.usage.foreign_cores <= NOISE_MAX)
    };
    let mut kept: Vec<usize> = (0..rounds).filter(quiet).collect();
    let dropped = rounds - kept.len();
    let noisy = kept.is_empty();
    if noisy {
        kept = (0..rounds).collect();
    }
    let errors = entries.iter().map(|entry| entry.report.errors).sum();
    let Some(first) = entries.first() else { return Vec::new() };
    let units: Vec<&'static str> = first.figures.read(&first.report).iter().map(|figure| figure.unit).collect();
    let row = |unit: &str, headline: bool, of: &dyn Fn(&str) -> Vec<f64>| {
        let ours = contestants.first().map(|name| of(name)).unwrap_or_default();
        let cells = contestants.iter().map(|name| cell(name, &ours, &of(name))).collect();
        let (scenario, unit, more_is_better) = (scenario.to_owned(), unit.to_owned(), unit.ends_with("/s"));
        Row { scenario, unit, headline, more_is_better, dropped, noisy, errors, cells }
    };
    let of = |name: &str, unit| values(&entries, &kept, name, unit);
    let headlines = first.figures.headlines();
    let mut rows: Vec<Row> = Vec::new();
    for (index, unit) in units.into_iter().enumerate() {
        rows.push(row(unit, index < headlines, &|name| of(name, unit)));
        let direct = of(DIRECT, unit);
        if unit.starts_with("us p") && direct.iter().any(|value| value.is_finite()) {
            let added = |name: &str| of(name, unit).iter().zip(&direct).map(|(all, direct)| all - direct).collect();
            let added = |name: &str| if name == DIRECT { Vec::new() } else { added(name) };
            rows.push(row(&format!("{unit} added over direct"), true, &added));
        }
    }
    rows
}

/// The values of one contestant in the rounds `kept`, in their order; not a number where there is none.
fn values(entries: &[&Entry], kept: &[usize], contestant: &str, unit: &str) -> Vec<f64> {
    let value = |round: &usize| {
        let entry = entries.iter().find(|entry| entry.round == *round && entry.contestant == contestant)?;
        entry.figures.read(&entry.report).into_iter().find(|figure| figure.unit == unit).map(|figure| figure.value)
    };
    kept.iter().map(|round| value(round).unwrap_or(f64::NAN)).collect()
}

fn cell(contestant: &str, ours: &[f64], theirs: &[f64]) -> Cell {
    let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
    Cell { contestant: contestant.to_owned(), value: Spread::of(theirs.iter().copied()), ratio: Spread::of(ratios) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Report;
    use crate::report::Figures;

    const NAMES: [&str; 2] = ["ours", "theirs"];

    /// A measurement of so many microseconds per request while so many foreign cores were busy.
    fn entry(round: usize, contestant: &'static str, microseconds: f64, foreign: f64) -> Entry {
        let mut report = Report { requests: 1_000, ..Report::default() };
        report.usage.seconds = 1.0;
        report.usage.chain_cpu = microseconds * 1e-3;
        report.usage.foreign_cores = foreign;
        Entry { round, scenario: "small", figures: Figures::Saturated, contestant, report }
    }

    #[test]
    fn one_noisy_measurement_drops_its_round_for_every_contestant() {
        let entries = [
            entry(0, "ours", 30.0, 0.1),
            entry(0, "theirs", 60.0, 0.1),
            entry(1, "ours", 31.0, 0.1),
            entry(1, "theirs", 99.0, 0.6),
        ];
        let rows = rows(&NAMES, &entries);
        assert_eq!((rows[0].dropped, rows[0].noisy), (1, false));
        let medians: Vec<_> = rows[0].cells.iter().map(|cell| cell.value.map(|value| value.median.round())).collect();
        assert_eq!(medians, [Some(30.0), Some(60.0)]);
    }

    #[test]
    fn when_every_round_is_noisy_all_are_shown_and_marked() {
        let rows = rows(&NAMES, &[entry(0, "ours", 30.0, 2.0), entry(0, "theirs", 60.0, 2.0)]);
        assert_eq!((rows[0].dropped, rows[0].noisy), (1, true));
        assert_eq!(rows[0].cells[1].value.map(|value| value.count), Some(1));
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let entries = [
            entry(0, "ours", 10.0, 0.0),
            entry(0, "theirs", 20.0, 0.0),
            entry(1, "ours", 40.0, 0.0),
            entry(1, "theirs", 50.0, 0.0),
        ];
        let ratio = rows(&NAMES, &entries)[0].cells[1].ratio.expect("two ratios");
        // 10/20 and 40/50, not the quotient of the medians.
        assert!((ratio.min - 0.5).abs() < 1e-9 && (ratio.max - 0.8).abs() < 1e-9, "{ratio:?}");
    }

    #[test]
    fn what_a_chain_adds_is_its_latency_without_that_of_the_upstream_alone() {
        let paced = |contestant, p50_us| {
            let mut entry = entry(0, contestant, 30.0, 0.0);
            entry.figures = Figures::Paced;
            entry.report.latency.p50_us = p50_us;
            entry
        };
        let rows =
            rows(&["ours", "theirs", DIRECT], &[paced("ours", 250.0), paced("theirs", 350.0), paced(DIRECT, 150.0)]);
        let row = rows.iter().find(|row| row.unit == "us p50 added over direct").expect("a row");
        let medians: Vec<_> = row.cells.iter().map(|cell| cell.value.map(|value| value.median)).collect();
        assert_eq!(medians, [Some(100.0), Some(200.0), None]);
        assert_eq!(row.cells[1].ratio.map(|ratio| ratio.median), Some(0.5));
    }

    #[test]
    fn a_measurement_without_answers_leaves_an_empty_cell_and_its_errors() {
        let mut failed = entry(0, "theirs", 0.0, 0.0);
        failed.report = Report::failed("no answer".to_owned());
        let rows = rows(&NAMES, &[entry(0, "ours", 30.0, 0.0), failed]);
        assert_eq!((rows[0].cells[1].value, rows[0].errors), (None, 1));
    }
}
