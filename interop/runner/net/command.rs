//! A command that helps: run to its end, which it must reach in time.
//!
//! Called for `ip`, for scripts that bring peers, and for versions. Owns the processes while they run.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::super::Outcome;

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

/// The exit code; 128 and the number if a signal ended it.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// The last line with something in it, cut where it is long.
pub fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    line.trim().chars().take(160).collect()
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
