//! The rows of the result: one for each figure of each scenario, over the rounds that count.

use serde::Serialize;

use super::Entry;
use super::spread::Spread;

/// Foreign cores busy, on average over a measurement, from which on its round does not count for its scenario.
pub const NOISE_MAX: f64 = 0.5;

/// One figure of one scenario.
#[derive(Serialize)]
pub struct Row {
    /// The scenario.
    pub scenario: &'static str,
    /// What the figure is, with its unit.
    pub unit: &'static str,
    /// Whether it belongs in a short table.
    pub headline: bool,
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
#[derive(Serialize)]
pub struct Cell {
    /// Who.
    pub contestant: &'static str,
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
    let row = |(index, unit)| {
        let of = |name: &str| values(&entries, &kept, name, unit);
        let ours = contestants.first().map(|name| of(name)).unwrap_or_default();
        let cells = contestants.iter().map(|name| cell(name, &ours, &of(name))).collect();
        let headline = index < first.figures.headlines();
        Row { scenario, unit, headline, dropped, noisy, errors, cells }
    };
    units.into_iter().enumerate().map(row).collect()
}

/// The values of one contestant in the rounds `kept`, in their order; not a number where there is none.
fn values(entries: &[&Entry], kept: &[usize], contestant: &str, unit: &str) -> Vec<f64> {
    let value = |round: &usize| {
        let entry = entries.iter().find(|entry| entry.round == *round && entry.contestant == contestant)?;
        entry.figures.read(&entry.report).into_iter().find(|figure| figure.unit == unit).map(|figure| figure.value)
    };
    kept.iter().map(|round| value(round).unwrap_or(f64::NAN)).collect()
}

fn cell(contestant: &'static str, ours: &[f64], theirs: &[f64]) -> Cell {
    let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
    Cell { contestant, value: Spread::of(theirs.iter().copied()), ratio: Spread::of(ratios) }
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
    fn a_measurement_without_answers_leaves_an_empty_cell_and_its_errors() {
        let mut failed = entry(0, "theirs", 0.0, 0.0);
        failed.report = Report::failed("no answer".to_owned());
        let rows = rows(&NAMES, &[entry(0, "ours", 30.0, 0.0), failed]);
        assert_eq!((rows[0].cells[1].value, rows[0].errors), (None, 1));
    }
}
