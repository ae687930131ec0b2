//! What the environment says about a run.

use std::env;
use std::str::FromStr;
use std::time::Duration;

use super::scenario::{Part, Scenario};
use crate::Outcome;
use crate::chains::Contestant;

/// A run's extent.
pub struct Options {
    /// How many times everything is measured.
    pub rounds: usize,
    /// No round begins that would end later than this.
    pub time_max: Duration,
    /// Length of one measurement, milliseconds.
    window_ms: u64,
    /// Who takes part.
    pub contestants: Vec<Contestant>,
    /// What is measured.
    pub scenarios: Vec<Scenario>,
    /// Whether contestants, and scenarios, were named: then all are in every round.
    named: (bool, bool),
}

impl Options {
    /// Reads the variables named in chain.rs; a name that is not known is an error that lists those that are.
    pub fn read() -> Outcome<Self> {
        let seconds: f64 = number("BENCH_SECONDS", 1.0)?;
        let minutes: f64 = number("BENCH_MINUTES", 15.0)?;
        let contestants = chosen("BENCH_CHAINS", &Contestant::ALL, |c| c.name())?;
        let scenarios = chosen("BENCH_SCENARIOS", &Scenario::all(), |s| s.name)?;
        let defaults = || Contestant::ALL.into_iter().filter(|c| c.by_default()).collect();
        Ok(Self {
            rounds: number("BENCH_ROUNDS", 7)?,
            time_max: Duration::try_from_secs_f64(minutes * 60.0)?,
            window_ms: (seconds * 1_000.0) as u64,
            named: (contestants.is_some(), scenarios.is_some()),
            contestants: contestants.unwrap_or_else(defaults),
            scenarios: scenarios.unwrap_or_else(Scenario::all),
        })
    }

    /// How long `scenario` is measured, milliseconds.
    pub fn window_ms(&self, scenario: &Scenario) -> u64 {
        (self.window_ms as f64 * scenario.length) as u64
    }

    /// Whether `contestant` takes part in `scenario` in a round.
    pub fn takes(&self, round: usize, scenario: &Scenario, contestant: Contestant) -> bool {
        let (contestants_named, scenario_named) = self.named;
        let fits = match scenario.part {
            _ if contestants_named => true,
            Part::Main => contestant.is_close() || round == 0 || scenario_named,
            Part::Close => contestant.is_close(),
            Part::Among(among) | Part::Once(among) => among.contains(&contestant),
        };
        let seldom = matches!(scenario.part, Part::Once(_)) && !scenario_named && round > 0;
        scenario.suits(contestant) && fits && !seldom
    }

    /// What a reader types to run the same again.
    pub fn command() -> String {
        let names = ["BENCH_ROUNDS", "BENCH_SECONDS", "BENCH_MINUTES", "BENCH_CHAINS", "BENCH_SCENARIOS"];
        let set = names.iter().filter_map(|name| Some(format!("{name}={} ", env::var(name).ok()?)));
        set.collect::<String>() + "make bench"
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
