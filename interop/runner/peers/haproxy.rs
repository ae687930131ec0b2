//! HAProxy as a server: HTTP/3, before the built-in upstream, since it has no files of its own.

use std::fs;
use std::process::Command;

use super::{Abilities, Job, Peer, Role, beside, debian, first_line};
use crate::Outcome;

/// HAProxy.
#[derive(Clone, Copy, Debug)]
pub struct HaProxy;

/// Where the files come from.
const FILES: &str = "127.0.0.1:8080";

impl Peer for HaProxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn abilities(&self) -> Abilities {
        Abilities { roles: [false, true], hq: false, contract: false }
    }

    fn version(&self) -> Outcome<String> {
        let line = first_line(Command::new(debian("haproxy")?).arg("-v"))?;
        Ok(line.split(' ').nth(2).unwrap_or(&line).to_owned())
    }

    fn commands(&self, job: &Job<'_>) -> Outcome<Vec<Command>> {
        // It goes on sending to where the client was.
        if job.role == Role::Client
            || matches!(job.case.name, "connectionmigration" | "v2" | "rebind-port" | "rebind-addr")
        {
            return Ok(Vec::new());
        }
        // It wants the key beside the certificates, in one file.
        let pair = job.folder.join("site.pem");
        fs::write(&pair, [fs::read(job.cert("cert.pem"))?, fs::read(job.cert("priv.key"))?].concat())?;
        let file = job.folder.join("haproxy.cfg");
        fs::write(&file, configuration(job, &pair.display().to_string()))?;
        let mut files = Command::new(beside("edge")?);
        files.args(["upstream", "--listen", FILES, "--root"]).arg(job.www);
        let mut command = Command::new(debian("haproxy")?);
        command.arg("-db").arg("-f").arg(file);
        Ok(vec![files, command])
    }
}

fn configuration(job: &Job<'_>, pair: &str) -> String {
    let retry = if job.case.name == "retry" { " quic-force-retry" } else { "" };
    let suites = if job.case.name == "chacha20" {
        "TLS_CHACHA20_POLY1305_SHA256"
    } else {
        "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
    };
    format!(
        "global
    nbthread 1
    maxconn 1000
    ssl-default-bind-ciphersuites {suites}
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind quic4@:443 ssl crt {pair} alpn h3{retry}
    bind quic6@:443 ssl crt {pair} alpn h3{retry}
    default_backend files
backend files
    server files {FILES}
"
    )
}
