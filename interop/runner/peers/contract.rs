//! Peers that follow quic-interop-runner's contract: Trunkline's own endpoint, and aioquic with the adapter of
//! interop/peers/aioquic.

use std::path::PathBuf;
use std::process::Command;

use super::{Abilities, Job, Peer, Role, brought, first_line, source, version_in};
use crate::Outcome;

/// What this is all about.
pub const OURS: &str = "trunkline";

/// Such a peer.
#[derive(Clone, Copy, Debug)]
pub struct Contract {
    name: &'static str,
}

impl Contract {
    /// The whole chain as server, the origin's dialler as client.
    pub fn trunkline() -> Self {
        Self { name: OURS }
    }

    /// Python's.
    pub fn aioquic() -> Self {
        Self { name: "aioquic" }
    }

    /// What starts it, without its environment.
    pub fn program(&self, role: Role) -> Outcome<Command> {
        if self.name == OURS {
            return Ok(Command::new(beside(if role == Role::Client { "interop-client" } else { "interop-endpoint" })?));
        }
        let mut command = Command::new(brought("interop/peers/aioquic/install.sh", &[])?);
        command.arg(source(if role == Role::Client {
            "interop/peers/aioquic/client.py"
        } else {
            "interop/peers/aioquic/server.py"
        }));
        Ok(command)
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
        if self.name == OURS {
            beside("interop-endpoint")?;
            return Ok(env!("CARGO_PKG_VERSION").to_owned());
        }
        let python = brought("interop/peers/aioquic/install.sh", &[])?;
        Ok(version_in(&first_line(Command::new(python).args(["-c", "import aioquic; print(aioquic.__version__)"]))?))
    }

    fn commands(&self, job: &Job<'_>) -> Outcome<Vec<Command>> {
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
