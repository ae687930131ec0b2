//! What the environment says about a run.

use std::env;
use std::str::FromStr;

use super::scenario::Scenario;
use crate::Outcome;
use crate::chains::Contestant;

/// A run's extent.
pub struct Options {
    /// How many times everything is measured.
    pub rounds: usize,
    /// Length of one measurement, milliseconds.
    pub window_ms: u64,
    /// Who takes part.
    pub contestants: Vec<Contestant>,
    /// What is measured.
    pub scenarios: Vec<Scenario>,
}

impl Options {
    /// Reads the variables named in chain.rs; a name that is not known is an error that lists those that are.
    pub fn read() -> Outcome<Self> {
        let defaults: Vec<Contestant> = Contestant::ALL.into_iter().filter(|c| c.by_default()).collect();
        let seconds: f64 = number("BENCH_SECONDS", 2.0)?;
        Ok(Self {
            rounds: number("BENCH_ROUNDS", 7)?,
            window_ms: (seconds * 1_000.0) as u64,
            contestants: chosen("BENCH_CHAINS", &Contestant::ALL, |c| c.name())?.unwrap_or(defaults),
            scenarios: chosen("BENCH_SCENARIOS", &Scenario::all(), |s| s.name)?.unwrap_or_else(Scenario::all),
        })
    }
}

fn number<T: FromStr>(variable: &str, default: T) -> Outcome<T> {
    match env::var(variable) {
        Ok(text) => text.parse().map_err(|_| format!("{variable}={text}: not a number").into()),
        Err(_) => Ok(default),
    }
}

/// The elements of `all` that `variable` names, in its order; none if it is not set. A name may be a beginning: `h3-down`.
fn chosen<T: Copy>(variable: &str, all: &[T], name: fn(&T) -> &'static str) -> Outcome<Option<Vec<T>>> {
    let Ok(text) = env::var(variable) else { return Ok(None) };
    let mut found = Vec::new();
    for word in text.split(',').map(str::trim) {
        let exact = all.iter().filter(|one| name(one) == word).copied().collect::<Vec<_>>();
        let begin = all.iter().filter(|one| name(one).starts_with(word)).copied().collect::<Vec<_>>();
        if begin.is_empty() {
            let names: Vec<_> = all.iter().map(name).collect();
            return Err(format!("{variable}: {word} is none of {}", names.join(", ")).into());
        }
        for one in if exact.is_empty() { begin } else { exact } {
            if !found.iter().any(|other| name(other) == name(&one)) {
                found.push(one);
            }
        }
    }
    Ok(Some(found))
}
