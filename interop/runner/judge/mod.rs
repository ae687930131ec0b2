//! The judge: says of a run whether it shows what its case is about, from the files that arrived and from what passed the
//! client's and the server's end of the link.
//!
//! Called by the matrix when all programs have ended. Believes nothing that a program says of itself but its exit code.

pub mod checks;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::Outcome;
use super::case::Case;
use super::quic::connection::Sender;
use super::quic::keylog::KeyLog;
use super::quic::trace::Trace;
use super::quic::wire::{Frame, Kind};

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// As it must; with what was measured, if anything.
    Passed(Option<String>),
    /// One of the two does not do this.
    Unsupported(String),
    /// It did not run, for a reason that is not the programs'.
    Skipped(String),
    /// Not as it must.
    Failed(String),
}

/// What is judged.
pub struct Evidence<'a> {
    /// The case.
    pub case: &'a Case,
    /// What passed the client's end.
    pub client: Trace,
    /// What passed the server's end.
    pub server: Trace,
    /// Whether any of the two wrote its TLS secrets.
    pub keys: bool,
}

/// Port of QUIC in every case.
const PORT: u16 = 443;

/// Where a run left what it leaves.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// What the server serves.
    pub www: &'a Path,
    /// What the client has stored.
    pub downloads: &'a Path,
    /// Logs of TLS secrets.
    pub keys: [&'a Path; 2],
    /// Captures at the client's and the server's end.
    pub captures: [&'a Path; 2],
}

/// Judges a run whose client ended with success.
pub fn judge(case: &Case, places: Places<'_>) -> Verdict {
    match examine(case, places) {
        Ok(verdict) => verdict,
        Err(error) => Verdict::Failed(format!("could not be judged: {error}")),
    }
}

fn examine(case: &Case, places: Places<'_>) -> Outcome<Verdict> {
    if let Err(reason) = same_files(places.www, places.downloads)? {
        return Ok(Verdict::Failed(reason));
    }
    let log = KeyLog::read(places.keys);
    let [client, server] = places.captures;
    let (client, server) = (Trace::read(client, PORT, &log)?, Trace::read(server, PORT, &log)?);
    Ok(weigh(&Evidence { case, client, server, keys: !log.is_empty() }))
}

/// Everything that can be seen from packets.
pub fn weigh(evidence: &Evidence<'_>) -> Verdict {
    let mut measured = None;
    let all = [handshakes, version, ends].iter().chain(evidence.case.checks);
    for check in all {
        match check(evidence) {
            Verdict::Passed(note) => measured = note.or(measured),
            other => return other,
        }
    }
    Verdict::Passed(measured)
}

/// Every file arrived, byte for byte, and none that was not asked for.
fn same_files(www: &Path, downloads: &Path) -> Outcome<Result<(), String>> {
    let names = |folder: &Path| -> Outcome<HashSet<_>> {
        Ok(fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_, std::io::Error>>()?)
    };
    let (sent, got) = (names(www)?, names(downloads)?);
    if let Some(extra) = got.difference(&sent).next() {
        return Ok(Err(format!("{} was not asked for", extra.display())));
    }
    let missing = sent.difference(&got).count();
    if missing > 0 {
        return Ok(Err(format!("{missing} of {} files did not arrive", sent.len())));
    }
    for name in sent {
        if fs::read(www.join(&name))? != fs::read(downloads.join(&name))? {
            return Ok(Err(format!("{} arrived changed", name.display())));
        }
    }
    Ok(Ok(()))
}

/// As many handshakes as the case has: connection ids that the server chose in Initial packets.
fn handshakes(evidence: &Evidence<'_>) -> Verdict {
    let initials = evidence.server.of(Sender::Server, Kind::Initial).filter(|packet| packet.opened.is_some());
    let seen = initials.map(|packet| &packet.scid).collect::<HashSet<_>>().len();
    require(seen == evidence.case.handshakes, || format!("{seen} handshakes, not {}", evidence.case.handshakes))
}

/// QUIC version 1 was spoken at once.
fn version(evidence: &Evidence<'_>) -> Verdict {
    let negotiated = evidence.client.of(Sender::Server, Kind::VersionNegotiation).count();
    // A corrupted version is rightly answered with that.
    require(negotiated == 0 || evidence.case.corrupts(), || format!("{negotiated} Version Negotiation packets"))
}

/// Stands for whatever the application said, when it ended a connection before its handshake (RFC 9000 section 10.2.3).
const APPLICATION_ERROR: u64 = 0x0c;

/// Nobody closed a connection with an error of QUIC. Codes of the application are its own affair: h3 has 0x100 for none.
fn ends(evidence: &Evidence<'_>) -> Verdict {
    let packets =
        evidence.client.packets.iter().filter_map(|packet| Some((packet.from, &packet.opened.as_ref()?.1.frames)));
    let mut closes = packets.flat_map(|(from, frames)| frames.iter().map(move |frame| (from, frame)));
    let bad = closes.find_map(|(from, frame)| match frame {
        Frame::Close { code, application: false } if *code != 0 && *code != APPLICATION_ERROR => Some((from, *code)),
        _ => None,
    });
    match bad {
        Some((from, code)) => Verdict::Failed(format!("{from:?} closed with error 0x{code:x}")),
        None => Verdict::Passed(None),
    }
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds { Verdict::Passed(None) } else { Verdict::Failed(otherwise()) }
}
