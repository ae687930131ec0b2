//! The committed counts, and what a new count is beside them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A count that is higher by more than this share fails.
const TOLERANCE: f64 = 0.05;

/// Instructions of each operation, under one compiler.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Baseline {
    /// As `rustc --version` has it.
    pub compiler: String,
    /// By the operation's name.
    pub instructions: BTreeMap<String, u64>,
}

impl Baseline {
    /// One without counts.
    pub fn empty(compiler: &str) -> Self {
        Self { compiler: compiler.to_owned(), instructions: BTreeMap::new() }
    }

    /// The committed one.
    pub fn read() -> Result<Self, Box<dyn std::error::Error>> {
        Ok(toml::from_str(&fs::read_to_string(file())?)?)
    }

    /// Becomes the committed one.
    pub fn write(&self) -> Result<(), Box<dyn std::error::Error>> {
        let text = toml::to_string(self)?;
        fs::write(
            file(),
            format!("# Instructions of each operation. Written by: make bench-ci BASELINE=write\n{text}"),
        )?;
        println!("{} counts in {}", self.instructions.len(), file().display());
        Ok(())
    }

    /// What has become of each operation, of those that are new or gone too.
    pub fn compare(&self, found: &Self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        if self.compiler != found.compiler {
            verdicts.push(Verdict::Compiler(self.compiler.clone(), found.compiler.clone()));
        }
        for (name, now) in &found.instructions {
            verdicts.push(match self.instructions.get(name) {
                Some(before) => Verdict::Count { name: name.clone(), before: *before, now: *now },
                None => Verdict::New(name.clone()),
            });
        }
        let gone = self.instructions.keys().filter(|name| !found.instructions.contains_key(*name));
        verdicts.extend(gone.cloned().map(Verdict::Gone));
        verdicts
    }
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/stages/baseline.toml")
}

/// What there is to say about one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The baseline is of another compiler.
    Compiler(String, String),
    /// Instructions before and now.
    Count {
        /// The operation.
        name: String,
        /// In the baseline.
        before: u64,
        /// Counted now.
        now: u64,
    },
    /// Not in the baseline.
    New(String),
    /// In the baseline alone.
    Gone(String),
}

impl Verdict {
    /// Whether it fails the comparison.
    pub fn is_bad(&self) -> bool {
        match self {
            Self::Compiler(..) => false,
            Self::Count { before, now, .. } => *now as f64 > *before as f64 * (1.0 + TOLERANCE),
            Self::New(_) | Self::Gone(_) => true,
        }
    }

    /// The last line, for so many bad ones.
    pub fn summary(bad: usize) -> String {
        match bad {
            0 => "no operation takes more than 5 % more instructions than in the baseline".to_owned(),
            _ => format!("{bad} operations fail; if that is meant: make bench-ci BASELINE=write, and say why"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compiler(before, now) => write!(f, "the baseline is of {before}, this is {now}: counts may differ"),
            Self::Count { name, before, now } => {
                let change = (*now as f64 / *before as f64 - 1.0) * 100.0;
                let mark = if self.is_bad() { "  FAILS" } else { "" };
                write!(f, "{name:<36} {now:>8} instructions, {change:+.2} %{mark}")
            }
            Self::New(name) => write!(f, "{name:<36} is not in the baseline  FAILS"),
            Self::Gone(name) => write!(f, "{name:<36} is in the baseline alone  FAILS"),
        }
    }
}
