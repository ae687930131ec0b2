//! The programs that are tried against each other, each as the command that starts it for a case.
//!
//! Called by the matrix. A peer that follows quic-interop-runner's contract is told by its environment; for the others the
//! contract is translated here into arguments and configuration files.

mod caddy;
mod chromium;
mod contract;
mod curl;
mod haproxy;
mod nginx;
mod ngtcp2;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use trunkline::clock;

use super::Outcome;
use super::case::Case;
use super::net::command::output;

pub use chromium::run as run_chromium;
pub use contract::{Contract, OURS, beside};

/// What a program is in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It downloads.
    Client = 0,
    /// It serves.
    Server = 1,
}

/// What a peer can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Client, server.
    pub roles: [bool; 2],
    /// HTTP/0.9, which most cases are made for; all speak HTTP/3.
    pub hq: bool,
    /// It follows the contract, where a TESTCASE decides on the protocol too.
    pub contract: bool,
}

/// One program in one run.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// What it is.
    pub role: Role,
    /// The case.
    pub case: &'a Case,
    /// Whether the two speak HTTP/3 and not HTTP/0.9.
    pub http3: bool,
    /// What the server serves.
    pub www: &'a Path,
    /// Where the client stores files.
    pub downloads: &'a Path,
    /// ca.pem, cert.pem, priv.key.
    pub certs: &'a Path,
    /// A folder of its own for whatever it writes.
    pub folder: &'a Path,
    /// Its log of TLS secrets.
    pub keys: &'a Path,
    /// What to download.
    pub requests: &'a [String],
}

impl Job<'_> {
    /// TESTCASE.
    pub fn asked(&self) -> &'static str {
        if self.http3 { "http3" } else { self.case.asked[self.role as usize] }
    }

    /// A file of the run's certificates.
    pub fn cert(&self, name: &str) -> String {
        self.certs.join(name).display().to_string()
    }
}

/// A program.
pub trait Peer: Sync {
    /// Its name in the matrix.
    fn name(&self) -> &'static str;
    /// What it can be.
    fn abilities(&self) -> Abilities;
    /// Its version; brings it onto the machine if it is not there.
    fn version(&self) -> Outcome<String>;
    /// What starts it, with helpers before it; nothing if it does not do this.
    fn commands(&self, job: &Job<'_>) -> Outcome<Vec<Command>>;
}

/// All of them.
pub fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(Contract::trunkline()),
        Box::new(Contract::aioquic()),
        Box::new(Contract::s2n_quic()),
        Box::new(Contract::quiche()),
        Box::new(ngtcp2::Ngtcp2),
        Box::new(curl::Curl),
        Box::new(chromium::Chromium),
        Box::new(nginx::Nginx),
        Box::new(haproxy::HaProxy),
        Box::new(caddy::Caddy),
    ]
}

/// A path of the source tree.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Tries of a script that brings something, and how long each may take.
const TRIES: u32 = 3;
const FETCH_TIMEOUT: Duration = Duration::from_secs(150);
/// Between two tries.
const FETCH_PAUSE: Duration = Duration::from_secs(5);
/// How long all that is brought may take together: where a mirror swallows what it is asked, nobody waits for each peer.
const FETCHES_MAX: Duration = Duration::from_secs(360);
/// How long a build may take.
const BUILD_TIMEOUT: Duration = Duration::from_secs(1_800);
/// How long a program may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(30);

/// What scripts have brought in this run, and how long that took.
static BROUGHT: Mutex<(BTreeMap<String, PathBuf>, Duration)> = Mutex::new((BTreeMap::new(), Duration::ZERO));

/// The one line that a script prints: where it put what was asked for. Tries again before it gives up, since mirrors fail now
/// and then.
fn brought(script: &str, arguments: &[&str]) -> Outcome<PathBuf> {
    let left = |spent| FETCHES_MAX.saturating_sub(spent).min(FETCH_TIMEOUT);
    once(&[&[script], arguments].concat(), |spent| {
        let mut tried = Err("no time is left to fetch anything".into());
        for number in 0..TRIES {
            if tried.is_ok() || left(*spent).is_zero() {
                break;
            }
            thread::sleep(FETCH_PAUSE * number.min(1));
            let began = clock::now();
            tried = put(script, arguments, left(*spent));
            *spent += clock::now() - began;
        }
        tried
    })
}

/// The same of a script that compiles what it brings.
fn built(script: &str) -> Outcome<PathBuf> {
    once(&[script], |_| put(script, &[], BUILD_TIMEOUT))
}

/// What `bring` says, who is asked once for each `call` and learns how long others took.
fn once(call: &[&str], bring: impl FnOnce(&mut Duration) -> Outcome<PathBuf>) -> Outcome<PathBuf> {
    let mut brought = BROUGHT.lock();
    let (known, spent) = &mut *brought;
    let call = call.join(" ");
    if let Some(path) = known.get(&call) {
        return Ok(path.clone());
    }
    let path = bring(spent)?;
    known.insert(call, path.clone());
    Ok(path)
}

fn put(script: &str, arguments: &[&str], timeout: Duration) -> Outcome<PathBuf> {
    let output = output(Command::new(source(script)).args(arguments), timeout)?;
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// A program of a Debian package.
pub fn debian(package: &str) -> Outcome<PathBuf> {
    Ok(brought("tests/tools/debian.sh", &[package])?.join(package))
}

/// The first line that `command` prints, on whichever stream, with something like a version in it.
fn first_line(command: &mut Command) -> Outcome<String> {
    let output = output(command, VERSION_TIMEOUT)?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.contains(|c: char| c.is_ascii_digit())).unwrap_or("unknown");
    Ok(line.trim().to_owned())
}

/// The word of `line` that looks like a version.
fn version_in(line: &str) -> String {
    let word =
        line.split([' ', '/', ',']).find(|word| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()));
    word.unwrap_or(line).trim_start_matches('v').to_owned()
}
