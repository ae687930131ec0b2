//! Raw configuration: the TOML as it was typed, walked key by key into the checked structs.
//!
//! Called by `EdgeConfig` and `OriginConfig`. serde would stop at the first error, so the walk is by hand: a
//! [`Section`] is asked for each key it may have, and whatever nobody asked for is unknown. A wrong value is recorded
//! with its place and replaced by the default, so that one run finds everything.

mod edge;
mod files;
mod item;
mod names;
mod numbers;
mod origin;
mod section;
mod shared;
mod syntax;
mod unknown;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

pub(super) use self::edge::edge;
pub use self::numbers::parse_duration;
pub(super) use self::origin::origin;
use self::section::Section;
use self::syntax::{Lines, with_syntax};
use self::unknown::Unknown;
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
    let sheet = Sheet::new(text, base);
    let checked = walk(&mut Section::top(&sheet, table.get_ref()));
    let (problems, lines) = sheet.into_problems();
    let problems = with_syntax(&lines, &syntax, problems);
    match checked {
        Some(checked) if problems.is_empty() => Ok(checked),
        _ => Err(Errors::new(file, text, problems)),
    }
}

/// One file while it is being walked.
pub(in crate::config) struct Sheet<'a> {
    text: &'a str,
    base: &'a Path,
    lines: Lines,
    problems: RefCell<Vec<Problem>>,
    /// Every key that some table may have, with the table's title.
    asked: RefCell<Vec<(String, &'static str)>>,
    unknown: RefCell<Vec<Unknown>>,
}

impl<'a> Sheet<'a> {
    fn new(text: &'a str, base: &'a Path) -> Self {
        let lines = Lines::of(text);
        let (problems, asked, unknown) = Default::default();
        Self { text, base, lines, problems, asked, unknown }
    }

    fn record(&self, span: Range<usize>, message: String, notes: Vec<String>) {
        self.problems.borrow_mut().push(Problem { span: Some(span), message, notes, missing: false });
    }

    fn record_missing(&self, span: Range<usize>, message: String, notes: Vec<String>) {
        self.problems.borrow_mut().push(Problem { span: Some(span), message, notes, missing: true });
    }

    fn into_problems(self) -> (Vec<Problem>, Lines) {
        let mut problems = self.problems.into_inner();
        let asked = self.asked.into_inner();
        problems.extend(self.unknown.into_inner().into_iter().map(|unknown| unknown.problem(&asked)));
        (problems, self.lines)
    }
}
