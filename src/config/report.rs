//! What is wrong with a configuration file, and how it is shown: `file:line:column: message`, the source line, a caret
//! line and what is allowed.
//!
//! Called by [`super::raw`] and by whoever prints [`Errors`]. Owns the copy of the text that the excerpts come from;
//! never reads a file and never decides what is wrong.

use std::fmt;
use std::ops::Range;

/// Longest piece of a source line that is shown, characters.
const EXCERPT_MAX: usize = 120;
/// Most problems that are shown; the rest is counted.
const SHOWN_MAX: usize = 100;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Bytes of the text it is about; none for the file as a whole.
    pub span: Option<Range<usize>>,
    /// What is wrong, in one line.
    pub message: String,
    /// What is allowed or what to do, one line each.
    pub notes: Vec<String>,
    /// Something that ought to be there and is not: uncertain when the syntax around it is broken.
    pub missing: bool,
}

/// Every error of one configuration file, in the order of the file. `Display` renders them for a terminal.
#[derive(Clone, Debug)]
pub struct Errors {
    file: String,
    text: String,
    problems: Vec<Problem>,
}

impl Errors {
    /// Sorts `problems` into the order of the file.
    pub(super) fn new(file: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.span.as_ref().map_or((0, 0), |span| (span.start, span.end)));
        Self { file: file.to_owned(), text: text.to_owned(), problems }
    }

    /// The file as a whole cannot be used.
    pub(super) fn whole(file: &str, message: String, notes: Vec<String>) -> Self {
        Self::new(file, "", vec![Problem { span: None, message, notes, missing: false }])
    }

    /// How many errors there are; at least one.
    pub fn count(&self) -> usize {
        self.problems.len()
    }

    fn problem(&self, f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
        let file = printable(&self.file);
        let message = printable(&problem.message);
        let margin = match &problem.span {
            Some(span) => {
                let place = Place::of(&self.text, span);
                writeln!(f, "{file}:{}:{}: {message}", place.line, place.column)?;
                // What the file as a whole lacks is nowhere in it.
                if problem.missing && span.is_empty() { 1 } else { place.excerpt(f)? }
            }
            None => {
                writeln!(f, "{file}: {message}")?;
                1
            }
        };
        problem.notes.iter().try_for_each(|note| writeln!(f, "{:margin$} = {}", "", printable(note)))
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.problems.iter().take(SHOWN_MAX) {
            self.problem(f, problem)?;
            writeln!(f)?;
        }
        let count = self.problems.len();
        let file = printable(&self.file);
        match count.saturating_sub(SHOWN_MAX) {
            0 if count == 1 => write!(f, "{file}: 1 error"),
            0 => write!(f, "{file}: {count} errors"),
            hidden => write!(f, "{file}: {count} errors, {hidden} of them not shown"),
        }
    }
}

impl std::error::Error for Errors {}

/// A span as people count: lines and characters from 1.
struct Place<'a> {
    line: usize,
    column: usize,
    /// The whole first line of the span, without its end.
    source: &'a str,
    /// Characters under which carets go; at least one.
    width: usize,
}

impl<'a> Place<'a> {
    /// Never fails: a span outside the text, or inside a character, is moved to the nearest place before it.
    fn of(text: &'a str, span: &Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let end = text.floor_char_boundary(span.end.max(span.start));
        let (before, after) = text.split_at_checked(start).unwrap_or((text, ""));
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = after.find('\n').map_or(text.len(), |at| start + at);
        let source = text.get(line_start..line_end).unwrap_or("");
        let marked = text.get(start..end.min(line_end)).unwrap_or("");
        Self {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or("").chars().count() + 1,
            source: source.strip_suffix('\r').unwrap_or(source),
            width: marked.trim_end().chars().count().max(1),
        }
    }

    /// Writes the source line and the carets under it; returns the width of the margin.
    fn excerpt(&self, f: &mut fmt::Formatter<'_>) -> Result<usize, fmt::Error> {
        let number = self.line.to_string();
        let margin = number.len();
        // A line longer than a terminal is shown from a little before the span on.
        let skipped =
            if self.column + self.width > EXCERPT_MAX { self.column.saturating_sub(EXCERPT_MAX / 3) } else { 0 };
        let shown: String = self.source.chars().skip(skipped).take(EXCERPT_MAX).collect();
        let padding: String = shown
            .chars()
            .take(self.column - 1 - skipped.min(self.column - 1))
            .map(|c| if c == '\t' { c } else { ' ' })
            .collect();
        let width = self.width.min(EXCERPT_MAX);
        writeln!(f, "{:margin$} |", "")?;
        writeln!(f, "{number} | {}", printable(&shown).trim_end())?;
        writeln!(f, "{:margin$} | {padding}{}", "", "^".repeat(width))?;
        Ok(margin)
    }
}

/// A file must not be able to steer the terminal that shows its errors.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str, span: Range<usize>) -> String {
        let problem =
            Problem { span: Some(span), message: "bad".into(), notes: vec!["allowed: good".into()], missing: false };
        Errors::new("f.toml", text, vec![problem]).to_string()
    }

    #[test]
    fn carets_stand_under_the_span() {
        assert_eq!(
            one("a = 1\nlinks = 12 # many\n", 14..16),
            "f.toml:2:9: bad\n  |\n2 | links = 12 # many\n  |         ^^\n  = allowed: good\n\nf.toml: 1 error"
        );
    }

    #[test]
    fn columns_count_characters_and_tabs_stay_tabs() {
        let text = "\tä = 5\n";
        let shown = one(text, 6..7);
        assert!(shown.starts_with("f.toml:1:6: bad\n"), "{shown}");
        assert!(shown.contains("\n  | \t    ^\n"), "{shown}");
    }

    #[test]
    fn a_span_over_several_lines_marks_the_first() {
        assert!(one("x = [\n1,\n2]\n", 4..12).contains("1 | x = [\n  |     ^\n"));
    }

    #[test]
    fn a_line_without_end_is_shown_around_the_span() {
        let text = format!("{}12{}", "x".repeat(5_000), "y".repeat(5_000));
        let shown = one(&text, 5_000..5_002);
        assert!(shown.contains("12y") && shown.lines().all(|line| line.chars().count() < 140), "{shown}");
        let (source, carets) = (shown.lines().nth(2).expect("source"), shown.lines().nth(3).expect("carets"));
        assert_eq!(source.find("12"), carets.find("^^"));
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert!(!one("x = \"\u{1b}[31m\"\n", 4..6).contains('\u{1b}'));
    }

    proptest! {
        #[test]
        fn any_span_of_any_text_is_rendered(text in ".{0,40}\n?.{0,40}", start in 0usize..200, len in 0usize..200) {
            prop_assert!(one(&text, start..start + len).contains("bad"));
        }
    }
}
