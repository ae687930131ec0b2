//! Stage 1, the sockets of one client address: UDP and TCP on one port, one of each per worker.
//!
//! Called once per address at the start of the edge. Owns nothing afterwards.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::quic::{BindError, bind_group, bind_udp};

/// Connections that the kernel completes before a worker accepts them.
const BACKLOG: i32 = 1024;
/// How often another port is tried when port 0 gave a UDP port whose TCP twin is taken.
const PORT_TRIES: usize = 16;

/// The sockets of one address, in the order of the workers' indices.
#[derive(Debug)]
pub struct ClientSockets {
    /// The address with the port that was bound; one port for both.
    pub address: SocketAddr,
    /// One per worker, steered by connection ID; empty when HTTP/3 is off.
    pub udp: Vec<UdpSocket>,
    /// One per worker; the kernel spreads connections.
    pub tcp: Vec<TcpListener>,
}

/// Binds UDP (if `http3`) and TCP on `address` for `workers` workers. Port 0 picks one port that is free for both.
///
/// # Errors
/// Names the address and says what to do.
pub fn bind_client(address: SocketAddr, workers: usize, http3: bool) -> Result<ClientSockets, BindError> {
    let mut tries = 0;
    loop {
        let udp = if http3 { bind_udp(address, workers)? } else { Vec::new() };
        let same_port = match udp.first().map(UdpSocket::local_addr) {
            Some(bound) => bound.map_err(|source| BindError { transport: "UDP", address, source })?,
            None => address,
        };
        tries += 1;
        match bind_tcp(same_port, workers) {
            Ok((address, tcp)) => return Ok(ClientSockets { address, udp, tcp }),
            Err(error)
                if address.port() == 0 && tries < PORT_TRIES && error.source.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

fn bind_tcp(address: SocketAddr, workers: usize) -> Result<(SocketAddr, Vec<TcpListener>), BindError> {
    let listen = || {
        let (bound, group) = bind_group(address, workers, new_socket)?;
        group.iter().try_for_each(|socket| socket.listen(BACKLOG))?;
        Ok((bound, group.into_iter().map(TcpListener::from).collect()))
    };
    listen().map_err(|source| BindError { transport: "TCP", address, source })
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Lets a restarted edge bind while connections of the old one are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn port_zero_gives_one_port_for_udp_and_tcp_and_every_worker() {
        let sockets = bind_client("127.0.0.1:0".parse().unwrap(), 3, true).unwrap();
        let port = sockets.address.port();
        assert_ne!(port, 0);
        assert!(sockets.udp.iter().all(|socket| socket.local_addr().unwrap().port() == port));
        assert!(sockets.tcp.iter().all(|socket| socket.local_addr().unwrap().port() == port));
        assert_eq!((sockets.udp.len(), sockets.tcp.len()), (3, 3));
    }

    #[test]
    fn without_http3_no_udp_port_is_taken() {
        let sockets = bind_client("127.0.0.1:0".parse().unwrap(), 2, false).unwrap();
        assert!(sockets.udp.is_empty());
        assert!(UdpSocket::bind(sockets.address).is_ok());
    }

    #[test]
    fn a_dual_stack_listener_takes_ipv4_clients() {
        let sockets = bind_client("[::]:0".parse().unwrap(), 1, false).unwrap();
        assert!(TcpStream::connect(("127.0.0.1", sockets.address.port())).is_ok());
    }

    #[test]
    fn a_second_instance_gets_an_error_that_names_the_address() {
        let sockets = bind_client("127.0.0.1:0".parse().unwrap(), 2, false).unwrap();
        let error = bind_client(sockets.address, 2, false).unwrap_err().to_string();
        assert!(
            error.contains(&format!("TCP {}", sockets.address)) && error.contains("choose another port"),
            "{error}"
        );
    }
}
