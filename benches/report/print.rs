//! The result for readers: aligned text, and a markdown table for README.

use super::Book;
use super::spread::Spread;
use super::table::{Cell, NOISE_MAX, Row};

/// All rows with medians, ranges and ratios.
pub fn text(book: &Book, rows: &[Row]) -> String {
    let mut lines =
        vec![String::new(), format!("{}; {}; kernel {}; {}", book.date, book.cpu, book.kernel, book.network)];
    lines.extend(noise(book));
    for row in rows {
        let flags = flags(row);
        lines.push(format!("\n{} — {}{}", row.scenario, row.unit, flags));
        lines.extend(row.cells.iter().enumerate().map(|(index, cell)| text_line(index, cell)));
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

/// How busy others were: the condition of every figure.
fn noise(book: &Book) -> Vec<String> {
    let foreign = Spread::of(book.entries.iter().map(|entry| entry.report.usage.foreign_cores));
    let noisy = book.entries.iter().filter(|entry| entry.report.usage.foreign_cores > NOISE_MAX).count();
    let Some(foreign) = foreign else { return Vec::new() };
    vec![format!(
        "foreign cores busy: {}; {noisy} of {} measurements above {NOISE_MAX}",
        range(foreign),
        book.entries.len()
    )]
}

fn flags(row: &Row) -> String {
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

/// The table that README shows.
pub fn markdown(book: &Book, rows: &[Row]) -> String {
    let names = book.contestants.join(" | ");
    let mut lines = vec![format!("\n| | | {names} |"), format!("|---|---|{}", "---|".repeat(book.contestants.len()))];
    for row in rows.iter().filter(|row| row.headline) {
        let cells: Vec<String> = row.cells.iter().enumerate().map(|(index, cell)| markdown_cell(index, cell)).collect();
        lines.push(format!("| {} | {}{} | {} |", row.scenario, row.unit, flags(row), cells.join(" | ")));
    }
    lines.push(format!(
        "\nMedian [min..max]; in brackets how many times ours is of theirs, round by round. {}.",
        book.date
    ));
    lines.join("\n")
}

fn markdown_cell(index: usize, cell: &Cell) -> String {
    match (index, cell.value, cell.ratio) {
        (_, None, _) => "-".to_owned(),
        (0, Some(value), _) | (_, Some(value), None) => range(value),
        (_, Some(value), Some(ratio)) => format!("{} ({} x)", range(value), number(ratio.median)),
    }
}

fn range(spread: Spread) -> String {
    format!("{} [{}..{}]", number(spread.median), number(spread.min), number(spread.max))
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
