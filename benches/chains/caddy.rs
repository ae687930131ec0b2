//! Caddy at both ends.

use std::process::Command;

use super::process::Process;
use super::site::Site;
use super::template::fill;
use super::{Chain, Contestant, Stage};
use crate::Outcome;

/// Starts both ends; `version` is the HTTP version between them, "2" or "3".
pub fn start(stage: &Stage, version: &str) -> Outcome<Chain> {
    let (address, link) = (stage.sites.edge.free_address()?, stage.sites.origin.free_address()?);
    let mut values = stage.values(address, link);
    values.push(("VERSION", version.to_owned()));
    // The edge dials at its start where it shall speak HTTP/3.
    let origin = launch(stage, ("origin", &stage.sites.origin), &values)?;
    let edge = launch(stage, ("edge", &stage.sites.edge), &values)?;
    Ok(Chain { address, processes: vec![edge, origin] })
}

fn launch(stage: &Stage, (end, site): (&str, &Site), values: &[(&str, String)]) -> Outcome<Process> {
    let config = stage.dir.join(format!("{end}.caddyfile"));
    fill(&format!("caddy/{end}.caddyfile"), values, &config)?;
    let mut command = Command::new(Contestant::CaddyHttp3.programs()?.join("caddy"));
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config).env("GOMAXPROCS", "1");
    // Its HTTP/3 transport looks for roots here alone.
    command.env("SSL_CERT_FILE", stage.certificates.path("tunnel-ca.pem"));
    command.env("HOME", &stage.dir).env("XDG_DATA_HOME", &stage.dir).env("XDG_CONFIG_HOME", &stage.dir);
    stage.start(&mut command, site, end)
}
