//! Caddy as a server: HTTP/3 with quic-go below.

use std::fs;
use std::process::Command;

use super::{Abilities, Job, Peer, Role, debian, first_line, version_in};
use crate::Outcome;

/// Caddy.
#[derive(Clone, Copy, Debug)]
pub struct Caddy;

impl Peer for Caddy {
    fn name(&self) -> &'static str {
        "caddy"
    }

    fn abilities(&self) -> Abilities {
        Abilities { roles: [false, true], hq: false, contract: false }
    }

    fn version(&self) -> Outcome<String> {
        Ok(version_in(&first_line(Command::new(debian("caddy")?).arg("version"))?))
    }

    fn commands(&self, job: &Job<'_>) -> Outcome<Vec<Command>> {
        if job.role == Role::Client || matches!(job.case.name, "retry" | "chacha20" | "connectionmigration" | "v2") {
            return Ok(Vec::new());
        }
        let file = job.folder.join("Caddyfile");
        let (cert, key, www) = (job.cert("cert.pem"), job.cert("priv.key"), job.www.display());
        let text = format!(
            "{{\nadmin off\nauto_https off\npersist_config off\nskip_install_trust\n}}\n:443 {{\ntls {cert} {key}\nroot * {www}\nfile_server\n}}\n"
        );
        fs::write(&file, text)?;
        let mut command = Command::new(debian("caddy")?);
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
        command.env("HOME", job.folder).env("XDG_DATA_HOME", job.folder).env("XDG_CONFIG_HOME", job.folder);
        Ok(vec![command])
    }
}
