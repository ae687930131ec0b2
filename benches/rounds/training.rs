//! The load under which programs with counters in them learn what is hot: `benches/release.sh`.

use super::bench::Bench;
use super::options::Options;
use crate::Outcome;
use crate::chains::Contestant;
use crate::machine::isolate;
use crate::net::namespace;
use crate::report::{Book, Figures};

/// Puts each kind of load on our own chain once. Fails if one could not be put on it, since what it needs would count as
/// never used.
pub fn main() -> Outcome<()> {
    let mut options = Options::read()?;
    options.contestants = vec![Contestant::Trunkline];
    // These wait more than they work.
    options.scenarios.retain(|one| !matches!(one.figures, Figures::Idle | Figures::Memory | Figures::Transfer));
    namespace::prepare_machine();
    // Without root it is the machine's loopback, where packets are larger.
    if let Err(error) = isolate() {
        eprintln!("bench: {error}");
    }
    let dir = super::fresh_folder("training")?;
    let mut book = Book::new("", vec![Contestant::Trunkline.name()], String::new());
    let mut bench = Bench::set_up(&dir, &options, &mut book)?;
    bench.round(0, &mut book);
    if !bench.is_whole() {
        return Err(format!("not every load was possible; see {}", dir.display()).into());
    }
    drop(bench);
    Ok(std::fs::remove_dir_all(&dir)?)
}
