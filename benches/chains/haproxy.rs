//! HAProxy at both ends, or at the edge alone.

use std::fs;
use std::process::Command;

use super::process::Process;
use super::site::Site;
use super::template::{fill, text};
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

/// What suits loopback, and what suits a link instead.
const ON_A_LINK: [(&str, &str); 2] =
    [("    tune.quic.disable-tx-pacing\n", ""), ("default-max-window-size 1m", "default-max-window-size 8m")];

/// Starts the ends with buffers of `buffer` bytes.
pub fn start(stage: &Stage, tunnel: Tunnel, buffer: usize) -> Outcome<Chain> {
    let listener = if tunnel == Tunnel::Dialled { &stage.sites.origin } else { &stage.sites.edge };
    let (address, link) = (stage.sites.edge.free_address()?, listener.free_address()?);
    let both = |name: &str| text(stage.certificates.path(&format!("{name}.both.pem")));
    // HAProxy has certificate and key in one file.
    let own =
        [("BUFFER", buffer.to_string()), ("SITE", both("site")), ("POP", both("pop-a")), ("GATEWAY", both("gw-1"))];
    let values: Vec<_> = own.into_iter().chain(stage.values(address, link)).collect();
    let folder = match tunnel {
        Tunnel::Reverse => "haproxy",
        Tunnel::Dialled => "haproxy-h2",
        Tunnel::None => "haproxy-1hop",
    };
    let mut processes = vec![launch(stage, folder, ("edge", &stage.sites.edge), &values)?];
    if tunnel != Tunnel::None {
        processes.push(launch(stage, folder, ("origin", &stage.sites.origin), &values)?);
    }
    Ok(Chain { address, processes })
}

fn launch(stage: &Stage, folder: &str, (end, site): (&str, &Site), values: &[(&str, String)]) -> Outcome<Process> {
    let config = stage.dir.join(format!("{end}.cfg"));
    fill(&format!("{folder}/{end}.cfg"), values, &config)?;
    if stage.sites.linked {
        let text = fs::read_to_string(&config)?;
        fs::write(&config, ON_A_LINK.iter().fold(text, |text, (from, to)| text.replace(from, to)))?;
    }
    let mut command = Command::new(Contestant::HaproxyReverse.programs()?.join("haproxy"));
    command.arg("-db").arg("-f").arg(config);
    stage.start(&mut command, site, end)
}
