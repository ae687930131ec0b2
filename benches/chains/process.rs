//! A process of the bench: pinned, its words in a file, ended when dropped and also when the bench dies.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use trunkline::clock;

use crate::Outcome;
use crate::machine::pin;

/// How long a process may take to say that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a process may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A running process.
pub struct Process {
    child: Child,
    log: PathBuf,
    first_line: mpsc::Receiver<String>,
}

impl Process {
    /// Starts `command` on `core`; its stderr goes to `log`.
    pub fn start(command: &mut Command, core: usize, log: &Path) -> Outcome<Self> {
        let log_file = File::create(log)?;
        let started = pinned(command, core).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file).spawn();
        let mut child = started.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let (send, first_line) = mpsc::sync_channel(1);
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || read_lines(stdout, &send));
        }
        Ok(Self { child, log: log.to_owned(), first_line })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its ready line, one JSON object on stdout.
    pub fn ready(&self) -> Outcome<serde_json::Value> {
        let line = self.first_line.recv_timeout(READY_TIMEOUT);
        let line = line.map_err(|_| format!("no ready line; see {}", self.log.display()))?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// Passes the first line on and the rest by, so that the process never blocks on a full pipe.
fn read_lines(stdout: ChildStdout, first: &mpsc::SyncSender<String>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let _ = first.try_send(line);
    }
}

impl Drop for Process {
    /// In order, as far as it does: a program with counters in it writes at its end what it counted.
    fn drop(&mut self) {
        let asked = clock::now();
        while let Ok(None) = self.child.try_wait() {
            if clock::now() - asked < END_TIMEOUT {
                // Ours drains at the first one and ends at the second one. SAFETY: kill(2) of a child that was not waited for.
                unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
                thread::sleep(Duration::from_millis(20));
            } else {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

/// `command`, bound to `core` and to the life of the bench.
pub fn pinned(command: &mut Command, core: usize) -> &mut Command {
    let prepare = move || {
        // SAFETY: prctl(2) without pointers.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
            return Err(io::Error::last_os_error());
        }
        pin(core)
    };
    // SAFETY: between fork and exec `prepare` makes only system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) }
}
