//! What single cases ask for beyond files and a clean connection. Modelled on the checks of quic-interop-runner.

use std::collections::HashSet;

use super::super::quic::connection::{Opened, Sender};
use super::super::quic::trace::{Packet, Trace};
use super::super::quic::wire::{Frame, Kind};
use super::{Evidence, Verdict, require};

/// Says of a run whether it shows one thing.
pub type Check = fn(&Evidence<'_>) -> Verdict;

const PASSED: Verdict = Verdict::Passed(None);
/// TLS_CHACHA20_POLY1305_SHA256
const CHACHA20: u16 = 0x1303;

fn failed(reason: impl Into<String>) -> Verdict {
    Verdict::Failed(reason.into())
}

/// Goes on only if the packets can be opened.
fn with_keys(evidence: &Evidence<'_>, check: impl FnOnce() -> Verdict) -> Verdict {
    if evidence.keys { check() } else { Verdict::Unsupported("neither wrote its TLS secrets".to_owned()) }
}

fn by(trace: &Trace, from: Sender) -> impl Iterator<Item = &Packet> {
    trace.packets.iter().filter(move |packet| packet.from == from)
}

fn frames<'a>(packets: impl Iterator<Item = &'a Packet>) -> impl Iterator<Item = &'a Frame> {
    packets.filter_map(|packet| packet.opened.as_ref()).flat_map(|(_, opened)| &opened.frames)
}

/// No Retry where none was asked for.
pub fn no_retry(evidence: &Evidence<'_>) -> Verdict {
    require(evidence.client.of(Sender::Server, Kind::Retry).count() == 0, || "a Retry that nobody asked for".to_owned())
}

/// Retry, and its token came back in an Initial whose number goes on from before (RFC 9000 section 17.2.5.3).
pub fn retry(evidence: &Evidence<'_>) -> Verdict {
    let tokens: Vec<_> = evidence.client.of(Sender::Server, Kind::Retry).map(|packet| &packet.token).collect();
    if tokens.is_empty() {
        return failed("no Retry was sent");
    }
    let mut before = None;
    for packet in evidence.client.of(Sender::Client, Kind::Initial) {
        let Some((_, opened)) = &packet.opened else { continue };
        if packet.token.is_empty() {
            before = before.max(Some(opened.number));
        } else if before >= Some(opened.number) {
            return failed("the client began its packet numbers anew after the Retry");
        } else if tokens.contains(&&packet.token) {
            return PASSED;
        }
    }
    failed("no Initial has the token of the Retry")
}

/// A round trip so long that the client sends its hello again.
pub fn hello_is_repeated(evidence: &Evidence<'_>) -> Verdict {
    let first = |frame: &&Frame| matches!(frame, Frame::Crypto { offset: 0, .. });
    let hellos = frames(evidence.client.of(Sender::Client, Kind::Initial)).filter(first).count();
    require(hellos >= 2, || format!("{hellos} ClientHello, not at least 2"))
}

/// The client offers one suite alone.
pub fn only_chacha20(evidence: &Evidence<'_>) -> Verdict {
    let offered: Vec<_> = evidence.client.connections.iter().flat_map(|connection| &connection.offered).collect();
    require(!offered.is_empty() && offered.iter().all(|suite| **suite == CHACHA20), || {
        format!("suites offered: {offered:04x?}")
    })
}

/// The server lets the client open some streams, at most a thousand at first.
pub fn stream_limit(evidence: &Evidence<'_>) -> Verdict {
    with_keys(evidence, || match evidence.client.connections.first().and_then(|connection| connection.parameters) {
        Some(parameters) => {
            require(parameters.streams_bidi <= 1_000, || format!("{} streams announced", parameters.streams_bidi))
        }
        None => failed("the server's transport parameters were not seen"),
    })
}

/// The first handshake has a certificate, the second none.
pub fn resumption(evidence: &Evidence<'_>) -> Verdict {
    with_keys(evidence, || match evidence.client.connections.as_slice() {
        [first, second] if !first.certificate || second.certificate => {
            failed(format!("certificates: first {}, second {}", first.certificate, second.certificate))
        }
        [_, second] => {
            require(second.chosen.is_some_and(|(_, resumed)| resumed), || "the second did not resume".to_owned())
        }
        other => failed(format!("{} connections, not 2", other.len())),
    })
}

/// Requests go in 0-RTT packets, not after the handshake.
pub fn zero_rtt(evidence: &Evidence<'_>) -> Verdict {
    let early: usize = evidence.client.of(Sender::Client, Kind::ZeroRtt).map(|packet| packet.payload).sum();
    if early == 0 {
        return failed("no 0-RTT packet");
    }
    let requests = evidence.case.files.each * evidence.case.files.name;
    with_keys(evidence, || {
        let streams = frames(evidence.client.of(Sender::Client, Kind::OneRtt)).filter_map(|frame| match frame {
            Frame::Stream { length, .. } => Some(*length),
            _ => None,
        });
        let late: usize = streams.sum();
        require(late <= requests / 2, || format!("{late} bytes of requests in 1-RTT packets, {early} early"))
    })
}

/// Both used both key phases.
pub fn key_phases(evidence: &Evidence<'_>) -> Verdict {
    with_keys(evidence, || {
        let turned =
            |trace: &Trace, from| trace.of(from, Kind::OneRtt).filter_map(opened).filter(|opened| opened.phase).count();
        let (client, server) = (turned(&evidence.client, Sender::Client), turned(&evidence.server, Sender::Server));
        require(client > 0 && server > 0, || {
            format!("packets in the second key phase: client {client}, server {server}")
        })
    })
}

fn opened(packet: &Packet) -> Option<&Opened> {
    packet.opened.as_ref().map(|(_, opened)| opened)
}

/// Both mark their packets, none arrives as congested, and both report the marks they saw (RFC 9000 section 13.4).
pub fn ecn(evidence: &Evidence<'_>) -> Verdict {
    let sides = [(&evidence.client, Sender::Client), (&evidence.server, Sender::Server)];
    for (trace, from) in sides {
        if !by(trace, from).any(|packet| packet.ecn == 1 || packet.ecn == 2) {
            return Verdict::Unsupported(format!("{from:?} marks nothing"));
        }
    }
    with_keys(evidence, || {
        for (trace, from) in sides {
            if by(trace, from).any(|packet| packet.ecn == 3) {
                return failed(format!("{from:?} sends CE"));
            }
            if !frames(by(trace, from)).any(|frame| *frame == Frame::Ack(true)) {
                return failed(format!("{from:?} reports no marks"));
            }
        }
        PASSED
    })
}

/// The server sends no more than three times what it got before the client's address is proven (RFC 9000 section 8.1).
/// As quic-interop-runner does, this fails at four times, and says when it was more than three.
pub fn amplification(evidence: &Evidence<'_>) -> Verdict {
    with_keys(evidence, || {
        let crypto = evidence.server.connections.first().map_or(0, |connection| connection.server_handshake);
        if crypto < 7_500 {
            return failed(format!("only {crypto} bytes of handshake: the long chain was not used"));
        }
        let (mut got, mut sent, mut datagram) = (0, 0, None);
        for packet in &evidence.server.packets {
            if packet.from == Sender::Client && packet.kind == Kind::Handshake {
                let worst = sent as f64 / f64::from(u32::try_from(got).unwrap_or(u32::MAX));
                return Verdict::Passed(Some(format!("x{worst:.2}")));
            }
            // The packets of one datagram say its size once.
            if datagram.replace(packet.datagram.0) == Some(packet.datagram.0) {
                continue;
            }
            match packet.from {
                Sender::Client => got += packet.datagram.1,
                Sender::Server => sent += packet.datagram.1,
            }
            if sent >= 4 * got {
                return failed(format!("{sent} bytes for {got} before the address was proven"));
            }
        }
        failed("no Handshake packet of the client")
    })
}

/// Nothing but IPv6.
pub fn only_ipv6(evidence: &Evidence<'_>) -> Verdict {
    let old = evidence.server.packets.iter().filter(|packet| packet.client.is_ipv4()).count();
    require(old == 0, || format!("{old} packets with IPv4"))
}

/// The server's way to the client changes; each new path begins with a challenge, and of those that came there to the open
/// connection one at least is answered, which proves it (RFC 9000 sections 8.2.3 and 9.3). Quinn answers the newest alone where
/// two come at once.
pub fn paths_are_validated(evidence: &Evidence<'_>) -> Verdict {
    with_keys(evidence, || {
        let paths = match later_paths(&evidence.server) {
            Ok(paths) if paths.is_empty() => return failed("the server saw a single path"),
            Ok(paths) => paths,
            Err(reason) => return failed(reason),
        };
        let came = challenges(open(&evidence.client).filter(|packet| packet.from == Sender::Server));
        let answers: HashSet<_> = frames(by(&evidence.client, Sender::Client))
            .filter_map(|frame| match frame {
                Frame::PathResponse(data) => Some(*data),
                _ => None,
            })
            .collect();
        let unproven = paths.iter().filter(|asked| {
            let mut came = asked.intersection(&came).peekable();
            came.peek().is_some() && !came.any(|challenge| answers.contains(challenge))
        });
        let unproven = unproven.count();
        require(unproven == 0 && !answers.is_empty(), || {
            format!("{unproven} of {} paths whose challenges have no answer", paths.len())
        })
    })
}

/// The data of a PATH_CHALLENGE.
type Challenge = [u8; 8];

/// The challenges on each path of the server but the first, or what the server sent before the first of them.
fn later_paths(server: &Trace) -> Result<Vec<HashSet<Challenge>>, String> {
    let (mut addresses, mut asked) = (Vec::new(), Vec::new());
    for packet in open(server).filter(|packet| packet.from == Sender::Server) {
        let (pair, challenges) = ((packet.client, packet.server), challenges(std::iter::once(packet)));
        let known = addresses.iter().position(|known| *known == pair);
        if known.is_none() && !addresses.is_empty() && challenges.is_empty() {
            return Err(format!("the first packet to {} is no challenge", packet.client));
        }
        let place = known.unwrap_or(addresses.len());
        if known.is_none() {
            addresses.push(pair);
            asked.push(HashSet::new());
        }
        if let Some(asked) = asked.get_mut(place) {
            asked.extend(challenges);
        }
    }
    Ok(asked.into_iter().skip(1).collect())
}

/// The packets until one of the two closes: then there is no path to be proven any more, and no answer is owed.
fn open(trace: &Trace) -> impl Iterator<Item = &Packet> {
    trace.packets.iter().take_while(|packet| !frames(std::iter::once(*packet)).any(is_close))
}

fn is_close(frame: &Frame) -> bool {
    matches!(frame, Frame::Close { .. })
}

fn challenges<'a>(packets: impl Iterator<Item = &'a Packet>) -> HashSet<Challenge> {
    frames(packets)
        .filter_map(|frame| match frame {
            Frame::PathChallenge(data) => Some(*data),
            _ => None,
        })
        .collect()
}

/// The client came from several addresses.
pub fn addresses_differ(evidence: &Evidence<'_>) -> Verdict {
    let addresses: HashSet<_> = evidence.server.packets.iter().map(|packet| packet.client.ip()).collect();
    require(addresses.len() > 1, || "the client kept its address".to_owned())
}

/// A client that moves uses another connection id on the new path (RFC 9000 section 9.5).
pub fn migration_uses_a_new_id(evidence: &Evidence<'_>) -> Verdict {
    let mut last: Option<&Packet> = None;
    for packet in evidence.client.of(Sender::Client, Kind::OneRtt).filter(|packet| packet.opened.is_some()) {
        if last.is_some_and(|last| {
            (last.client, last.server) != (packet.client, packet.server) && last.dcid == packet.dcid
        }) {
            return failed("the old connection id on the new path");
        }
        last = Some(packet);
    }
    PASSED
}

/// How fast it was: bits of the files per second between the first and last 1-RTT packet of the server.
pub fn goodput(evidence: &Evidence<'_>) -> Verdict {
    let times: Vec<_> = evidence.client.of(Sender::Server, Kind::OneRtt).map(|packet| packet.at).collect();
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return failed("nothing was sent") };
    let bits = 8 * evidence.case.files.sizes.iter().sum::<usize>();
    Verdict::Passed(Some(format!("{:.0} kbit/s", bits as f64 / 1_000.0 / last.saturating_sub(*first).as_secs_f64())))
}
