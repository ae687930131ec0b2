//! ngtcp2's own example programs, client and server, with GnuTLS and nghttp3 below; from Debian trixie, which has them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Abilities, Job, Peer, Role, brought};
use crate::Outcome;

/// ngtcp2.
#[derive(Clone, Copy, Debug)]
pub struct Ngtcp2;

/// GnuTLS's name of the one suite.
const CHACHA20: &str = "--ciphers=NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305";

/// The folder with the programs of a package.
fn programs(package: &str) -> Outcome<PathBuf> {
    brought("tests/tools/debian.sh", &["--suite", "trixie", package])
}

impl Peer for Ngtcp2 {
    fn name(&self) -> &'static str {
        "ngtcp2"
    }

    fn abilities(&self) -> Abilities {
        Abilities { roles: [true; 2], hq: false, contract: false }
    }

    fn version(&self) -> Outcome<String> {
        programs("ngtcp2-client")?;
        // The programs do not say it; the file of the package does: NAME_VERSION_ARCHITECTURE.deb.
        let packages = fs::read_to_string(programs("ngtcp2-server")?.with_file_name("packages"))?;
        let version = packages.lines().find_map(|line| line.strip_prefix("ngtcp2-server_")?.split('_').next());
        Ok(version.ok_or("no version")?.to_owned())
    }

    fn commands(&self, job: &Job<'_>) -> Outcome<Vec<Command>> {
        if matches!(job.case.name, "zerortt" | "v2") {
            return Ok(Vec::new());
        }
        Ok(vec![if job.role == Role::Client { client(job)? } else { server(job)? }])
    }
}

fn server(job: &Job<'_>) -> Outcome<Command> {
    let mut command = Command::new(programs("ngtcp2-server")?.join("gtlsserver"));
    command.arg("--quiet").arg("--mime-types-file=/dev/null").arg("--htdocs").arg(job.www);
    match job.case.name {
        "retry" => drop(command.arg("--validate-addr")),
        "chacha20" => drop(command.arg(CHACHA20)),
        _ => {}
    }
    command.args(["*", "443"]).arg(job.cert("priv.key")).arg(job.cert("cert.pem"));
    command.env("SSLKEYLOGFILE", job.keys);
    Ok(command)
}

/// One run of the program for each connection, one after the other.
fn client(job: &Job<'_>) -> Outcome<Command> {
    let program = programs("ngtcp2-client")?.join("gtlsclient");
    let (first, rest) = job.requests.split_at(1);
    let groups: Vec<&[String]> = match job.case.name {
        "resumption" => vec![first, rest],
        _ if job.case.asked[0] == "multiconnect" => job.requests.chunks(1).collect(),
        _ => vec![job.requests],
    };
    let options = match job.case.name {
        "chacha20" => CHACHA20.to_owned(),
        // It refuses to earlier than three probe timeouts after the handshake was confirmed.
        "keyupdate" => "--key-update=1s".to_owned(),
        "resumption" => {
            let folder = job.folder.display();
            format!(
                "--session-file={folder}/session --tp-file={folder}/parameters --wait-for-ticket --disable-early-data"
            )
        }
        _ => String::new(),
    };
    let mut script = String::from("set -e\n");
    for group in groups {
        script += &format!(
            "{} --quiet --exit-on-all-streams-close --download={} {options} {} 443 {}\n",
            program.display(),
            job.downloads.display(),
            job.case.host,
            group.join(" "),
        );
    }
    let file = job.folder.join("run.sh");
    fs::write(&file, script)?;
    let mut command = Command::new("sh");
    command.arg(file).env("SSLKEYLOGFILE", job.keys);
    Ok(command)
}
