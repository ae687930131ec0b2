//! nginx at both ends.

use std::fs;
use std::process::Command;

use super::process::Process;
use super::template::{fill, text};
use super::tools::free_address;
use super::{Chain, Contestant, Stage};
use crate::Outcome;

/// Starts both ends; `version` is the HTTP version between them, "1.1" or "2".
pub fn start(stage: &Stage, version: &str) -> Outcome<Chain> {
    let (address, link) = (free_address()?, free_address()?);
    let path = |name: &str| text(stage.certificates.path(name));
    let values = [
        ("ADDRESS", address.to_string()),
        ("TUNNEL", link.to_string()),
        ("UPSTREAM", stage.upstream.to_string()),
        ("VERSION", version.to_owned()),
        ("DIR", text(stage.dir.clone())),
        ("SITE", path("site")),
        ("POP", path("pop-a")),
        ("GATEWAY", path("gw-1")),
        ("TUNNEL_CA", path("tunnel-ca.pem")),
    ];
    let edge = launch(stage, "edge", &values)?;
    let origin = launch(stage, "origin", &values)?;
    Ok(Chain { address, processes: vec![edge, origin] })
}

fn launch(stage: &Stage, end: &str, values: &[(&str, String)]) -> Outcome<Process> {
    fs::create_dir_all(stage.dir.join(end))?;
    let config = stage.dir.join(format!("{end}.conf"));
    fill(&format!("nginx/{end}.conf"), values, &config)?;
    let mut command = Command::new(Contestant::NginxHttp1.programs()?.join("nginx"));
    command.arg("-p").arg(stage.dir.join(end)).arg("-e").arg("stderr").arg("-c").arg(config);
    Process::start(&mut command, stage.cores.chain, &stage.dir.join(format!("{end}.log")))
}
