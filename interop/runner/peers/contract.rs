//! Peers that follow quic-interop-runner's contract: Trunkline's own endpoint, and what has an adapter in interop/peers.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Abilities, Job, Peer, Role, brought, built, first_line, source, version_in};
use crate::Outcome;

/// What this is all about.
pub const OURS: &str = "trunkline";

const QUICHE: &str = "quiche";

/// Such a peer.
#[derive(Clone, Copy, Debug)]
pub struct Contract {
    name: &'static str,
    kind: Kind,
}

/// How it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It is built with this program.
    Ours,
    /// Two scripts, and a Python that its script brings.
    Python,
    /// A crate of its own, one program for both roles, that its script builds.
    Crate,
}

impl Contract {
    /// The whole chain as server, the origin's dialler as client.
    pub fn trunkline() -> Self {
        Self { name: OURS, kind: Kind::Ours }
    }

    /// Python's.
    pub fn aioquic() -> Self {
        Self { name: "aioquic", kind: Kind::Python }
    }

    /// Amazon's; it has no HTTP/3.
    pub fn s2n_quic() -> Self {
        Self { name: "s2n-quic", kind: Kind::Crate }
    }

    /// Cloudflare's.
    pub fn quiche() -> Self {
        Self { name: QUICHE, kind: Kind::Crate }
    }

    /// A file of its adapter.
    fn file(&self, name: &str) -> String {
        format!("interop/peers/{}/{name}", self.name)
    }

    /// What starts it, without its environment.
    pub fn program(&self, role: Role) -> Outcome<Command> {
        let client = role == Role::Client;
        let script = self.file("install.sh");
        Ok(match self.kind {
            Kind::Ours => Command::new(beside(if client { "interop-client" } else { "interop-endpoint" })?),
            Kind::Crate => Command::new(built(&script)?),
            Kind::Python => {
                let mut command = Command::new(brought(&script, &[])?);
                command.arg(source(&self.file(if client { "client.py" } else { "server.py" })));
                command
            }
        })
    }

    /// Which version of the crate its lock file names.
    fn locked(&self) -> Outcome<String> {
        let crates = fs::read_to_string(source(&self.file("Cargo.lock")))?;
        let name = format!("name = \"{}\"", self.name);
        let version = crates.lines().skip_while(|line| *line != name).nth(1);
        Ok(version.and_then(|line| line.split('"').nth(1)).ok_or("no version")?.to_owned())
    }
}

/// A program that was built with this one.
pub fn beside(name: &str) -> Outcome<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.exists() { Ok(path) } else { Err(format!("{} is not built", path.display()).into()) }
}

impl Peer for Contract {
    fn name(&self) -> &'static str {
        self.name
    }

    fn abilities(&self) -> Abilities {
        Abilities { roles: [true; 2], hq: true, contract: true }
    }

    fn version(&self) -> Outcome<String> {
        match self.kind {
            Kind::Ours => {
                beside("interop-endpoint")?;
                Ok(env!("CARGO_PKG_VERSION").to_owned())
            }
            Kind::Crate => {
                built(&self.file("install.sh"))?;
                self.locked()
            }
            Kind::Python => {
                let mut python = Command::new(brought(&self.file("install.sh"), &[])?);
                Ok(version_in(&first_line(python.args(["-c", "import aioquic; print(aioquic.__version__)"]))?))
            }
        }
    }

    fn commands(&self, job: &Job<'_>) -> Outcome<Vec<Command>> {
        // Where its client moves, it never sends again what was under way to the old address.
        let moves = matches!(job.case.name, "rebind-port" | "rebind-addr" | "connectionmigration");
        if self.name == QUICHE && job.role == Role::Server && moves {
            return Ok(Vec::new());
        }
        let mut command = self.program(job.role)?;
        command
            .env("ROLE", if job.role == Role::Client { "client" } else { "server" })
            .env("TESTCASE", job.asked())
            .env("SSLKEYLOGFILE", job.keys)
            .env("QLOGDIR", job.folder)
            .env("WWW", job.www)
            .env("DOWNLOADS", job.downloads)
            .env("CERTS", job.certs)
            .env("PORT", "443")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("REQUESTS", job.requests.join(" "));
        Ok(vec![command])
    }
}
