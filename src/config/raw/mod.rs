//! Raw configuration: the TOML as it was typed, walked key by key into the checked structs.
//!
//! Called by `EdgeConfig` and `OriginConfig`. serde would stop at the first error, so the walk is by hand: a
//! [`Section`] is asked for each key it may have, and whatever nobody asked for is unknown. A wrong value is recorded
//! with its place and replaced by the default, so that one run finds everything.

mod edge;
mod files;
mod names;
mod numbers;
mod origin;
mod section;
mod shared;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

pub(super) use self::edge::edge;
pub(super) use self::origin::origin;
use self::section::{Section, Unknown};
use super::report::{Errors, Problem};

/// Largest configuration file, bytes.
const FILE_MAX: u64 = 1 << 20;

/// Reads the file at `path` and walks it with `walk`.
pub(super) fn load<T>(path: &Path, walk: fn(&mut Section<'_>) -> Option<T>) -> Result<T, Errors> {
    let name = path.display().to_string();
    let text = text(path).map_err(|error| Errors::whole(&name, format!("cannot be read: {error}"), Vec::new()))?;
    parse(&text, &name, path.parent().unwrap_or(Path::new("")), walk)
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    match u64::try_from(read) {
        Ok(read) if read <= FILE_MAX => Ok(text),
        _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB")),
    }
}

/// Walks `text` with `walk`; `file` is only a name, `base` the folder that relative paths start from.
pub(super) fn parse<T>(
    text: &str,
    file: &str,
    base: &Path,
    walk: fn(&mut Section<'_>) -> Option<T>,
) -> Result<T, Errors> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let sheet =
        Sheet { text, base, problems: RefCell::default(), asked: RefCell::default(), unknown: RefCell::default() };
    let checked = walk(&mut Section::top(&sheet, table.get_ref()));
    let problems = with_syntax(text, &syntax, sheet.into_problems());
    match checked {
        Some(checked) if problems.is_empty() => Ok(checked),
        _ => Err(Errors::new(file, text, problems)),
    }
}

/// One file while it is being walked.
pub(in crate::config) struct Sheet<'a> {
    text: &'a str,
    base: &'a Path,
    problems: RefCell<Vec<Problem>>,
    /// Every key that some table may have, with the table's title.
    asked: RefCell<Vec<(String, &'static str)>>,
    unknown: RefCell<Vec<Unknown>>,
}

impl Sheet<'_> {
    fn record(&self, span: Range<usize>, message: String, notes: Vec<String>) {
        self.problems.borrow_mut().push(Problem { span: Some(span), message, notes, missing: false });
    }

    fn record_missing(&self, span: Range<usize>, message: String, notes: Vec<String>) {
        self.problems.borrow_mut().push(Problem { span: Some(span), message, notes, missing: true });
    }

    /// The line, from 1, that a byte is on.
    fn line(&self, at: usize) -> usize {
        line(self.text, at)
    }

    fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        let asked = self.asked.into_inner();
        problems.extend(self.unknown.into_inner().into_iter().map(|unknown| unknown.problem(&asked)));
        problems
    }
}

fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// Joins syntax errors and the others. After a syntax error the parser guesses, so what rests on a guess is left out:
/// anything on the line of a syntax error or after the first one that shifts the structure, and missing keys.
fn with_syntax(text: &str, syntax: &[toml::de::Error], mut problems: Vec<Problem>) -> Vec<Problem> {
    if syntax.is_empty() {
        return problems;
    }
    let mut faults: Vec<(usize, Range<usize>, &toml::de::Error)> = syntax
        .iter()
        .map(|error| {
            let span = error.span().unwrap_or(0..0);
            (line(text, span.start), span, error)
        })
        .collect();
    faults.sort_by_key(|(_, span, _)| span.start);
    faults.dedup_by_key(|(line, _, _)| *line);
    let trusted =
        faults.iter().find(|(_, _, error)| shifts_structure(error)).map_or(text.len(), |(_, span, _)| span.start);
    problems.retain(|problem| {
        let at = problem.span.as_ref().map_or(0, |span| span.start);
        let here = line(text, at);
        !problem.missing && at < trusted && faults.iter().all(|(line, _, _)| *line != here)
    });
    problems.extend(faults.into_iter().map(|(_, span, error)| Problem {
        span: Some(span),
        message: error.message().to_owned(),
        notes: Vec::new(),
        missing: false,
    }));
    problems
}

/// False for errors inside one value or of one key, after which the parser goes on as if nothing had happened.
fn shifts_structure(error: &toml::de::Error) -> bool {
    let message = error.message();
    !["string values must be quoted", "duplicate key", "missing escaped value"]
        .iter()
        .any(|local| message.starts_with(local))
}
