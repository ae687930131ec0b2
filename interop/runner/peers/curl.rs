//! curl as a client: Debian's, with its own HTTP/3 stack below (ngtcp2 and nghttp3).

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Abilities, Job, Peer, Role, brought, first_line};
use crate::Outcome;

/// curl.
#[derive(Clone, Copy, Debug)]
pub struct Curl;

fn program() -> Outcome<PathBuf> {
    brought("tests/tools/curl.sh", &[])
}

impl Peer for Curl {
    fn name(&self) -> &'static str {
        "curl"
    }

    fn abilities(&self) -> Abilities {
        Abilities { roles: [true, false], hq: false, contract: false }
    }

    fn version(&self) -> Outcome<String> {
        let line = first_line(Command::new(program()?).arg("--version"))?;
        let quic = line.split(' ').find(|word| word.starts_with("ngtcp2") || word.starts_with("quiche"));
        Ok(format!("{} {}", line.split(' ').nth(1).unwrap_or("?"), quic.unwrap_or_default()).trim().to_owned())
    }

    fn commands(&self, job: &Job<'_>) -> Outcome<Vec<Command>> {
        // Its hello takes two datagrams: where all but the first are lost for seconds it comes to the end of its patience.
        if job.role == Role::Server
            || matches!(job.case.name, "resumption" | "zerortt" | "keyupdate" | "amplificationlimit")
        {
            return Ok(Vec::new());
        }
        let curl = program()?;
        let each_alone = job.case.asked[0] == "multiconnect";
        let groups: Vec<&[String]> = if each_alone { job.requests.chunks(1).collect() } else { vec![job.requests] };
        let mut script = String::from("set -e\n");
        for (number, group) in groups.iter().enumerate() {
            let settings = job.folder.join(format!("{number}.conf"));
            fs::write(&settings, configuration(job, group))?;
            script += &format!("{} --config {}\n", curl.display(), settings.display());
        }
        let file = job.folder.join("run.sh");
        fs::write(&file, script)?;
        let mut command = Command::new("sh");
        command.arg(file).env("SSLKEYLOGFILE", job.keys).env("HOME", job.folder);
        Ok(vec![command])
    }
}

fn configuration(job: &Job<'_>, urls: &[String]) -> String {
    let mut text = format!(
        "http3-only\nsilent\nshow-error\nfail\nparallel\nparallel-max = 50\nmax-time = {}\ncacert = \"{}\"\n",
        job.case.deadline.as_secs(),
        job.cert("ca.pem")
    );
    if job.case.name == "chacha20" {
        text += "tls13-ciphers = \"TLS_CHACHA20_POLY1305_SHA256\"\n";
    }
    for url in urls {
        let name = url.rsplit('/').next().unwrap_or_default();
        text += &format!("url = \"{url}\"\noutput = \"{}\"\n", job.downloads.join(name).display());
    }
    text
}
