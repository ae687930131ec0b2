//! Syntax errors, and which other errors are worth telling beside them.
//!
//! Called at the end of a walk. The parser recovers from errors by guessing; owns the judgement of those guesses.

use std::collections::HashSet;
use std::ops::Range;

use crate::config::report::Problem;

/// Where the lines of a text end, bytes.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The line, from 1, that a byte is on.
    pub fn of_byte(&self, at: usize) -> usize {
        self.0.partition_point(|end| *end < at) + 1
    }
}

/// Joins syntax errors and the others. After a syntax error the parser guesses, so what rests on a guess is left out:
/// anything on the line of a syntax error or after the first one that shifts the structure, and missing keys.
pub(super) fn with_syntax(lines: &Lines, syntax: &[toml::de::Error], mut problems: Vec<Problem>) -> Vec<Problem> {
    if syntax.is_empty() {
        return problems;
    }
    let faults = syntax_faults(lines, syntax);
    let trusted = faults.iter().find(|fault| fault.shifts).map_or(usize::MAX, |fault| fault.span.start);
    let broken: HashSet<usize> = faults.iter().map(|fault| fault.line).collect();
    problems.retain(|problem| {
        let at = problem.span.as_ref().map_or(0, |span| span.start);
        !problem.missing && at < trusted && !broken.contains(&lines.of_byte(at))
    });
    problems.extend(faults.into_iter().map(|fault| Problem {
        span: Some(fault.span),
        message: fault.message,
        notes: fault.note.into_iter().collect(),
        missing: false,
    }));
    problems
}

/// A syntax error with its place.
struct Fault {
    line: usize,
    span: Range<usize>,
    message: String,
    note: Option<String>,
    /// Whether the parser may take what follows for something that it is not.
    shifts: bool,
}

/// The first error of each line, in order. An array or inline table that never ends swallows the rest of the file:
/// then only the first error of that rest is kept, with the reason.
fn syntax_faults(lines: &Lines, syntax: &[toml::de::Error]) -> Vec<Fault> {
    let mut faults: Vec<Fault> = syntax.iter().map(|error| fault(lines, error)).collect();
    let unclosed =
        |fault: &Fault| ["unclosed array,", "unclosed inline table,"].iter().any(|m| fault.message.starts_with(m));
    let swallowed = faults.iter().find(|fault| unclosed(fault)).map(|fault| fault.message.clone());
    faults.sort_by_key(|fault| fault.span.start);
    if let Some(reason) = swallowed
        && let Some(first) = faults.iter().position(|fault| fault.shifts)
    {
        faults.truncate(first + 1);
        if let Some(last) = faults.last_mut() {
            last.note = Some(format!("{reason} somewhere before this"));
        }
    }
    faults.dedup_by_key(|fault| fault.line);
    faults
}

fn fault(lines: &Lines, error: &toml::de::Error) -> Fault {
    // These are about one value or key; the parser goes on behind it as if nothing had happened.
    let local = ["string values must be quoted", "duplicate key", "missing escaped value"];
    let message = error.message().to_owned();
    let span = error.span().unwrap_or(0..0);
    Fault {
        line: lines.of_byte(span.start),
        shifts: !local.iter().any(|start| message.starts_with(start)),
        span,
        message,
        note: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_on_lines() {
        let lines = Lines::of("ab\n\nc");
        assert_eq!([0, 2, 3, 4, 99].map(|at| lines.of_byte(at)), [1, 1, 2, 3, 3]);
    }
}
