//! `interop-runner`: Trunkline against QUIC stacks that others wrote, in network namespaces of this machine, with links
//! that lose, corrupt, delay and rebind. No Docker, no simulator, no packet analyser: interop/README.md says how it works.
//!
//! Called by `make interop` and `make interop-ci`. Needs root, for namespaces and TUN devices.

mod attempts;
mod case;
mod certificates;
mod chain;
mod judge;
mod machine;
mod matrix;
mod net;
mod peers;
mod process;
mod quic;
mod report;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use trunkline::clock;

use attempts::Attempts;
use case::{CASES, Case};
use net::namespace;
use peers::Peer;
use quic::keylog::KeyLog;
use quic::trace::Trace;
use report::Record;

/// What an operation gives, with an error for people.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Trunkline against other QUIC stacks.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Cases of quic-interop-runner between pairs of peers.
    Matrix(Choice),
    /// Both of the following: the matrix, then our own cases.
    All {
        #[command(flatten)]
        choice: Choice,
        /// Our own cases; all, if left out.
        #[arg(long, value_delimiter = ',')]
        chain: Vec<String>,
    },
    /// Our own cases: the whole chain, each part on a link of its own, and what a network does to it.
    Chain(Alone),
    /// Measures rate and jitter of a link of 10 Mbit/s and 15 ms on this machine.
    Link,
    /// Prints the QUIC packets of a capture, opened where a log of secrets has the keys.
    Show {
        /// A capture of this program.
        capture: PathBuf,
        /// Logs of TLS secrets.
        keys: Vec<PathBuf>,
        /// The server's port.
        #[arg(long, default_value_t = 443)]
        port: u16,
    },
    /// The client that drives Chromium; the matrix starts it.
    #[command(hide = true)]
    Chromium {
        /// Folder, downloads, certificates, log of secrets, base URL.
        arguments: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Alone {
    /// Cases; all, if left out.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Decides on every loss and corruption; chosen and printed, if left out.
    #[arg(long)]
    seed: Option<u64>,
    /// Keeps captures, logs and files of runs that passed, too.
    #[arg(long)]
    keep: bool,
    /// Writes all results here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Begins nothing after so many minutes; what is left out is said, and is no failure.
    #[arg(long)]
    minutes: Option<u64>,
}

#[derive(Debug, clap::Args)]
struct Choice {
    /// Who serves; all who can, if left out.
    #[arg(long, value_delimiter = ',')]
    servers: Vec<String>,
    /// Who downloads; all who can, if left out.
    #[arg(long, value_delimiter = ',')]
    clients: Vec<String>,
    /// Cases; all, if left out.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Pairs without Trunkline, too: a check of the runner itself.
    #[arg(long)]
    foreign: bool,
    /// Runs at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        What::All { choice, chain } => in_networks(|| run_all(&choice, &chain)),
        What::Matrix(choice) => in_networks(|| run_matrix(&choice)),
        What::Chain(alone) => in_networks(|| run_chain(&alone)),
        What::Link => in_networks(|| link().map(|()| true)),
        What::Show { capture, keys, port } => show(&capture, &keys, port).map(|()| true),
        What::Chromium { arguments } => peers::run_chromium(&arguments).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Where stderr is closed nobody wants to know.
            let _ = writeln!(std::io::stderr(), "interop-runner: {error}");
            ExitCode::from(2)
        }
    }
}

/// Does `work` where networks can be made: no leftovers, and an orderly end on a signal. Elsewhere all of it is left out, and
/// that is said. Must run before any thread starts.
fn in_networks(work: impl FnOnce() -> Outcome<bool>) -> Outcome<bool> {
    end_on_signals()?;
    namespace::prepare_machine();
    match machine::lacks() {
        None => work(),
        Some(lack) => Ok(machine::skipped("everything", &lack)),
    }
}

/// SIGINT and SIGTERM: a thread waits for them, removes the namespaces and ends this process; its children die with it.
fn end_on_signals() -> Outcome<()> {
    // SAFETY: sigset_t is plain data that sigemptyset fills; the calls read or write what they are given.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    };
    let wait = move || {
        let mut signal = 0;
        // SAFETY: as above.
        unsafe { libc::sigwait(&set, &mut signal) };
        namespace::remove_own();
        std::process::exit(128 + signal);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
}

/// After the last minute in which something may begin: what is under way ends by deadlines of its own, and so do second tries.
const OVERTIME: Duration = Duration::from_secs(60 * 60);

/// Ends this process after so long, whatever it is doing: nobody waits for a runner that hangs.
fn end_for_good(after: Duration) -> Outcome<()> {
    let wait = move || {
        thread::sleep(after);
        let _ = writeln!(std::io::stderr(), "interop-runner: not over after {after:?}");
        namespace::remove_own();
        std::process::exit(3);
    };
    thread::Builder::new().name("deadline".to_owned()).spawn(wait)?;
    Ok(())
}

/// Where and with which luck everything happens, and what came out so far.
struct Session {
    seed: u64,
    folder: PathBuf,
    /// The matrix and our own cases are told apart.
    groups: Vec<Vec<Record>>,
    versions: BTreeMap<String, String>,
    /// After that nothing begins.
    end: Option<Instant>,
    /// Nothing was left out, or that is as good as passing here.
    complete: bool,
}

impl Session {
    fn start(common: &Common) -> Outcome<Self> {
        let seed = common.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
        let folder = run_folder()?;
        writeln!(std::io::stdout(), "seed {seed}; logs in {}", folder.display())?;
        let minutes = common.minutes.map(|minutes| Duration::from_secs(60 * minutes));
        if let Some(minutes) = minutes {
            end_for_good(minutes + OVERTIME)?;
        }
        let end = minutes.map(|minutes| clock::now() + minutes);
        Ok(Self { seed, folder, groups: Vec::new(), versions: BTreeMap::new(), end, complete: true })
    }

    fn matrix(&mut self, choice: &Choice) -> Outcome<()> {
        let peers = peers::all();
        let mut pairs = matrix::pairs(&peers, &choice.servers, &choice.clients, choice.foreign)?;
        let cases = chosen_cases(&choice.cases)?;
        self.bring(&pairs)?;
        pairs.retain(|(server, client)| [server, client].iter().all(|peer| self.versions.contains_key(peer.name())));
        let tasks = matrix::tasks(&cases, &pairs, self.seed, &self.folder);
        self.groups.push(self.attempts(choice.jobs, &choice.common).all(&tasks));
        Ok(())
    }

    /// Learns the version of each peer, for which it must be here. Those that cannot be had are left out, but for our own.
    fn bring(&mut self, pairs: &[(&dyn Peer, &dyn Peer)]) -> Outcome<()> {
        let mut seen = BTreeSet::new();
        for peer in pairs.iter().flat_map(|(server, client)| [*server, *client]) {
            if !seen.insert(peer.name()) {
                continue;
            }
            match peer.version() {
                Ok(version) => {
                    writeln!(std::io::stdout(), "{} {version}", peer.name())?;
                    self.versions.insert(peer.name().to_owned(), version);
                }
                Err(error) if peer.name() == peers::OURS => return Err(error),
                Err(error) => self.complete &= machine::skipped(peer.name(), &error.to_string()),
            }
        }
        Ok(())
    }

    fn chain(&mut self, cases: &[String], common: &Common) -> Outcome<()> {
        let tasks = chain::tasks(cases, self.seed, &self.folder)?;
        self.groups.push(self.attempts(1, common).all(&tasks));
        Ok(())
    }

    fn attempts(&self, jobs: usize, common: &Common) -> Attempts {
        Attempts { jobs, keep: common.keep, end: self.end }
    }

    /// Prints and writes what came out; whether nothing failed.
    fn conclude(mut self, common: &Common) -> Outcome<bool> {
        let mut out = std::io::stdout();
        let tables = report::tables(&self.groups, &self.versions, self.seed);
        writeln!(out, "\n{tables}")?;
        std::fs::write(self.folder.join("result.md"), tables)?;
        let records = self.groups.concat();
        let json = common.json.clone().unwrap_or_else(|| self.folder.join("result.json"));
        report::write_json(&json, &records, &self.versions)?;
        if report::skipped(&records) > 0 {
            self.complete &= machine::skipped("some runs", "no time was left for them");
        }
        writeln!(out, "{}", report::count(&records))?;
        Ok(report::failed(&records) == 0 && self.complete)
    }
}

fn run_all(choice: &Choice, chain: &[String]) -> Outcome<bool> {
    let mut session = Session::start(&choice.common)?;
    session.matrix(choice)?;
    session.chain(chain, &choice.common)?;
    session.conclude(&choice.common)
}

fn run_matrix(choice: &Choice) -> Outcome<bool> {
    let mut session = Session::start(&choice.common)?;
    session.matrix(choice)?;
    session.conclude(&choice.common)
}

fn run_chain(alone: &Alone) -> Outcome<bool> {
    let mut session = Session::start(&alone.common)?;
    session.chain(&alone.cases, &alone.common)?;
    session.conclude(&alone.common)
}

fn link() -> Outcome<()> {
    for line in net::measure::measure(&run_folder()?)? {
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(())
}

fn show(capture: &Path, keys: &[PathBuf], port: u16) -> Outcome<()> {
    let log = KeyLog::read(keys.iter().map(PathBuf::as_path));
    let trace = Trace::read(capture, port, &log)?;
    let start = trace.packets.first().map(|packet| packet.at).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    for packet in &trace.packets {
        writeln!(out, "{}", packet.line(start))?;
    }
    Ok(())
}

fn chosen_cases(names: &[String]) -> Outcome<Vec<&'static Case>> {
    let names: Vec<_> = if names.is_empty() {
        CASES.iter().map(|case| case.name).collect()
    } else {
        names.iter().map(String::as_str).collect()
    };
    names.into_iter().map(|name| Case::named(name).ok_or_else(|| format!("no case is called {name}").into())).collect()
}

/// A folder for everything that this run writes: target/interop/SECONDS-PID.
fn run_folder() -> Outcome<PathBuf> {
    let seconds = clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH)?.as_secs();
    let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/interop");
    let folder = target.join(format!("{seconds}-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
