//! The result as a picture: for each line and rival where ours stands, on a logarithmic axis. SVG, written by hand.

use std::fmt::Write;

use super::Results;
use super::print::number;
use super::table::{Cell, Row};

/// Ends of the axis: what lies beyond is drawn at the end.
const LEAST: f64 = 0.1;
const MOST: f64 = 10.0;
const TICKS: [f64; 7] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Pixels.
const LEFT: f64 = 250.0;
const WIDTH: f64 = 620.0;
const TOP: f64 = 70.0;
const ROW: f64 = 24.0;
/// One for each rival, told apart also by those who see few colours (after Okabe and Ito, and Tol).
const COLOURS: [&str; 12] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#555555", "#882255", "#999933",
    "#44aa99", "#000000",
];

/// The picture of all main figures.
pub fn svg(results: &Results) -> String {
    let rows: Vec<&Row> = results.table.iter().filter(|row| row.headline && has_ratio(row)).collect();
    let rivals: Vec<&String> = results.run.contestants.iter().skip(1).collect();
    let bottom = TOP + ROW * rows.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        LEFT + WIDTH + 20.0,
        bottom + 40.0
    );
    text(
        &mut out,
        10.0,
        20.0,
        &format!("Ours / theirs, median and range. Left of 1 is better for ours. {}", results.run.date),
    );
    for (index, rival) in rivals.iter().enumerate() {
        let x = 10.0 + 150.0 * (index % 6) as f64;
        let y = 38.0 + 16.0 * (index / 6) as f64;
        dot(&mut out, x, y - 4.0, colour(index), rival);
        text(&mut out, x + 8.0, y, rival);
    }
    axis(&mut out, bottom);
    for (index, row) in rows.iter().enumerate() {
        draw(&mut out, TOP + ROW * (index as f64 + 0.5), row, &rivals);
    }
    out += "</svg>\n";
    out
}

fn has_ratio(row: &Row) -> bool {
    row.cells.iter().skip(1).any(|cell| cell.ratio.is_some())
}

fn colour(rival: usize) -> &'static str {
    COLOURS.get(rival % COLOURS.len()).copied().unwrap_or("black")
}

fn axis(out: &mut String, bottom: f64) {
    for tick in TICKS {
        let (x, shade) = (place(tick), if tick == 1.0 { "black" } else { "#dddddd" });
        line(out, (x, TOP), (x, bottom), shade);
        text(out, x - 8.0, bottom + 16.0, &tick.to_string());
    }
}

fn draw(out: &mut String, y: f64, row: &Row, rivals: &[&String]) {
    text(out, 10.0, y + 4.0, &format!("{}, {}", row.scenario, row.unit));
    let cells = rivals.iter().enumerate().filter_map(|(index, name)| {
        let cell = row.cells.iter().find(|cell| cell.contestant == **name)?;
        Some((index, cell))
    });
    for (index, cell) in cells {
        draw_cell(out, y, row, colour(index), cell);
    }
}

fn draw_cell(out: &mut String, y: f64, row: &Row, colour: &str, cell: &Cell) {
    let Some(ratio) = cell.ratio else { return };
    let cost = |value: f64| if row.more_is_better { 1.0 / value } else { value };
    line(out, (place(cost(ratio.min)), y), (place(cost(ratio.max)), y), colour);
    let words = format!("{}: {} of {}", row.scenario, number(ratio.median), cell.contestant);
    dot(out, place(cost(ratio.median)), y, colour, &words);
}

fn place(ratio: f64) -> f64 {
    let share = (ratio.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
    LEFT + WIDTH * share
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    // A String takes whatever is written.
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn dot(out: &mut String, x: f64, y: f64, colour: &str, title: &str) {
    let title = escaped(title);
    let _ =
        writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"><title>{title}</title></circle>");
}

fn text(out: &mut String, x: f64, y: f64, words: &str) {
    let words = escaped(words);
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>");
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Head;
    use crate::report::spread::Spread;

    fn results(unit: &str, more_is_better: bool, median: f64) -> Results {
        let ratio = Some(Spread { median, min: median, max: median, count: 1 });
        let cell = |name: &str, ratio| Cell { contestant: name.to_owned(), value: ratio, ratio };
        let row = Row {
            scenario: "small <&>".to_owned(),
            unit: unit.to_owned(),
            headline: true,
            more_is_better,
            dropped: 0,
            noisy: false,
            errors: 0,
            cells: vec![cell("ours", ratio), cell("theirs", ratio)],
        };
        let run = Head { contestants: vec!["ours".to_owned(), "theirs".to_owned()], ..Head::default() };
        Results { run, table: vec![row] }
    }

    /// Where the one dot of a row is, behind that of the legend.
    fn dot_at(results: &Results) -> f64 {
        let svg = svg(results);
        let place = svg.split("<circle cx=\"").nth(2).and_then(|rest| rest.split('"').next());
        place.and_then(|place| place.parse().ok()).expect("a dot")
    }

    #[test]
    fn left_of_one_is_ours_ahead_whether_less_or_more_is_better() {
        let one = place(1.0);
        assert!(dot_at(&results("CPU us/request", false, 0.5)) < one);
        assert!(dot_at(&results("Mbit/s", true, 0.5)) > one);
        assert!(dot_at(&results("Mbit/s", true, 2.0)) < one);
    }

    #[test]
    fn names_cannot_break_the_picture() {
        let svg = svg(&results("CPU", false, 0.001));
        assert!(svg.contains("small &lt;&amp;&gt;, CPU") && !svg.contains("<&"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
