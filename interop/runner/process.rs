//! A process under test: its words in a file, ended when dropped and when this program dies.
//!
//! Called by runs, on the thread that lives as long as the process.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use trunkline::clock;

use super::Outcome;
use super::net::command::{code, last_line};
use super::net::namespace::Namespace;

/// Between looks at a process.
const TICK: Duration = Duration::from_millis(5);
/// How long a process may take to end after SIGTERM.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    ended: Option<i32>,
}

impl Process {
    /// Starts `command` in a namespace; what it prints goes to PATH.out and PATH.err.
    pub fn start(mut command: Command, end: Option<&Namespace>, path: &Path) -> Outcome<Self> {
        let file = |kind: &str| fs::File::create(path.with_extension(kind));
        command.stdin(Stdio::null()).stdout(file("out")?).stderr(file("err")?);
        if let Some(end) = end {
            end.enclose(&mut command)?;
        }
        let child = command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        Ok(Self { child, ended: None })
    }

    /// Its exit code, if it has ended; 128 and the number if a signal ended it.
    pub fn exited(&mut self) -> Outcome<Option<i32>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?.map(code);
        }
        Ok(self.ended)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end, at most `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Outcome<Option<i32>> {
        let deadline = clock::now() + timeout;
        while self.exited()?.is_none() && clock::now() < deadline {
            thread::sleep(TICK);
        }
        self.exited()
    }

    /// Asks it to end, and makes it if it does not.
    pub fn end(&mut self) -> Outcome<()> {
        if self.exited()?.is_none() {
            self.signal(libc::SIGTERM);
            if self.wait(END_TIMEOUT)?.is_none() {
                self.child.kill()?;
                self.ended = Some(code(self.child.wait()?));
            }
        }
        Ok(())
    }

    /// Sends a signal, if it has not ended.
    pub fn signal(&self, signal: libc::c_int) {
        if let (None, Ok(pid)) = (self.ended, libc::pid_t::try_from(self.child.id())) {
            // SAFETY: a plain system call; the child was not waited for, so the id is still its own.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The last line that a process wrote to its stderr.
pub fn last_words(path: &Path) -> String {
    last_line(&fs::read(path.with_extension("err")).unwrap_or_default())
}
