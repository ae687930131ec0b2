//! A capture read as QUIC: its packets, opened where the keys are known, and its connections.
//!
//! Called by the judge. Owns nothing but what it read.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::super::net::capture;
use super::super::net::packet::{Flow, TCP};
use super::connection::{Connection, Facts, Opened, Sender};
use super::keylog::KeyLog;
use super::wire::{Frame, Kind, Long};

/// A QUIC packet.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Since 1970.
    pub at: Duration,
    /// Whose it is.
    pub from: Sender,
    /// Address of the client at this point of the network.
    pub client: SocketAddr,
    /// Address of the server.
    pub server: SocketAddr,
    /// RFC 3168 section 5.
    pub ecn: u8,
    /// Number of the datagram it came in, and its UDP payload in bytes.
    pub datagram: (usize, usize),
    /// The kind.
    pub kind: Kind,
    /// Of the receiver; of a 1-RTT packet only if it was opened.
    pub dcid: Vec<u8>,
    /// Of the sender.
    pub scid: Vec<u8>,
    /// Of an Initial or Retry.
    pub token: Vec<u8>,
    /// Bytes of the packet behind its header, the authentication tag among them.
    pub payload: usize,
    /// The connection, by its place in [`Trace::connections`], and what was in it; nothing if no key opens it.
    pub opened: Option<(usize, Opened)>,
}

impl Packet {
    /// A line for people; times count from `start`.
    pub fn line(&self, start: Duration) -> String {
        let at = self.at.saturating_sub(start).as_secs_f64();
        let arrow = if self.from == Sender::Client { "->" } else { "<-" };
        let Self { client, server, kind, datagram, ecn, .. } = self;
        let content = match &self.opened {
            Some((connection, opened)) => format!(
                "#{connection} {} {:?}",
                opened.number,
                opened.frames.iter().map(Frame::word).collect::<Vec<_>>()
            ),
            None => format!("{} bytes", self.payload),
        };
        format!("{at:9.4} {client} {arrow} {server} ecn={ecn} {:>4} {kind:?} {content}", datagram.1)
    }
}

/// A capture.
#[derive(Default)]
pub struct Trace {
    /// In the order of the capture.
    pub packets: Vec<Packet>,
    /// In the order of their first packets.
    pub connections: Vec<Facts>,
    /// TCP packets with IPv4 or IPv6 that passed, which are no QUIC.
    pub tcp: usize,
    live: Vec<Connection>,
}

impl Trace {
    /// Reads a capture. The server's side of QUIC is `port`.
    pub fn read(path: &Path, port: u16, log: &KeyLog) -> io::Result<Self> {
        let mut trace = Self::default();
        for (number, (at, bytes)) in capture::read(path)?.into_iter().enumerate() {
            let Some(flow) = Flow::read(&bytes) else { continue };
            trace.tcp += usize::from(flow.protocol == TCP);
            let (from, client, server) = match (flow.source.port() == port, flow.target.port() == port) {
                (false, true) => (Sender::Client, flow.source, flow.target),
                (true, false) => (Sender::Server, flow.target, flow.source),
                _ => continue,
            };
            if let Some(payload) = flow.udp_payload(&bytes) {
                let blank = Packet {
                    at,
                    from,
                    client,
                    server,
                    ecn: flow.ecn,
                    datagram: (number, payload.len()),
                    kind: Kind::OneRtt,
                    dcid: Vec::new(),
                    scid: Vec::new(),
                    token: Vec::new(),
                    payload: 0,
                    opened: None,
                };
                trace.datagram(&blank, payload, log);
            }
        }
        trace.connections = trace.live.iter().map(|connection| connection.facts.clone()).collect();
        Ok(trace)
    }

    /// The packets of one datagram (RFC 9000 section 12.2).
    fn datagram(&mut self, blank: &Packet, mut bytes: &[u8], log: &KeyLog) {
        while let Some(first) = bytes.first() {
            if first & 0x80 == 0 {
                // Zeros may pad a datagram behind its last packet; the fixed bit proves nothing (RFC 9287).
                if bytes.iter().any(|byte| *byte != 0) {
                    self.short(blank, bytes, log);
                }
                return;
            }
            let Some(long) = Long::read(bytes) else { return };
            let (dcid, scid, token) = (long.dcid.to_vec(), long.scid.to_vec(), long.token.to_vec());
            let payload = long.length.saturating_sub(long.number_at);
            let opened = match long.kind {
                Kind::Initial | Kind::Handshake => self.open(blank, &long, bytes, log),
                _ => None,
            };
            self.packets.push(Packet { kind: long.kind, dcid, scid, token, payload, opened, ..blank.clone() });
            bytes = bytes.get(long.length..).unwrap_or_default();
        }
    }

    fn short(&mut self, blank: &Packet, bytes: &[u8], log: &KeyLog) {
        let mut connections = self.live.iter_mut().enumerate().rev();
        let found =
            connections.find_map(|(index, one)| Some((index, one.open_short(blank.from, blank.client, bytes, log)?)));
        let (dcid, opened) = match found {
            Some((index, (dcid, opened))) => (dcid, Some((index, opened))),
            None => (Vec::new(), None),
        };
        let payload = bytes.len().saturating_sub(1 + dcid.len());
        self.packets.push(Packet { dcid, payload, opened, ..blank.clone() });
    }

    fn open(&mut self, blank: &Packet, long: &Long<'_>, bytes: &[u8], log: &KeyLog) -> Option<(usize, Opened)> {
        for (index, connection) in self.live.iter_mut().enumerate().rev() {
            if connection.answers_to(blank.from, blank.client, long) {
                if let Some(opened) = connection.open_long(blank.from, long, bytes, log) {
                    return Some((index, opened));
                }
                if blank.from == Sender::Client && long.kind == Kind::Initial && !long.token.is_empty() {
                    connection.rekey(long.dcid)?;
                    if let Some(opened) = connection.open_long(blank.from, long, bytes, log) {
                        return Some((index, opened));
                    }
                }
            }
        }
        if blank.from != Sender::Client || long.kind != Kind::Initial {
            return None;
        }
        let mut new = Connection::new(blank.client, long.dcid, long.scid)?;
        let opened = new.open_long(blank.from, long, bytes, log)?;
        self.live.push(new);
        Some((self.live.len() - 1, opened))
    }

    /// Packets of one sender and kind.
    pub fn of(&self, from: Sender, kind: Kind) -> impl Iterator<Item = &Packet> {
        self.packets.iter().filter(move |packet| packet.from == from && packet.kind == kind)
    }
}
