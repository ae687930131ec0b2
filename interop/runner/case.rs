//! The cases: what is asked for, over what kind of link, and what must be seen.
//!
//! Called by the matrix. Names, links and expectations are those of quic-interop-runner, so that a column here reads like
//! one there.

use std::time::Duration;

use super::judge::checks::{self, Check};
use super::net::faults::{Luck, Plan};
use super::net::hub::{Direction, End};
use super::net::nat::Rebind;
use super::net::shaping::Shape;

/// The end of the client.
pub const CLIENT: End = 0;
/// The end of the server.
pub const SERVER: End = 1;

/// Files to download: how many, how large, and how long their names are.
#[derive(Clone, Copy, Debug)]
pub struct Files {
    /// Bytes of each.
    pub sizes: &'static [usize],
    /// How many of each size.
    pub each: usize,
    /// Letters of a name.
    pub name: usize,
}

/// What happens on the link while a case runs. Times count from when the transfer is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Light for the first time, then dark for the second, and so on.
    Dark(Duration, Duration),
    /// The NAT before the client forgets after the first time, and then each time the second is over.
    Rebind(Rebind, Duration, Duration),
    /// A TCP connection sends as fast as it can beside the transfer.
    CrossTraffic,
}

/// What the programs are told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anything that downloads over one connection will do, with either protocol.
    Plain,
    /// The server has to know, the client downloads.
    ByServer,
    /// The client has to know.
    ByClient,
    /// Nothing but refusing is right.
    Refused,
}

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// As in quic-interop-runner.
    pub name: &'static str,
    /// TESTCASE of client and server.
    pub asked: [&'static str; 2],
    /// What the programs are told.
    pub kind: Kind,
    /// What is downloaded.
    pub files: Files,
    /// Of the link, one way.
    pub delay: Duration,
    /// Faults of each direction.
    pub luck: [Luck; 2],
    /// UDP packets towards the server that are lost.
    pub drops: &'static [u64],
    /// What happens meanwhile.
    pub event: Option<Event>,
    /// Addresses: the host part of URLs.
    pub host: &'static str,
    /// Certificates in the server's chain, its own among them.
    pub chain: usize,
    /// Handshakes that must be seen.
    pub handshakes: usize,
    /// How long the client may take.
    pub deadline: Duration,
    /// What else must be seen.
    pub checks: &'static [Check],
}

const KB: usize = 1 << 10;
const MB: usize = 1 << 20;
/// Bits per second of every link.
const RATE: u64 = 10_000_000;
/// Packets that wait before it.
const QUEUE: usize = 25;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn files(sizes: &'static [usize]) -> Files {
    Files { sizes, each: 1, name: 12 }
}

const NONE: Luck = Luck { percent: 0, burst_max: 0 };
const EXTREME: Luck = Luck { percent: 30, burst_max: 3 };
const MODERATE: Luck = Luck { percent: 2, burst_max: 3 };

/// A handshake and one small file; every case differs from it.
const BASE: Case = Case {
    name: "handshake",
    asked: ["handshake"; 2],
    kind: Kind::Plain,
    files: files(&[KB]),
    delay: ms(15),
    luck: [NONE; 2],
    drops: &[],
    event: None,
    host: "server4",
    chain: 1,
    handshakes: 1,
    // Whether it works, not how fast: machines stall.
    deadline: ms(180_000),
    checks: &[checks::no_retry],
};

const TRANSFER: Case = Case { asked: ["transfer"; 2], checks: &[], files: files(&[2 * MB, 3 * MB, 5 * MB]), ..BASE };
const REBIND: Case = Case { files: files(&[10 * MB]), checks: &[checks::paths_are_validated], ..TRANSFER };

/// All cases, in the order of the matrix.
pub const CASES: &[Case] = &[
    BASE,
    Case { name: "transfer", ..TRANSFER },
    Case { name: "longrtt", delay: ms(750), checks: &[checks::hello_is_repeated], ..BASE },
    Case {
        name: "chacha20",
        asked: ["chacha20"; 2],
        kind: Kind::ByClient,
        files: files(&[3 * MB]),
        checks: &[checks::only_chacha20],
        ..BASE
    },
    Case {
        name: "multiplexing",
        files: Files { sizes: &[32], each: 1_999, name: 12 },
        checks: &[checks::stream_limit],
        ..TRANSFER
    },
    Case {
        name: "retry",
        asked: ["retry"; 2],
        kind: Kind::ByServer,
        files: files(&[10 * KB]),
        checks: &[checks::retry],
        ..BASE
    },
    Case {
        name: "resumption",
        asked: ["resumption"; 2],
        kind: Kind::ByClient,
        files: files(&[5 * KB, 10 * KB]),
        handshakes: 2,
        checks: &[checks::resumption],
        ..BASE
    },
    Case {
        name: "zerortt",
        asked: ["zerortt"; 2],
        kind: Kind::ByClient,
        files: Files { sizes: &[32], each: 40, name: 250 },
        handshakes: 2,
        checks: &[checks::zero_rtt],
        ..BASE
    },
    Case { name: "http3", asked: ["http3"; 2], files: files(&[5 * KB, 10 * KB, 500 * KB]), checks: &[], ..BASE },
    Case { name: "blackhole", files: files(&[10 * MB]), event: Some(Event::Dark(ms(5_000), ms(2_000))), ..TRANSFER },
    Case {
        name: "keyupdate",
        asked: ["keyupdate", "transfer"],
        kind: Kind::ByClient,
        files: files(&[3 * MB]),
        checks: &[checks::key_phases],
        ..BASE
    },
    Case { name: "ecn", files: files(&[100 * KB]), checks: &[checks::no_retry, checks::ecn], ..BASE },
    Case {
        name: "amplificationlimit",
        files: files(&[5 * KB]),
        drops: &[2, 3, 4, 5, 6, 7],
        chain: 9,
        checks: &[checks::amplification],
        ..TRANSFER
    },
    Case {
        name: "handshakeloss",
        asked: ["multiconnect"; 2],
        kind: Kind::ByClient,
        files: Files { sizes: &[KB], each: 50, name: 12 },
        luck: [EXTREME, NONE],
        handshakes: 50,
        deadline: ms(300_000),
        checks: &[],
        ..BASE
    },
    Case { name: "transferloss", files: files(&[2 * MB]), luck: [MODERATE, NONE], ..TRANSFER },
    Case {
        name: "handshakecorruption",
        asked: ["multiconnect"; 2],
        kind: Kind::ByClient,
        files: Files { sizes: &[KB], each: 50, name: 12 },
        luck: [NONE, EXTREME],
        handshakes: 50,
        deadline: ms(300_000),
        checks: &[],
        ..BASE
    },
    Case { name: "transfercorruption", files: files(&[2 * MB]), luck: [NONE, MODERATE], ..TRANSFER },
    Case { name: "ipv6", files: files(&[5 * KB, 10 * KB]), host: "server6", checks: &[checks::only_ipv6], ..TRANSFER },
    Case { name: "v2", asked: ["v2"; 2], kind: Kind::Refused, checks: &[], ..BASE },
    Case { name: "rebind-port", event: Some(Event::Rebind(Rebind::Port, ms(1_000), ms(5_000))), ..REBIND },
    Case {
        name: "rebind-addr",
        event: Some(Event::Rebind(Rebind::Address, ms(1_000), ms(5_000))),
        checks: &[checks::paths_are_validated, checks::addresses_differ],
        ..REBIND
    },
    Case {
        name: "connectionmigration",
        asked: ["transfer", "connectionmigration"],
        kind: Kind::ByServer,
        files: files(&[2 * MB]),
        host: "server46",
        checks: &[checks::paths_are_validated, checks::migration_uses_a_new_id],
        ..TRANSFER
    },
    Case { name: "goodput", files: files(&[10 * MB]), checks: &[checks::goodput], ..TRANSFER },
    Case {
        name: "crosstraffic",
        // A fifth of what quic-interop-runner has: beside TCP some pairs take minutes for that.
        files: files(&[5 * MB]),
        event: Some(Event::CrossTraffic),
        deadline: ms(300_000),
        checks: &[checks::goodput],
        ..TRANSFER
    },
];

impl Case {
    /// The link of the case in one direction.
    pub fn direction(&self, to: End) -> Direction {
        let drops = if to == SERVER { self.drops.to_vec() } else { Vec::new() };
        let [loss, corruption] = self.luck;
        Direction {
            shape: Shape { rate: Some(RATE), delay: self.delay, queue: QUEUE },
            plan: Plan { loss, corruption, drops, ..Plan::default() },
        }
    }

    /// Whether packets are changed on the way: what cannot be opened then proves nothing.
    pub fn corrupts(&self) -> bool {
        self.luck[1].percent > 0
    }

    /// The case of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        CASES.iter().find(|case| case.name == name)
    }
}
