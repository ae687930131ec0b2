//! One connection as an onlooker sees it: its keys as they become known, its connection ids, its handshake.
//!
//! Called by the trace with packets in the order of the capture. Opens what it can and never guesses: a packet counts as
//! this connection's only if its authentication tag says so.

use std::net::SocketAddr;

use super::hello::{self, Parameters, Stream};
use super::keylog::KeyLog;
use super::keys::{HeaderKey, PacketKey, Secret, Suite, whole_number};
use super::wire::{Frame, Kind, Long, frames};

/// Who sent a packet; also the index of what is kept for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The one that dialled.
    Client = 0,
    /// The other one.
    Server = 1,
}

/// A packet opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its number.
    pub number: u64,
    /// The key phase bit of a 1-RTT packet.
    pub phase: bool,
    /// Its frames.
    pub frames: Vec<Frame>,
}

/// Keys of one direction and level.
struct Keys {
    secret: Secret,
    header: HeaderKey,
    packet: PacketKey,
    /// Before the last update.
    former: Option<PacketKey>,
    phase: bool,
    largest: Option<u64>,
}

impl Keys {
    fn new(secret: Secret) -> Option<Self> {
        Some(Self {
            header: secret.header()?,
            packet: secret.packet()?,
            secret,
            former: None,
            phase: false,
            largest: None,
        })
    }

    fn open(&mut self, packet: &[u8], number_at: usize) -> Option<Opened> {
        let (header, truncated, length) = self.header.uncover(packet, number_at)?;
        let number = whole_number(self.largest, truncated, length);
        let sealed = packet.get(number_at + length..)?;
        let short = header.first()? & 0x80 == 0;
        let phase = short && header.first()? & 4 != 0;
        let payload = if phase == self.phase {
            self.packet.open(number, &header, sealed)?
        } else {
            self.turn(number, &header, sealed)?
        };
        self.largest = self.largest.max(Some(number));
        Some(Opened { number, phase, frames: frames(&payload)? })
    }

    /// A packet of the other key phase: the next one, or a late one of the former.
    fn turn(&mut self, number: u64, header: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        if let Some(payload) = self.former.as_ref().and_then(|former| former.open(number, header, sealed)) {
            return Some(payload);
        }
        let next = self.secret.next()?;
        let key = next.packet()?;
        let payload = key.open(number, header, sealed)?;
        self.former = Some(std::mem::replace(&mut self.packet, key));
        self.secret = next;
        self.phase = !self.phase;
        Some(payload)
    }
}

/// What a handshake showed.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Suites in the ClientHello.
    pub offered: Vec<u16>,
    /// Of the ServerHello: the suite chosen, and whether a session is resumed.
    pub chosen: Option<(u16, bool)>,
    /// A certificate was sent.
    pub certificate: bool,
    /// Of the server.
    pub parameters: Option<Parameters>,
    /// Bytes of TLS in Handshake packets of the server.
    pub server_handshake: u64,
}

/// A connection.
#[derive(Default)]
pub struct Connection {
    /// What its handshake showed.
    pub facts: Facts,
    /// Where the client was at first.
    pub client: Option<SocketAddr>,
    /// Connection ids by which client and server are called.
    ids: [Vec<Vec<u8>>; 2],
    random: Option<[u8; 32]>,
    initial: [Option<Keys>; 2],
    handshake: [Option<Keys>; 2],
    one_rtt: [Option<Keys>; 2],
    /// TLS of Initial and Handshake packets of each.
    tls: [[Stream; 2]; 2],
}

impl Connection {
    /// One whose first Initial packet went to `dcid`.
    pub fn new(client: SocketAddr, dcid: &[u8], scid: &[u8]) -> Option<Self> {
        let mut new = Self { client: Some(client), ids: [vec![scid.to_vec()], Vec::new()], ..Self::default() };
        new.rekey(dcid)?;
        Some(new)
    }

    /// Keys for Initial packets to another id: after a Retry.
    pub fn rekey(&mut self, dcid: &[u8]) -> Option<()> {
        let [client, server] = Secret::initial(dcid)?;
        self.initial = [Some(Keys::new(client)?), Some(Keys::new(server)?)];
        Some(())
    }

    /// Whether a packet with this long header may belong to it.
    pub fn answers_to(&self, from: Sender, client: SocketAddr, long: &Long<'_>) -> bool {
        let id = if from == Sender::Client { long.scid } else { long.dcid };
        let called = self.ids[0].iter().any(|known| known == id);
        called && (!id.is_empty() || self.client == Some(client))
    }

    /// Opens an Initial or Handshake packet.
    pub fn open_long(&mut self, from: Sender, long: &Long<'_>, packet: &[u8], log: &KeyLog) -> Option<Opened> {
        let level = match long.kind {
            Kind::Initial => &mut self.initial,
            Kind::Handshake => &mut self.handshake,
            _ => return None,
        };
        let opened = level[from as usize].as_mut()?.open(packet.get(..long.length)?, long.number_at)?;
        learn(&mut self.ids[from as usize], long.scid);
        self.read(from, long.kind, &opened.frames, log);
        Some(opened)
    }

    /// Opens a 1-RTT packet, if it goes to an id of this connection.
    pub fn open_short(
        &mut self,
        from: Sender,
        client: SocketAddr,
        packet: &[u8],
        log: &KeyLog,
    ) -> Option<(Vec<u8>, Opened)> {
        let receiver = 1 - from as usize;
        let called = |id: &&Vec<u8>| {
            packet.get(1..).is_some_and(|rest| rest.starts_with(id)) && (!id.is_empty() || self.client == Some(client))
        };
        let id = self.ids[receiver].iter().find(called)?.clone();
        let opened = self.one_rtt[from as usize].as_mut()?.open(packet, 1 + id.len())?;
        self.read(from, Kind::OneRtt, &opened.frames, log);
        Some((id, opened))
    }

    fn read(&mut self, from: Sender, kind: Kind, frames: &[Frame], log: &KeyLog) {
        for frame in frames {
            match frame {
                Frame::NewConnectionId(id) => learn(&mut self.ids[from as usize], id),
                Frame::Crypto { offset, data } if kind != Kind::OneRtt => {
                    let level = usize::from(kind == Kind::Handshake);
                    self.tls[from as usize][level].add(*offset, data);
                    self.shake(from, level, log);
                }
                _ => {}
            }
        }
    }

    /// Looks at the handshake again after bytes have come.
    fn shake(&mut self, from: Sender, level: usize, log: &KeyLog) {
        let bytes = self.tls[from as usize][level].bytes();
        if from == Sender::Server && level == 1 {
            self.facts.server_handshake = bytes.len() as u64;
        }
        for (kind, body) in hello::messages(&bytes) {
            match (from, kind) {
                (Sender::Client, hello::CLIENT_HELLO) => {
                    if let Some((random, offered)) = hello::client_hello(body) {
                        (self.random, self.facts.offered) = (Some(random), offered);
                    }
                }
                (Sender::Server, hello::SERVER_HELLO) => {
                    self.facts.chosen = self.facts.chosen.or(hello::server_hello(body));
                    self.unlock(log);
                }
                (Sender::Server, hello::ENCRYPTED_EXTENSIONS) => self.facts.parameters = hello::parameters(body),
                (Sender::Server, hello::CERTIFICATE) => self.facts.certificate = true,
                _ => {}
            }
        }
    }

    /// Takes secrets from the log as soon as the suite is known.
    fn unlock(&mut self, log: &KeyLog) {
        let (Some(random), Some((suite, _))) = (self.random, self.facts.chosen) else { return };
        let Some(suite) = Suite::from_number(suite) else { return };
        let keys = |label: &str| Keys::new(Secret::new(suite, log.secret(label, &random)?));
        if self.handshake[0].is_none() {
            self.handshake = [keys("CLIENT_HANDSHAKE_TRAFFIC_SECRET"), keys("SERVER_HANDSHAKE_TRAFFIC_SECRET")];
            self.one_rtt = [keys("CLIENT_TRAFFIC_SECRET_0"), keys("SERVER_TRAFFIC_SECRET_0")];
        }
    }
}

fn learn(ids: &mut Vec<Vec<u8>>, id: &[u8]) {
    if !ids.iter().any(|known| known == id) {
        ids.push(id.to_vec());
    }
}
