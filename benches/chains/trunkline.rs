//! Ours at both ends.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::process::Process;
use super::site::Site;
use super::{Chain, HOST, Stage};
use crate::Outcome;

/// The folder with the programs to measure: those of this build, unless others are named.
pub fn measured() -> PathBuf {
    let built = || Path::new(env!("CARGO_BIN_EXE_edge")).with_file_name("");
    std::env::var_os("BENCH_PROGRAMS").map_or_else(built, PathBuf::from)
}

/// The folder with the programs of another build.
pub fn baseline() -> Outcome<PathBuf> {
    let folder =
        std::env::var("BENCH_BASELINE").map_err(|_| "BENCH_BASELINE must name a folder with edge and origin")?;
    Ok(PathBuf::from(folder))
}

/// Starts the edge of `programs`, learns its addresses from its ready line, then the origin.
pub fn start(stage: &Stage, programs: &Path) -> Outcome<Chain> {
    let edge = launch(stage, ("edge", &stage.sites.edge), &programs.join("edge"), &edge_config(stage))?;
    let ready = edge.ready()?;
    let tunnel = address(&ready, "tunnel")?;
    let origin =
        launch(stage, ("origin", &stage.sites.origin), &programs.join("origin"), &origin_config(stage, tunnel))?;
    origin.ready()?;
    Ok(Chain { address: address(&ready, "http3")?, processes: vec![edge, origin] })
}

fn launch(stage: &Stage, (end, site): (&str, &Site), program: &Path, config: &str) -> Outcome<Process> {
    let file = stage.dir.join(format!("{end}.toml"));
    fs::write(&file, config)?;
    let mut command = Command::new(program);
    command.arg("run").arg("-c").arg(file);
    stage.start(&mut command, site, end)
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
listen = ["{ip}:0"]
workers = 1
[tls]
cert = {}
key = {}
[tunnel]
listen = "{ip}:0"
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
        ip = stage.sites.edge.ip,
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
[service.limits]
connections_max = 2_000
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
