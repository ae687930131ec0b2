//! Runs one operation many times and prints what it costs each time.

use std::hint::black_box;
use std::time::Duration;

use trunkline::clock;

use super::allocations;

/// Length of one sample.
const SAMPLE: Duration = Duration::from_millis(50);
/// Samples of each operation; the best and the middle one are shown.
const SAMPLES: usize = 15;

/// Which operations run, and how long.
pub struct Stopwatch {
    full: bool,
    wanted: String,
}

impl Stopwatch {
    /// Measures operations whose name contains `wanted`; unless `full` each runs only once.
    pub fn new(full: bool, wanted: String) -> Self {
        Self { full, wanted }
    }

    /// Prints nanoseconds and allocations of one `operation`.
    pub fn measure<T>(&self, name: &str, mut operation: impl FnMut() -> T) {
        if !name.contains(&self.wanted) {
            return;
        }
        black_box(operation());
        if self.full {
            let times = calibrate(&mut operation);
            let mut samples: Vec<f64> = (0..SAMPLES).map(|_| sample(times, &mut operation)).collect();
            samples.sort_by(f64::total_cmp);
            let before = allocations::count();
            black_box(operation());
            let allocated = allocations::count() - before;
            let (best, middle) = (samples[0], samples[SAMPLES / 2]);
            println!("{name:<34} {best:>9.1} ns best {middle:>9.1} ns median {allocated:>5} allocations");
        }
    }
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
