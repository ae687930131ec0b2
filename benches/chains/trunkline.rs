//! Ours at both ends.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::process::Process;
use super::{Chain, HOST, Stage};
use crate::Outcome;

/// Starts the edge, learns its addresses from its ready line, then the origin.
pub fn start(stage: &Stage) -> Outcome<Chain> {
    let edge = launch(stage, "edge", env!("CARGO_BIN_EXE_edge"), &edge_config(stage))?;
    let ready = edge.ready()?;
    let tunnel = address(&ready, "tunnel")?;
    let origin = launch(stage, "origin", env!("CARGO_BIN_EXE_origin"), &origin_config(stage, tunnel))?;
    origin.ready()?;
    Ok(Chain { address: address(&ready, "http3")?, processes: vec![edge, origin] })
}

fn launch(stage: &Stage, end: &str, program: &str, config: &str) -> Outcome<Process> {
    let file = stage.dir.join(format!("{end}.toml"));
    fs::write(&file, config)?;
    let mut command = Command::new(program);
    command.arg("run").arg("-c").arg(file);
    Process::start(&mut command, stage.cores.chain, &stage.dir.join(format!("{end}.log")))
}

/// The address under `key` of a ready line; the first one of a list.
fn address(ready: &Value, key: &str) -> Outcome<SocketAddr> {
    let value = ready.get(key).and_then(|value| value.get(0).unwrap_or(value).as_str());
    Ok(value.ok_or_else(|| format!("no {key} in the ready line {ready}"))?.parse()?)
}

fn edge_config(stage: &Stage) -> String {
    let file = |name: &str| quoted(&stage.certificates.path(name));
    format!(
        r#"
name = "pop-a"
listen = ["127.0.0.1:0"]
workers = 1
[tls]
cert = {}
key = {}
[tunnel]
listen = "127.0.0.1:0"
cert = {}
key = {}
ca = {}
[[service]]
name = "web"
hosts = ["{HOST}"]
[log]
access = false
"#,
        file("site.pem"),
        file("site.key"),
        file("pop-a.pem"),
        file("pop-a.key"),
        file("tunnel-ca.pem"),
    )
}

fn origin_config(stage: &Stage, tunnel: SocketAddr) -> String {
    let file = |name: &str| quoted(&stage.certificates.path(name));
    format!(
        r#"
name = "gw-1"
pops = ["{tunnel}"]
workers = 1
[tunnel]
cert = {}
key = {}
ca = {}
[[service]]
name = "web"
upstreams = ["http://{}"]
[log]
access = false
"#,
        file("gw-1.pem"),
        file("gw-1.key"),
        file("tunnel-ca.pem"),
        stage.upstream,
    )
}

fn quoted(path: &Path) -> String {
    Value::from(path.display().to_string()).to_string()
}
