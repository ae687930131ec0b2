//! Runs the operations that the stages name, in one of four ways.

use std::hint::black_box;
use std::time::Duration;

use trunkline::clock;

use super::allocations;

/// Length of one sample.
const SAMPLE: Duration = Duration::from_millis(50);
/// Samples of each operation; the best and the middle one are shown.
const SAMPLES: usize = 15;
/// Runs of an operation whose instructions are counted, and as many before that: what happens once, or rarely, is spread.
pub const COUNTED: u64 = 64;

/// What to do with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Run it once.
    Try,
    /// Time it.
    Time,
    /// Print its name.
    Name,
    /// Run it where valgrind counts.
    Count,
}

/// Which operations run, and how.
pub struct Stopwatch {
    way: Way,
    wanted: String,
}

impl Stopwatch {
    /// Takes the operations whose name contains `wanted`; the only one with this name if they are to be counted.
    pub fn new(way: Way, wanted: String) -> Self {
        Self { way, wanted }
    }

    /// Treats one `operation`.
    pub fn measure<T>(&self, name: &str, mut operation: impl FnMut() -> T) {
        let chosen = if self.way == Way::Count { name == self.wanted } else { name.contains(&self.wanted) };
        match self.way {
            _ if !chosen => {}
            Way::Try => drop(black_box(operation())),
            Way::Time => time(name, operation),
            Way::Name => println!("{name}"),
            Way::Count => {
                let mut repeat = || (0..COUNTED).for_each(|_| drop(black_box(operation())));
                repeat();
                counted(&mut repeat);
            }
        }
    }
}

/// The function inside which callgrind counts; it knows it by this name.
#[inline(never)]
fn counted(operation: &mut dyn FnMut()) {
    operation();
    // Keeps the call above from becoming a jump, which would leave this function before it counts.
    black_box(());
}

/// Prints nanoseconds and allocations of one operation.
fn time<T>(name: &str, mut operation: impl FnMut() -> T) {
    black_box(operation());
    let times = calibrate(&mut operation);
    let mut samples: Vec<f64> = (0..SAMPLES).map(|_| sample(times, &mut operation)).collect();
    samples.sort_by(f64::total_cmp);
    let before = allocations::count();
    black_box(operation());
    let allocated = allocations::count() - before;
    let (best, middle) = (samples[0], samples[SAMPLES / 2]);
    println!("{name:<34} {best:>9.1} ns best {middle:>9.1} ns median {allocated:>5} allocations");
}

/// How often the operation fits into a sample.
fn calibrate<T>(operation: &mut impl FnMut() -> T) -> u32 {
    let mut times = 1;
    while sample(times, operation) * f64::from(times) < SAMPLE.as_nanos() as f64 && times < 1 << 30 {
        times *= 2;
    }
    times
}

/// Nanoseconds that one of `times` operations took.
fn sample<T>(times: u32, operation: &mut impl FnMut() -> T) -> f64 {
    let start = clock::now();
    for _ in 0..times {
        black_box(operation());
    }
    (clock::now() - start).as_nanos() as f64 / f64::from(times)
}
