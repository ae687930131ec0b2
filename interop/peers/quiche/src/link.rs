//! The socket of a client or a server, and its clock. Knows nothing of QUIC but who sent what to whom.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use quiche::RecvInfo;

use crate::contract::Outcome;

pub struct Link {
    poll: Poll,
    events: Events,
    socket: UdpSocket,
    pub own: SocketAddr,
}

impl Link {
    pub fn bind(address: SocketAddr) -> Outcome<Self> {
        let poll = Poll::new()?;
        let mut socket = UdpSocket::bind(address)?;
        poll.registry().register(&mut socket, Token(0), Interest::READABLE)?;
        let own = socket.local_addr()?;
        Ok(Self { poll, events: Events::with_capacity(1), socket, own })
    }

    /// Waits until something has come, or for a time.
    pub fn wait(&mut self, until: Option<Instant>) -> Outcome<()> {
        let time = until.map(|until| until.saturating_duration_since(Instant::now()));
        match self.poll.poll(&mut self.events, time) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The next datagram that has come.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Outcome<Option<(&'a mut [u8], RecvInfo)>> {
        match self.socket.recv_from(buffer) {
            Ok((length, from)) => Ok(Some((&mut buffer[..length], RecvInfo { from, to: self.own }))),
            // Refused: of something that was sent before.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a datagram; whether there was room for it.
    pub fn send(&self, datagram: &[u8], to: SocketAddr) -> Outcome<bool> {
        match self.socket.send_to(datagram, to) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Outcome<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
