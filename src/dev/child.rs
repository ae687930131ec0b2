//! A sibling binary as a child process: started, waited for until it says that it is ready, signalled, reaped.
//!
//! Called by `edge dev` and by the process tests. Owns the process: it never outlives its owner, not even when that
//! is killed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;

/// From exec to the ready line. Generous: a loaded machine, a debug build.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// Between looks at a process that closed its stdout and is about to exit.
const REAP_PAUSE: Duration = Duration::from_millis(2);
/// Longest ready line, bytes.
const LINE_MAX: u64 = 64 << 10;

/// A process that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The program cannot be executed or its log file not be written.
    #[error("{name} cannot be started: {source}")]
    Start {
        /// Which one.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("{name} ended before it was ready ({status}); its log:\n{log}")]
    Ended {
        /// Which one.
        name: String,
        /// How.
        status: ExitStatus,
        /// What it wrote to stderr.
        log: String,
    },
    /// It runs but printed no ready line in time.
    #[error("{name} is not ready after {} s; its log:\n{log}", READY_TIMEOUT.as_secs())]
    NotReady {
        /// Which one.
        name: String,
        /// What it wrote to stderr.
        log: String,
    },
    /// Its first line is not a ready line.
    #[error("{name} printed no ready line but `{line}`")]
    NoReadyLine {
        /// Which one.
        name: String,
        /// What it printed.
        line: String,
    },
}

/// The addresses that a process bound, as its ready line has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// UDP addresses of HTTP/3.
    pub http3: Vec<String>,
    /// TCP addresses of HTTP/2 and HTTP/1.1.
    pub http2: Vec<String>,
    /// UDP addresses that origins dial.
    pub tunnel: Vec<String>,
    /// Admin addresses.
    pub admin: Vec<String>,
}

impl Ready {
    /// Reads a ready line: an address is a string, several are an array, none is null or left out.
    pub fn parse(line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        let addresses = |key: &str| match line.get(key) {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many.iter().filter_map(|one| one.as_str().map(ToOwned::to_owned)).collect(),
            _ => Vec::new(),
        };
        (line.get("ready") == Some(&Value::Bool(true))).then(|| Self {
            http3: addresses("http3"),
            http2: addresses("http2"),
            tunnel: addresses("tunnel"),
            admin: addresses("admin"),
        })
    }
}

/// A running child. Killed and reaped when dropped.
pub struct Child {
    /// What it is called in messages.
    pub name: String,
    /// What it bound.
    pub ready: Ready,
    /// Where its stderr goes.
    pub log: PathBuf,
    process: std::process::Child,
    stdout: BufReader<pipe::Receiver>,
    status: Option<ExitStatus>,
}

impl Child {
    /// Starts `program` with `args` and waits for its ready line. Its stderr is appended to `log`.
    ///
    /// Must be called on a thread that lives as long as the child shall: the kernel kills the child with it.
    ///
    /// # Errors
    /// When it cannot be started, ends early, or is not ready in time; it is gone then.
    pub async fn start(name: &str, program: &Path, args: &[&str], log: &Path) -> Result<Self, ChildError> {
        let mut child = Self::spawn(name, program, args, log)
            .map_err(|source| ChildError::Start { name: name.to_owned(), source })?;
        let mut line = String::new();
        let read = {
            let mut stdout = (&mut child.stdout).take(LINE_MAX);
            tokio::time::timeout(READY_TIMEOUT, stdout.read_line(&mut line)).await
        };
        if read.is_err() {
            return Err(ChildError::NotReady { name: name.to_owned(), log: child.log_text() });
        }
        if line.is_empty() {
            let status = child.ended().await;
            return Err(ChildError::Ended { name: name.to_owned(), status, log: child.log_text() });
        }
        match Ready::parse(&line) {
            Some(ready) => child.ready = ready,
            None => return Err(ChildError::NoReadyLine { name: name.to_owned(), line: line.trim().to_owned() }),
        }
        Ok(child)
    }

    fn spawn(name: &str, program: &Path, args: &[&str], log: &Path) -> io::Result<Self> {
        let stderr = std::fs::File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        // Its own process group: a terminal's Ctrl-C reaches the parent alone, which ends its children in order.
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).process_group(0);
        die_with_parent(&mut command);
        let mut process = command.spawn()?;
        let stdout = process.stdout.take().map(OwnedFd::from).ok_or(io::ErrorKind::BrokenPipe)?;
        let stdout = BufReader::new(pipe::Receiver::from_owned_fd(stdout)?);
        Ok(Self { name: name.to_owned(), ready: Ready::default(), log: log.to_owned(), process, stdout, status: None })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal; nothing happens when it has ended.
    pub fn signal(&self, signal: libc::c_int) {
        if let (None, Ok(pid)) = (self.status, libc::pid_t::try_from(self.process.id())) {
            // SAFETY: kill takes plain integers; the pid is ours until it is reaped, which sets `status`.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// Waits until it has ended. Cancel safe.
    pub async fn ended(&mut self) -> ExitStatus {
        // Only the process itself holds the pipe, so its end is the process's.
        let mut rest = [0; 1024];
        while !matches!(self.stdout.read(&mut rest).await, Ok(0) | Err(_)) {}
        loop {
            if let Some(status) = self.has_ended() {
                return status;
            }
            tokio::time::sleep(REAP_PAUSE).await;
        }
    }

    /// How it ended, if it did.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = match self.process.try_wait() {
                Ok(status) => status,
                // It is not ours any more: as good as gone.
                Err(_) => Some(ExitStatus::from_raw(0)),
            };
        }
        self.status
    }

    /// Everything it wrote to stderr.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.has_ended().is_none() {
            self.signal(libc::SIGKILL);
            let _ = self.process.wait();
        }
    }
}

/// Has the kernel kill the child when the thread that started it ends, however it ends.
fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let arm = move || {
        // SAFETY: prctl and getppid are async-signal-safe and take plain integers.
        let (armed, now) = unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getppid()) };
        // The parent may have died before the signal was armed.
        if armed == 0 && u32::try_from(now) == Ok(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec `arm` makes two system calls and neither allocates nor locks.
    unsafe { command.pre_exec(arm) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_line_gives_one_many_or_no_addresses() {
        let line = r#"{"ready":true,"http3":["[::1]:1","127.0.0.1:2"],"http2":"127.0.0.1:2","tunnel":null,"pid":7}"#;
        let ready = Ready::parse(line).expect("ready line");
        assert_eq!(ready.http3, ["[::1]:1", "127.0.0.1:2"]);
        assert_eq!(ready.http2, ["127.0.0.1:2"]);
        assert!(ready.tunnel.is_empty() && ready.admin.is_empty());
        assert_eq!(Ready::parse(r#"{"ready":false}"#), None);
        assert_eq!(Ready::parse("listening"), None);
    }

    async fn shell(script: &str, log: &Path) -> Result<Child, ChildError> {
        Child::start("child", Path::new("/bin/sh"), &["-c", script], log).await
    }

    #[tokio::test]
    async fn a_child_is_ready_by_its_line_and_gone_when_dropped() {
        let folder = tempfile::tempdir().expect("folder");
        let log = folder.path().join("log");
        let child = shell(r#"echo '{"ready":true,"http3":"x:1"}'; exec sleep 600"#, &log).await.expect("ready");
        assert_eq!(child.ready.http3, ["x:1"]);
        let process = format!("/proc/{}", child.pid());
        assert!(Path::new(&process).exists());
        drop(child);
        assert!(!Path::new(&process).exists());
    }

    #[tokio::test]
    async fn a_child_that_ends_early_says_how_and_why() {
        let folder = tempfile::tempdir().expect("folder");
        let error = shell("echo oops >&2; exit 3", &folder.path().join("log")).await.err().expect("no ready line");
        let ChildError::Ended { status, log, .. } = error else { panic!("{error}") };
        assert_eq!((status.code(), log.as_str()), (Some(3), "oops\n"));
    }

    #[tokio::test]
    async fn a_signalled_child_is_seen_to_end() {
        let folder = tempfile::tempdir().expect("folder");
        let mut child =
            shell(r#"echo '{"ready":true}'; exec sleep 600"#, &folder.path().join("log")).await.expect("ready");
        assert_eq!(child.has_ended(), None);
        child.signal(libc::SIGTERM);
        assert_eq!(child.ended().await.signal(), Some(libc::SIGTERM));
    }
}
