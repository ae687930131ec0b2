//! The result for readers: aligned text, and a markdown table for README.

use super::Results;
use super::spread::Spread;
use super::table::{Cell, Row};

/// All rows with medians, ranges and ratios.
pub fn text(results: &Results) -> String {
    let run = &results.run;
    let mut lines = vec![
        String::new(),
        format!("{}; {}; kernel {}; {}", run.date, run.cpu, run.kernel, run.network),
        run.command.clone(),
    ];
    lines.extend(run.notes.iter().cloned());
    for row in &results.table {
        lines.push(format!("\n{} — {}{}", row.scenario, row.unit, flags(row)));
        let cells = row.cells.iter().enumerate().filter(|(_, cell)| cell.value.is_some());
        lines.extend(cells.map(|(index, cell)| text_line(index, cell)));
    }
    lines.join("\n")
}

fn text_line(index: usize, cell: &Cell) -> String {
    let value = cell.value.map_or("-".to_owned(), range);
    let ratio = match (index, cell.ratio) {
        (0, _) | (_, None) => String::new(),
        (_, Some(ratio)) => format!("  ours / theirs {}", range(ratio)),
    };
    format!("  {:<18} {value:<28}{ratio}", cell.contestant)
}

/// What a row's reader must know.
pub fn flags(row: &Row) -> String {
    let mut flags = String::new();
    if row.noisy {
        flags += " (all rounds noisy, none dropped)";
    } else if row.dropped > 0 {
        flags += &format!(" ({} noisy rounds dropped)", row.dropped);
    }
    if row.errors > 0 {
        flags += &format!(" ({} failures)", row.errors);
    }
    flags
}

/// The table that README shows: a column for those who are in most rows, one for all others together.
pub fn markdown(results: &Results) -> String {
    let rows: Vec<&Row> = results.table.iter().filter(|row| row.headline).collect();
    let often = |name: &String| {
        let has = |row: &&&Row| row.cells.iter().any(|cell| cell.contestant == *name && cell.value.is_some());
        2 * rows.iter().filter(has).count() > rows.len()
    };
    let columns: Vec<&String> = results.run.contestants.iter().filter(|name| often(name)).collect();
    let names: Vec<&str> = columns.iter().map(|name| name.as_str()).collect();
    let mut lines = vec![
        format!("| | | {} | others |", names.join(" | ")),
        format!("|---|---|{}---|", "---|".repeat(columns.len())),
    ];
    for row in rows {
        let shown = |(index, cell): (usize, &Cell)| markdown_cell(index, cell);
        let cells = row.cells.iter().enumerate();
        let (main, rest): (Vec<_>, Vec<_>) = cells.partition(|(_, cell)| columns.contains(&&cell.contestant));
        let rest = rest.into_iter().filter(|(_, cell)| cell.value.is_some());
        let rest: Vec<String> = rest.map(|one| format!("{} {}", one.1.contestant, shown(one))).collect();
        let cells: Vec<String> = main.into_iter().map(shown).collect();
        lines.push(format!(
            "| {} | {}{} | {} | {} |",
            row.scenario,
            row.unit,
            flags(row),
            cells.join(" | "),
            rest.join("; ")
        ));
    }
    lines.join("\n")
}

fn markdown_cell(index: usize, cell: &Cell) -> String {
    match (index, cell.value, cell.ratio) {
        (_, None, _) => "-".to_owned(),
        (0, Some(value), _) | (_, Some(value), None) => range(value),
        (_, Some(value), Some(ratio)) => format!("{} ({} x)", range(value), number(ratio.median)),
    }
}

/// Median and range; the median alone where there is only one value.
pub fn range(spread: Spread) -> String {
    match spread.count {
        1 => number(spread.median),
        _ => format!("{} [{}..{}]", number(spread.median), number(spread.min), number(spread.max)),
    }
}

/// `value` with three significant digits; whole from 100 on.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}
