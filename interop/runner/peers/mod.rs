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

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Outcome;
use super::case::Case;

pub use chromium::run as run_chromium;
pub use contract::beside;

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
        Box::new(contract::Contract::trunkline()),
        Box::new(contract::Contract::aioquic()),
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

/// The one line that a script prints: where it put what was asked for.
fn brought(script: &str, arguments: &[&str]) -> Outcome<PathBuf> {
    let output = Command::new(source(script)).args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{script} {} failed", arguments.join(" ")).into());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// A program of a Debian package.
pub fn debian(package: &str) -> Outcome<PathBuf> {
    Ok(brought("tests/tools/debian.sh", &[package])?.join(package))
}

/// The first line that `command` prints, on whichever stream, with something like a version in it.
fn first_line(command: &mut Command) -> Outcome<String> {
    let output = command.stdin(Stdio::null()).output()?;
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
