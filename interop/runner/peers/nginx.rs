//! nginx as a server: HTTP/0.9 by its `http3_hq`, and HTTP/3.

use std::fs;
use std::process::Command;

use super::{Abilities, Job, Peer, Role, debian, first_line, version_in};
use crate::Outcome;

/// nginx.
#[derive(Clone, Copy, Debug)]
pub struct Nginx;

impl Peer for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn abilities(&self) -> Abilities {
        Abilities { roles: [false, true], hq: true, contract: false }
    }

    fn version(&self) -> Outcome<String> {
        Ok(version_in(&first_line(Command::new(debian("nginx")?).arg("-v"))?))
    }

    fn commands(&self, job: &Job<'_>) -> Outcome<Vec<Command>> {
        // It follows one rebind, and no second one before it has given up the old path, which takes it longer than five
        // seconds.
        if job.role == Role::Client
            || matches!(job.case.name, "connectionmigration" | "v2" | "rebind-port" | "rebind-addr")
        {
            return Ok(Vec::new());
        }
        let file = job.folder.join("nginx.conf");
        fs::write(&file, configuration(job))?;
        let mut command = Command::new(debian("nginx")?);
        command.args(["-e", "stderr", "-p"]).arg(job.folder).arg("-c").arg(file);
        Ok(vec![command])
    }
}

fn configuration(job: &Job<'_>) -> String {
    let mut options = String::new();
    let mut option = |wanted: bool, text: &str| options += if wanted { text } else { "" };
    option(!job.http3, "http3_hq on;\n");
    option(job.case.name == "retry", "quic_retry on;\n");
    option(job.case.name == "zerortt", "ssl_early_data on;\n");
    option(job.case.name == "chacha20", "ssl_conf_command Ciphersuites TLS_CHACHA20_POLY1305_SHA256;\n");
    let folder = job.folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .concat();
    format!(
        "daemon off; master_process off; pid {folder}/pid; error_log stderr notice;
events {{ worker_connections 1024; }}
http {{
access_log off; large_client_header_buffers 4 16k; {temporary}
server {{
listen 443 quic; listen [::]:443 quic;
http3 on; ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {}; keepalive_requests 100000;
{options}root {};
}}
}}
",
        job.cert("cert.pem"),
        job.cert("priv.key"),
        job.www.display(),
    )
}
