//! Envoy at both ends.

use std::process::Command;

use super::process::Process;
use super::site::Site;
use super::template::fill;
use super::{Chain, Contestant, Stage};
use crate::Outcome;

/// Starts both ends, HTTP/2 between them.
pub fn start(stage: &Stage) -> Outcome<Chain> {
    let (address, link) = (stage.sites.edge.free_address()?, stage.sites.origin.free_address()?);
    let values = stage.values(address, link);
    let edge = launch(stage, ("edge", &stage.sites.edge), &values)?;
    let origin = launch(stage, ("origin", &stage.sites.origin), &values)?;
    Ok(Chain { address, processes: vec![edge, origin] })
}

fn launch(stage: &Stage, (end, site): (&str, &Site), values: &[(&str, String)]) -> Outcome<Process> {
    let config = stage.dir.join(format!("{end}.yaml"));
    fill(&format!("envoy/{end}.yaml"), values, &config)?;
    let mut command = Command::new(Contestant::EnvoyHttp2.programs()?.join("envoy"));
    command.args(["--concurrency", "1", "--log-level", "warn", "--disable-hot-restart", "--config-path"]).arg(config);
    stage.start(&mut command, site, end)
}
