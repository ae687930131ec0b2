//! Instructions of each operation, as callgrind counts them: repeatable where times are not. `make bench-ci`.
//!
//! Started by `main`. Runs this program again under valgrind, once for each operation so that none depends on what ran
//! before it, with an empty environment and without random hash seeds. Never measures time.

use std::error::Error;
use std::fs;
use std::process::{Command, ExitCode};

use super::baseline::{Baseline, Verdict};
use super::stopwatch::COUNTED;

/// The argument that asks this program for the names of all operations.
pub const NAMES: &str = "--names";
/// The argument with which this program runs one operation to be counted.
pub const COUNT: &str = "--count";

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Counts everything; compares it with the baseline, or makes that anew.
pub fn main(write: bool) -> ExitCode {
    match run(write) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench-ci: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(write: bool) -> Outcome<ExitCode> {
    let mut found = Baseline::empty(&compiler()?);
    for name in names()? {
        found.instructions.insert(name.clone(), count(&name)?);
    }
    if write {
        found.write()?;
        return Ok(ExitCode::SUCCESS);
    }
    let verdicts = Baseline::read()?.compare(&found);
    for verdict in &verdicts {
        println!("{verdict}");
    }
    let bad = verdicts.iter().filter(|verdict| verdict.is_bad()).count();
    println!("{}", Verdict::summary(bad));
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The compiler by its own words; counts of another one differ.
fn compiler() -> Outcome<String> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn names() -> Outcome<Vec<String>> {
    let output = Command::new(std::env::current_exe()?).arg(NAMES).output()?;
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// Instructions that one run of the operation `name` takes.
fn count(name: &str) -> Outcome<u64> {
    let out = std::env::temp_dir().join(format!("trunkline-callgrind-{}", std::process::id()));
    let mut valgrind = Command::new("valgrind");
    valgrind.env_clear().args(["--tool=callgrind", "--toggle-collect=stages::stopwatch::counted", "--quiet"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(std::env::current_exe()?).args([COUNT, name]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let ran = valgrind.env("PATH", path).output();
    let ran = ran.map_err(|error| format!("valgrind: {error} (on Debian and Ubuntu: apt-get install valgrind)"))?;
    if !ran.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&ran.stderr).trim()).into());
    }
    let profile = fs::read_to_string(&out)?;
    fs::remove_file(&out)?;
    match total(&profile) {
        Some(0) | None => Err(format!("{name}: valgrind counted nothing; it must be able to read symbols").into()),
        Some(instructions) => Ok(instructions / COUNTED),
    }
}

/// The sum of a callgrind profile.
fn total(profile: &str) -> Option<u64> {
    profile.lines().find_map(|line| line.strip_prefix("totals:"))?.trim().parse().ok()
}

/// Takes the place of the C library's: the seeds of hash maps, of which lookups depend, are the same in every run.
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut libc::c_void, length: usize, _: libc::c_uint) -> isize {
    // SAFETY: the caller names a buffer of its own and its length.
    unsafe { buffer.cast::<u8>().write_bytes(0x5a, length) };
    isize::try_from(length).unwrap_or(isize::MAX)
}
