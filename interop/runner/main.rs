//! `interop-runner`: Trunkline against QUIC stacks that others wrote, in network namespaces of this machine, with links
//! that lose, corrupt, delay and rebind. No Docker, no simulator, no packet analyser: interop/README.md says how it works.
//!
//! Called by `make interop` and `make interop-ci`. Needs root, for namespaces and TUN devices.

mod case;
mod certificates;
mod chain;
mod judge;
mod matrix;
mod net;
mod peers;
mod process;
mod quic;
mod report;
mod run;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use clap::{Parser, Subcommand};
use trunkline::clock;

use case::{CASES, Case};
use net::namespace;
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
        What::All { choice, chain } => prepare().and_then(|()| run_all(&choice, &chain)),
        What::Matrix(choice) => prepare().and_then(|()| run_matrix(&choice)),
        What::Chain(alone) => prepare().and_then(|()| run_chain(&alone)),
        What::Link => prepare().and_then(|()| link()).map(|()| true),
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

/// Root, no leftovers, and an orderly end on a signal. Must run before any thread starts.
fn prepare() -> Outcome<()> {
    // SAFETY: a plain system call.
    if unsafe { libc::geteuid() } != 0 {
        return Err("network namespaces and TUN devices need root: run it with sudo".into());
    }
    end_on_signals()?;
    namespace::remove_leftovers();
    Ok(())
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

/// Where and with which luck everything happens, and what came out so far.
struct Session {
    seed: u64,
    folder: PathBuf,
    /// The matrix and our own cases are told apart.
    groups: Vec<Vec<Record>>,
    versions: BTreeMap<String, String>,
}

impl Session {
    fn start(common: &Common) -> Outcome<Self> {
        let seed = common.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
        let folder = run_folder()?;
        writeln!(std::io::stdout(), "seed {seed}; logs in {}", folder.display())?;
        Ok(Self { seed, folder, groups: Vec::new(), versions: BTreeMap::new() })
    }

    fn matrix(&mut self, choice: &Choice) -> Outcome<()> {
        let peers = peers::all();
        let pairs = matrix::pairs(&peers, &choice.servers, &choice.clients, choice.foreign)?;
        let cases = chosen_cases(&choice.cases)?;
        for peer in pairs.iter().flat_map(|(server, client)| [server, client]) {
            if !self.versions.contains_key(peer.name()) {
                let version = peer.version()?;
                writeln!(std::io::stdout(), "{} {version}", peer.name())?;
                self.versions.insert(peer.name().to_owned(), version);
            }
        }
        let matrix = matrix::Matrix {
            cases,
            pairs,
            seed: self.seed,
            jobs: choice.jobs,
            folder: &self.folder,
            keep: choice.common.keep,
        };
        self.groups.push(matrix.run());
        Ok(())
    }

    fn chain(&mut self, cases: &[String], common: &Common) {
        self.groups.push(chain::run(cases, self.seed, &self.folder, common.keep));
    }

    /// Prints and writes what came out; whether nothing failed.
    fn conclude(self, common: &Common) -> Outcome<bool> {
        let mut out = std::io::stdout();
        let tables = report::tables(&self.groups, &self.versions, self.seed);
        writeln!(out, "\n{tables}")?;
        std::fs::write(self.folder.join("result.md"), tables)?;
        let records = self.groups.concat();
        let json = common.json.clone().unwrap_or_else(|| self.folder.join("result.json"));
        report::write_json(&json, &records, &self.versions)?;
        writeln!(out, "{}", report::count(&records))?;
        Ok(report::failed(&records) == 0)
    }
}

fn run_all(choice: &Choice, chain: &[String]) -> Outcome<bool> {
    let mut session = Session::start(&choice.common)?;
    session.matrix(choice)?;
    session.chain(chain, &choice.common);
    session.conclude(&choice.common)
}

fn run_matrix(choice: &Choice) -> Outcome<bool> {
    let mut session = Session::start(&choice.common)?;
    session.matrix(choice)?;
    session.conclude(&choice.common)
}

fn run_chain(alone: &Alone) -> Outcome<bool> {
    let mut session = Session::start(&alone.common)?;
    session.chain(&alone.cases, &alone.common);
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
