//! Peers that follow quic-interop-runner's contract: Trunkline's own endpoint, aioquic with the adapter of
//! interop/peers/aioquic, and s2n-quic with that of interop/peers/s2n-quic.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Abilities, Job, Peer, Role, brought, built, first_line, source, version_in};
use crate::Outcome;

/// What this is all about.
pub const OURS: &str = "trunkline";

const S2N_QUIC: &str = "s2n-quic";
const S2N_QUIC_SCRIPT: &str = "interop/peers/s2n-quic/install.sh";

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

    /// Amazon's, with the adapter of interop/peers/s2n-quic; it has no HTTP/3.
    pub fn s2n_quic() -> Self {
        Self { name: S2N_QUIC }
    }

    /// What starts it, without its environment.
    pub fn program(&self, role: Role) -> Outcome<Command> {
        if self.name == OURS {
            return Ok(Command::new(beside(if role == Role::Client { "interop-client" } else { "interop-endpoint" })?));
        }
        if self.name == S2N_QUIC {
            return Ok(Command::new(built(S2N_QUIC_SCRIPT)?));
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
        if self.name == S2N_QUIC {
            built(S2N_QUIC_SCRIPT)?;
            let crates = fs::read_to_string(source("interop/peers/s2n-quic/Cargo.lock"))?;
            let mut lines = crates.lines().skip_while(|line| *line != "name = \"s2n-quic\"");
            return Ok(lines.nth(1).and_then(|line| line.split('"').nth(1)).ok_or("no version")?.to_owned());
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
