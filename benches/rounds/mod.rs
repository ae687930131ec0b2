//! The course of a run: which scenarios, in which order, through which contestants.
//!
//! In every round each scenario goes through its contestants one right after the other, so that they meet the same
//! machine, and the order is rotated from round to round. All chains are up all the time; only one is under load. One that
//! cannot be had, or breaks and does not start again, is left out, and the result says so.

mod bench;
pub mod cross_check;
mod link;
mod options;
mod scenario;
pub mod training;

use std::path::{Path, PathBuf};
use std::time::Duration;

use trunkline::clock;

use crate::Outcome;
use crate::chains::Contestant;
use crate::machine::{isolate, tcp_control};
use crate::net::namespace;
use crate::report::Book;
use bench::Bench;
use options::Options;

/// `make bench`.
pub fn main() -> Outcome<()> {
    let mut options = Options::read()?;
    let left_out = fetch(&mut options.contestants)?;
    namespace::prepare_machine();
    let network = match isolate() {
        Ok(()) => "loopback of its own, packets of 1,500 bytes".to_owned(),
        Err(error) => format!("the machine's loopback, large packets ({error})"),
    };
    let dir = fresh_folder("run")?;
    let network = format!("{network}, TCP with {}", tcp_control());
    let mut book = Book::new(&network, options.contestants.iter().map(|c| c.name()).collect(), Options::command());
    left_out.into_iter().for_each(|(name, why)| book.leave_out(name, &why));
    let mut bench = Bench::set_up(&dir, &options, &mut book)?;
    rounds(&mut bench, &options, &mut book);
    let whole = bench.is_whole();
    drop(bench);
    if whole {
        std::fs::remove_dir_all(&dir)?;
    }
    book.publish(&folder())
}

/// Brings the programs of all contestants; those whose programs cannot be had go, and are returned with the reason.
fn fetch(contestants: &mut Vec<Contestant>) -> Outcome<Vec<(&'static str, String)>> {
    let mut missing = Vec::new();
    contestants.retain(|contestant| match contestant.programs() {
        Ok(_) => true,
        Err(error) => {
            missing.push((contestant.name(), error.to_string()));
            false
        }
    });
    if contestants.is_empty() {
        return Err(format!("nobody takes part: {missing:?}").into());
    }
    Ok(missing)
}

/// All rounds for which there is time: none begins that would last beyond it, by the longest of those like it.
fn rounds(bench: &mut Bench<'_>, options: &Options, book: &mut Book) {
    let began = clock::now();
    let mut longest = Duration::ZERO;
    for round in 0..options.rounds {
        let start = clock::now();
        if start - began + longest > options.time_max {
            book.note(format!("{round} of {} rounds: the time of {:?} was over", options.rounds, options.time_max));
            return;
        }
        bench.round(round, book);
        // The first one has more in it than the others.
        if round > 0 || options.rounds == 1 {
            longest = longest.max(clock::now() - start);
        }
    }
}

/// An empty place for what chains need. It stays behind when something fails: configurations and logs tell why.
fn fresh_folder(name: &str) -> Outcome<PathBuf> {
    let folder = folder().join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(folder)
}

/// Where results lie: target/bench.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench")
}
