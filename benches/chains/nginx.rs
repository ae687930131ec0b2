//! nginx at both ends.

use std::fs;
use std::process::Command;

use super::process::Process;
use super::site::Site;
use super::template::fill;
use super::{Chain, Contestant, Stage};
use crate::Outcome;

/// Starts both ends; `version` is the HTTP version between them, "1.1" or "2".
pub fn start(stage: &Stage, version: &str) -> Outcome<Chain> {
    let (address, link) = (stage.sites.edge.free_address()?, stage.sites.origin.free_address()?);
    let mut values = stage.values(address, link);
    values.push(("VERSION", version.to_owned()));
    let edge = launch(stage, ("edge", &stage.sites.edge), &values)?;
    let origin = launch(stage, ("origin", &stage.sites.origin), &values)?;
    Ok(Chain { address, processes: vec![edge, origin] })
}

fn launch(stage: &Stage, (end, site): (&str, &Site), values: &[(&str, String)]) -> Outcome<Process> {
    fs::create_dir_all(stage.dir.join(end))?;
    let config = stage.dir.join(format!("{end}.conf"));
    fill(&format!("nginx/{end}.conf"), values, &config)?;
    let mut command = Command::new(Contestant::NginxHttp1.programs()?.join("nginx"));
    command.arg("-p").arg(stage.dir.join(end)).arg("-e").arg("stderr").arg("-c").arg(config);
    stage.start(&mut command, site, end)
}
