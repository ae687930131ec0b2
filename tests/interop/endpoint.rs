//! A server endpoint in folders of its own, and clients for it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use trunkline::ca::{self, Subject};
use trunkline::clock;
use trunkline::dev::child::Ready;

/// The runner's word for "not supported".
pub const UNSUPPORTED: i32 = 127;
/// For everything that a program does. Generous: a loaded machine, a debug build.
const DEADLINE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(5);

/// A running server. Killed when dropped.
pub struct Endpoint {
    child: Child,
    folder: TempDir,
    port: u16,
}

/// What both ends wrote into their `SSLKEYLOGFILE`.
pub struct Secrets {
    pub client: String,
    pub server: String,
}

impl Endpoint {
    /// Starts a server and waits until it is bound.
    pub fn start(case: &str, params: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["www", "downloads", "certs", "logs"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        certificates(&folder.path().join("certs"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_interop-endpoint"));
        environment(&mut command, folder.path(), "server");
        command.env("TESTCASE", case).env("SERVER_PARAMS", params).env("PORT", "0");
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a server");
        let line = first_line(&mut child);
        let ready = Ready::parse(&line).unwrap_or_else(|| panic!("no ready line but {line:?}"));
        let address = ready.http3.first().expect("an address");
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        Self { child, folder, port }
    }

    /// Its UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its files and those of its clients are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes one file of random bytes of each size.
    pub fn files(&self, sizes: &[usize]) -> Vec<String> {
        let make = |(index, size): (usize, &usize)| {
            let name = format!("file-{index}");
            let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(*size).collect();
            fs::write(self.folder.path().join("www").join(&name), bytes).expect("a file");
            name
        };
        sizes.iter().enumerate().map(make).collect()
    }

    /// Runs a client and answers its exit code.
    pub fn client(&self, case: &str, files: &[String]) -> i32 {
        let urls: Vec<String> = files.iter().map(|file| format!("https://localhost:{}/{file}", self.port)).collect();
        client(case, &urls.join(" "), &[self.folder.path()])
    }

    /// What was downloaded is what is served, and there is nothing else.
    pub fn compare(&self, files: &[String]) {
        for file in files {
            assert!(self.downloaded(file).is_some_and(|got| got == self.served(file)), "{file} differs");
        }
        let downloads = fs::read_dir(self.folder.path().join("downloads")).expect("a folder");
        assert_eq!(downloads.count(), files.len());
    }

    /// A file that is served.
    pub fn served(&self, file: &str) -> Vec<u8> {
        fs::read(self.folder.path().join("www").join(file)).expect("a file")
    }

    /// A downloaded file, if it is there.
    pub fn downloaded(&self, file: &str) -> Option<Vec<u8>> {
        fs::read(self.folder.path().join("downloads").join(file)).ok()
    }

    /// The contents of all qlog files whose names end so.
    pub fn qlog(&self, end: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("qlog")).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let wanted = paths.filter(|path| path.to_string_lossy().ends_with(end));
        wanted.map(|path| fs::read_to_string(path).expect("a qlog")).collect()
    }

    pub fn secrets(&self) -> Secrets {
        let read = |role: &str| fs::read_to_string(keys(self.folder.path(), role)).expect("a key log");
        Secrets { client: read("client"), server: read("server") }
    }

    /// The logs of its processes.
    pub fn logs(&self) -> String {
        let logs = ["edge.log", "origin.log"].map(|log| self.folder.path().join("logs").join(log));
        logs.iter().map(|log| fs::read_to_string(log).unwrap_or_default()).collect()
    }

    /// Ends it as the runner does, and answers its exit code.
    pub fn end(mut self) -> i32 {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        // SAFETY: kill takes plain integers; the child is not reaped yet.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        exit(&mut self.child)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit code of a server that does not serve.
pub fn server_exit(case: &str) -> i32 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interop-endpoint"));
    exit(&mut command.env("TESTCASE", case).stdout(Stdio::null()).spawn().expect("a server"))
}

/// Runs a client on `urls`, in the folders of a server if there is one.
pub fn client(case: &str, urls: &str, folder: &[&Path]) -> i32 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interop-client"));
    if let Some(folder) = folder.first() {
        environment(&mut command, folder, "client");
    }
    exit(&mut command.env("TESTCASE", case).env("REQUESTS", urls).spawn().expect("a client"))
}

fn environment(command: &mut Command, folder: &Path, role: &str) {
    let variables =
        [("WWW", "www"), ("DOWNLOADS", "downloads"), ("CERTS", "certs"), ("LOGS", "logs"), ("QLOGDIR", "qlog")];
    command.envs(variables.map(|(name, path)| (name, folder.join(path)))).env("SSLKEYLOGFILE", keys(folder, role));
}

fn keys(folder: &Path, role: &str) -> PathBuf {
    folder.join(format!("{role}.keys"))
}

/// What the runner has in /certs.
fn certificates(folder: &Path) {
    ca::issue(folder, folder, &Subject::Site { hosts: vec!["localhost".into(), "127.0.0.1".into()] }, 1)
        .expect("certificates");
    for (made, wanted) in [("site.pem", "cert.pem"), ("site.key", "priv.key"), ("site-ca.pem", "ca.pem")] {
        fs::rename(folder.join(made), folder.join(wanted)).expect("a certificate");
    }
}

fn first_line(child: &mut Child) -> String {
    let stdout = child.stdout.take().expect("its stdout");
    let (tell, told) = mpsc::channel();
    // Ends with the child.
    thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(stdout).read_line(&mut line);
        let _ = tell.send(line);
    });
    told.recv_timeout(DEADLINE).expect("a line in time")
}

fn exit(child: &mut Child) -> i32 {
    let deadline = clock::now() + DEADLINE;
    while clock::now() < deadline {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code().expect("an exit code, not a signal");
        }
        thread::sleep(PAUSE);
    }
    let _ = child.kill();
    panic!("it does not end");
}
