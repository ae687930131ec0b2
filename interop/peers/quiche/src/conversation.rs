//! One connection with what is exchanged over it: hands datagrams and time to quiche and takes datagrams from it, each when its
//! time has come.

use std::fs::{File, OpenOptions};
use std::io::LineWriter;
use std::path::Path;
use std::time::{Duration, Instant};

use quiche::{Connection, ConnectionId, Error, RecvInfo, SendInfo};

use crate::DATAGRAM_MAX;
use crate::contract::{Outcome, variable};
use crate::link::{Link, random};

/// Bytes of a connection id.
pub const ID_LENGTH: usize = 16;
/// Until the socket is asked again that had no room.
const PAUSE: Duration = Duration::from_millis(1);

/// Requests and responses, on one side.
pub trait Exchange {
    /// Reads what has come and writes what there is room for; whether a client has everything.
    fn step(&mut self, quic: &mut Connection) -> Outcome<bool>;
}

pub struct Conversation {
    pub quic: Connection,
    exchange: Box<dyn Exchange>,
    /// What quiche wants to send, but not yet.
    next: Option<(Vec<u8>, SendInfo)>,
}

impl Conversation {
    /// Begins one, with logs of its secrets and its events; `name` is the events'.
    pub fn new(mut quic: Connection, exchange: Box<dyn Exchange>, name: &str) -> Outcome<Self> {
        let keys = OpenOptions::new().create(true).append(true).open(variable("SSLKEYLOGFILE"))?;
        quic.set_keylog(Box::new(keys));
        let events = Path::new(&variable("QLOGDIR")).join(format!("{name}.sqlog"));
        quic.set_qlog(Box::new(LineWriter::new(File::create(events)?)), "quiche".to_owned(), name.to_owned());
        Ok(Self { quic, exchange, next: None })
    }

    /// Something came for it. What is wrong with a datagram is quiche's affair, which closes the connection if need be.
    pub fn handle_datagram(&mut self, datagram: &mut [u8], info: RecvInfo) {
        if let Err(error) = self.quic.recv(datagram, info) {
            eprintln!("{}: {error}", self.quic.trace_id());
        }
    }

    /// When something is to be done even if nothing comes.
    pub fn due(&self) -> Option<Instant> {
        self.quic.timeout_instant().into_iter().chain(self.next.as_ref().map(|(_, info)| info.at)).min()
    }

    /// Time has gone by.
    pub fn handle_time(&mut self) {
        self.quic.on_timeout();
    }

    /// Goes on with the exchange; whether a client has everything.
    pub fn step(&mut self) -> Outcome<bool> {
        while self.quic.path_event_next().is_some() {}
        while self.quic.retired_scid_next().is_some() {}
        if self.quic.is_closed() || !(self.quic.is_established() || self.quic.is_in_early_data()) {
            return Ok(false);
        }
        // A client that gives spare ids has them taken at once by quinn, and quiche closes the connection when a lost
        // RETIRE_CONNECTION_ID comes twice.
        while self.quic.is_server() && self.quic.is_established() && self.quic.scids_left() > 0 {
            let id = ConnectionId::from_vec(random::<ID_LENGTH>()?.to_vec());
            self.quic.new_scid(&id, u128::from_ne_bytes(random()?), false)?;
        }
        self.exchange.step(&mut self.quic)
    }

    /// Sends everything whose time has come.
    pub fn send(&mut self, link: &Link) -> Outcome<()> {
        loop {
            let (datagram, mut info) = match self.next.take() {
                Some(next) => next,
                None => {
                    let mut datagram = vec![0; DATAGRAM_MAX];
                    match self.quic.send(&mut datagram) {
                        Ok((length, info)) => {
                            datagram.truncate(length);
                            (datagram, info)
                        }
                        Err(Error::Done) => return Ok(()),
                        Err(error) => {
                            eprintln!("{}: {error}", self.quic.trace_id());
                            // It may be closed already.
                            let _ = self.quic.close(false, 1, b"");
                            return Ok(());
                        }
                    }
                }
            };
            let now = Instant::now();
            if info.at <= now {
                if link.send(&datagram, info.to)? {
                    continue;
                }
                info.at = now + PAUSE;
            }
            self.next = Some((datagram, info));
            return Ok(());
        }
    }
}
