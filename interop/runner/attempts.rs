//! Attempts: runs what it is given, several at once, and what failed once more, alone.
//!
//! Called by main for the matrix and for our own cases. A link that loses 30 % is luck by construction, and machines stall: a
//! run that failed has a second try with the same seed when all others are over. Both outcomes are printed, and those that
//! passed at the second try are counted apart.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use trunkline::clock;

use super::judge::Verdict;
use super::report::Record;
use super::run::tidy;

/// So many failures may be bad luck. Where more fail none has a second try.
const SECOND_TRIES_MAX: usize = 20;

/// One thing to run.
pub struct Task<'a> {
    /// The case.
    pub case: String,
    /// Client and server; of our own cases, what the links are like.
    pub pair: String,
    /// Decides on all luck.
    pub seed: u64,
    /// A folder of its own, not yet there.
    pub folder: PathBuf,
    /// Runs it in a folder.
    pub run: Box<dyn Fn(&Path) -> Verdict + Sync + 'a>,
}

impl Task<'_> {
    /// A verdict, and how long it took.
    fn attempt(&self, folder: &Path, keep: bool) -> (Verdict, Duration) {
        let started = clock::now();
        let verdict = (self.run)(folder);
        if !keep && !matches!(verdict, Verdict::Failed(_)) {
            tidy(folder);
        }
        (verdict, clock::now() - started)
    }

    fn first(&self, attempts: Attempts) -> Record {
        let (verdict, took) = match attempts.end {
            Some(end) if clock::now() > end => (Verdict::Skipped("no time was left".to_owned()), Duration::ZERO),
            _ => self.attempt(&self.folder, attempts.keep),
        };
        let Self { case, pair, seed, .. } = self;
        said(Record { case: case.clone(), pair: pair.clone(), seed: *seed, verdict, again: None, took })
    }

    fn second(&self, record: &mut Record, keep: bool) {
        let mut name = self.folder.file_name().unwrap_or_default().to_owned();
        name.push("-again");
        let (verdict, took) = self.attempt(&self.folder.with_file_name(name), keep);
        *record = said(Record { again: Some(verdict), took: record.took + took, ..record.clone() });
    }
}

/// Prints it.
fn said(record: Record) -> Record {
    // Whoever closed stdout does not want to know.
    let _ = writeln!(std::io::stdout(), "{}", record.line());
    record
}

/// How things are run.
#[derive(Clone, Copy, Debug)]
pub struct Attempts {
    /// At once.
    pub jobs: usize,
    /// Keep what those that passed have left.
    pub keep: bool,
    /// Nothing is begun after that, but for second tries.
    pub end: Option<Instant>,
}

impl Attempts {
    /// Runs all; the records are in the order of the tasks.
    pub fn all(self, tasks: &[Task<'_>]) -> Vec<Record> {
        let next = AtomicUsize::new(0);
        let records = Mutex::new(Vec::new());
        let worker = || {
            while let Some((number, task)) = {
                let number = next.fetch_add(1, Ordering::Relaxed);
                tasks.get(number).map(|task| (number, task))
            } {
                let record = task.first(self);
                records.lock().push((number, record));
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(worker);
            }
        });
        let mut records = records.into_inner();
        records.sort_by_key(|(number, _)| *number);
        let mut records: Vec<_> = records.into_iter().map(|(_, record)| record).collect();
        self.again(tasks, &mut records);
        records
    }

    /// Second tries, one after the other.
    fn again(self, tasks: &[Task<'_>], records: &mut [Record]) {
        let mut failed: Vec<_> = tasks.iter().zip(records).filter(|(_, record)| record.failed()).collect();
        if failed.len() > SECOND_TRIES_MAX {
            let _ = writeln!(std::io::stdout(), "{} failed: too many for bad luck, no second tries", failed.len());
            return;
        }
        for (task, record) in &mut failed {
            task.second(record, self.keep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says in turn what is in `verdicts`, one for each attempt.
    fn task(name: &str, verdicts: Vec<Verdict>) -> Task<'_> {
        let attempt = AtomicUsize::new(0);
        let run = move |_: &Path| verdicts[attempt.fetch_add(1, Ordering::Relaxed)].clone();
        let folder = PathBuf::from("never/made").join(name);
        Task { case: name.to_owned(), pair: "c -> s".to_owned(), seed: 7, folder, run: Box::new(run) }
    }

    fn failed() -> Verdict {
        Verdict::Failed("late".to_owned())
    }

    const PLAIN: Attempts = Attempts { jobs: 2, keep: false, end: None };

    #[test]
    fn only_what_failed_is_tried_again_and_the_second_outcome_counts() {
        let tasks = [
            task("good", vec![Verdict::Passed(None)]),
            task("unlucky", vec![failed(), Verdict::Passed(None)]),
            task("bad", vec![failed(), failed()]),
        ];
        let records = PLAIN.all(&tasks);
        assert_eq!(records.iter().map(|record| record.case.as_str()).collect::<Vec<_>>(), ["good", "unlucky", "bad"]);
        assert_eq!(records.iter().map(Record::failed).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(records.iter().map(Record::passed_late).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn many_failures_are_no_bad_luck() {
        let tasks: Vec<_> = (0..=SECOND_TRIES_MAX).map(|_| task("bad", vec![failed()])).collect();
        assert!(PLAIN.all(&tasks).iter().all(Record::failed));
    }

    #[test]
    fn nothing_begins_after_the_end_and_that_is_no_failure() {
        let over = Attempts { end: Some(clock::now() - Duration::from_secs(1)), ..PLAIN };
        let records = over.all(&[task("late", Vec::new())]);
        assert!(matches!(records[0].verdict, Verdict::Skipped(_)) && !records[0].failed());
    }
}
