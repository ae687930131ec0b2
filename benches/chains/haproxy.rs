//! HAProxy at both ends, or at the edge alone.

use std::process::Command;

use super::process::Process;
use super::template::{fill, text};
use super::tools::free_address;
use super::{Chain, Contestant, Stage};
use crate::Outcome;

/// Who dials the connections between edge and origin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    /// The origin; the edge sends requests back on them (reverse HTTP).
    Reverse,
    /// The edge, as between ordinary proxies.
    Dialled,
    /// Nobody: the edge speaks to the upstream.
    None,
}

/// Starts the ends with buffers of `buffer` bytes.
pub fn start(stage: &Stage, tunnel: Tunnel, buffer: usize) -> Outcome<Chain> {
    let (address, link) = (free_address()?, free_address()?);
    let path = |name: &str| text(stage.certificates.path(name));
    let values = [
        ("ADDRESS", address.to_string()),
        ("TUNNEL", link.to_string()),
        ("UPSTREAM", stage.upstream.to_string()),
        ("BUFFER", buffer.to_string()),
        ("SITE", path("site.both.pem")),
        ("POP", path("pop-a.both.pem")),
        ("GATEWAY", path("gw-1.both.pem")),
        ("TUNNEL_CA", path("tunnel-ca.pem")),
    ];
    let folder = match tunnel {
        Tunnel::Reverse => "haproxy",
        Tunnel::Dialled => "haproxy-h2",
        Tunnel::None => "haproxy-1hop",
    };
    let ends: &[&str] = if tunnel == Tunnel::None { &["edge"] } else { &["edge", "origin"] };
    let processes = ends.iter().map(|end| launch(stage, folder, end, &values)).collect::<Outcome<_>>()?;
    Ok(Chain { address, processes })
}

fn launch(stage: &Stage, folder: &str, end: &str, values: &[(&str, String)]) -> Outcome<Process> {
    let config = stage.dir.join(format!("{end}.cfg"));
    fill(&format!("{folder}/{end}.cfg"), values, &config)?;
    let mut command = Command::new(Contestant::HaproxyReverse.programs()?.join("haproxy"));
    command.arg("-db").arg("-f").arg(config);
    Process::start(&mut command, stage.cores.chain, &stage.dir.join(format!("{end}.log")))
}
