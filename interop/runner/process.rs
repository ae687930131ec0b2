//! A process under test: its words in a file, ended when dropped and when this program dies.
//!
//! Called by runs, on the thread that lives as long as the process.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use trunkline::clock;

use super::Outcome;
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

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// The last line that a process wrote to its stderr.
pub fn last_words(path: &Path) -> String {
    last_line(&fs::read(path.with_extension("err")).unwrap_or_default())
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    line.trim().chars().take(160).collect()
}

/// Runs a helper to its end; what it printed. It and all that it started are killed after `timeout`.
///
/// # Errors
/// It did not start, did not end in time, or ended without success: then with its last words.
pub fn output(command: &mut Command, timeout: Duration) -> Outcome<Output> {
    let name = command.get_program().display().to_string();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
    let group = libc::pid_t::try_from(child.id())?;
    let (tell, told) = mpsc::channel();
    // Ends with the child, which ends with its group.
    let wait = move || drop(tell.send(child.wait_with_output()));
    thread::Builder::new().name("output".to_owned()).spawn(wait)?;
    let Ok(output) = told.recv_timeout(timeout) else {
        // SAFETY: a plain system call.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        return Err(format!("{name}: not over after {timeout:?}").into());
    };
    let output = output?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{name} ended with {}: {}", code(output.status), last_line(&output.stderr)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> Outcome<Output> {
        output(Command::new("sh").args(["-c", script]), timeout)
    }

    #[test]
    fn a_helper_says_what_it_printed_or_why_it_failed() {
        let long = Duration::from_secs(60);
        assert_eq!(shell("echo here", long).unwrap().stdout, b"here\n");
        let error = shell("echo no mirror >&2; exit 3", long).unwrap_err().to_string();
        assert_eq!(error, "sh ended with 3: no mirror");
    }

    #[test]
    fn a_helper_that_does_not_end_is_ended_with_all_that_it_started() {
        let error = shell("sleep 600 & sleep 600", Duration::from_millis(200)).unwrap_err().to_string();
        assert_eq!(error, "sh: not over after 200ms");
    }
}
