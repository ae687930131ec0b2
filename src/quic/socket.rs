//! Groups of UDP sockets on one address, one per worker, and the endpoints on them.
//!
//! The kernel sends each packet to the worker that its connection ID names, so that no packet crosses cores and a
//! client that changes its address stays where its connection is. Called at the start by the edge for clients and for
//! tunnels; owns nothing afterwards.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use quinn::{AsyncUdpSocket, EndpointConfig, ServerConfig};
use socket2::{Domain, Protocol, Socket, Type};

use super::copies::Copies;
use super::datagrams::Datagrams;
use super::preferred::{Answering, Preferred};
use super::transport::Endpoint;
use super::unreachable::Unreachable;

/// Sockets in a group: the steering byte tells no more apart.
pub const WORKERS_MAX: usize = 256;
/// Asked of the kernel for each socket; it gives what net.core.{r,w}mem_max allow. 2 MiB hold 15 ms of 1 Gbit/s.
const BUFFER_LEN: usize = 2 << 20;

/// An address that cannot be used; the message names it and says what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {transport} {address}: {source}{}", advice(source, address))]
pub struct BindError {
    /// `UDP` or `TCP`.
    pub transport: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

fn advice(error: &io::Error, address: &SocketAddr) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse if address.is_ipv6() => {
            " (stop the process that has it or choose another port; [::] takes IPv4 too, so do not also listen on 0.0.0.0)"
        }
        io::ErrorKind::AddrInUse => {
            " (stop the process that has it or choose another port; [::] on the same port takes IPv4 too)"
        }
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need CAP_NET_BIND_SERVICE: AmbientCapabilities= in a systemd unit, or setcap)"
        }
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has the address)",
        _ => "",
    }
}

/// Binds one UDP socket per worker on `address`, in the order of the workers' indices. Port 0 picks one port for all.
///
/// All sockets of a group must live until the process ends: when one closes, the last takes its index.
///
/// # Errors
/// When the address is taken (also by an earlier instance of ourselves) or not ours to use.
pub fn bind_udp(address: SocketAddr, workers: usize) -> Result<Vec<UdpSocket>, BindError> {
    bind_steered(address, workers).map_err(|source| BindError { transport: "UDP", address, source })
}

fn bind_steered(address: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    if !(1..=WORKERS_MAX).contains(&workers) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("1 to {WORKERS_MAX} workers, not {workers}")));
    }
    let (_, group) = bind_group(address, workers, new_socket)?;
    if let (Some(first), Ok(workers @ 2..)) = (group.first(), u32::try_from(workers)) {
        steer(first, workers)?;
    }
    Ok(group.into_iter().map(UdpSocket::from).collect())
}

/// Binds `count` sockets that `new_socket` makes to one address, which it answers with the port that was bound.
///
/// # Errors
/// When the address is taken (also by an earlier instance of ourselves) or not ours to use.
pub fn bind_group(
    address: SocketAddr,
    count: usize,
    new_socket: impl Fn(SocketAddr) -> io::Result<Socket>,
) -> io::Result<(SocketAddr, Vec<Socket>)> {
    // The first is bound without SO_REUSEPORT: another process's sockets, which would silently take a share of what
    // comes to us, become an error.
    let first = new_socket(address)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let bound: SocketAddr = first.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    let mut group = vec![first];
    for _ in 1..count {
        let next = new_socket(bound)?;
        next.set_reuse_port(true)?;
        next.bind(&bound.into())?;
        group.push(next);
    }
    Ok((bound, group))
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    // Too little buffer costs packets in bursts and nothing else: not worth an error.
    for result in [socket.set_recv_buffer_size(BUFFER_LEN), socket.set_send_buffer_size(BUFFER_LEN)] {
        if let Err(error) = result {
            tracing::debug!(%address, %error, "UDP buffer size not set");
        }
    }
    Ok(socket)
}

/// Attaches the steering program to the group: the first byte of the destination connection ID modulo `workers` is the
/// index of the socket. The ID begins at offset 6 in a long header and 1 in a short one (RFC 8999 section 5). The
/// kernel runs it on the UDP payload; a packet too short for its load goes to socket 0, where quinn drops it.
fn steer(socket: &Socket, workers: u32) -> io::Result<()> {
    use libc::{BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MOD, BPF_RET};
    let load_byte = BPF_LD | BPF_B | BPF_ABS;
    let program = [
        instruction(load_byte, 0, 0, 0),
        instruction(BPF_JMP | BPF_JSET | BPF_K, 0, 2, 0x80), // long header?
        instruction(load_byte, 0, 0, 6),
        instruction(BPF_JMP | libc::BPF_JA, 0, 0, 1),
        instruction(load_byte, 0, 0, 1),
        instruction(BPF_ALU | BPF_MOD | BPF_K, 0, 0, workers),
        instruction(BPF_RET | BPF_A, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: 7, filter: program.as_ptr().cast_mut() };
    let length = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the length of the call; `program` points to 7 instructions that outlive it, and
    // the kernel copies them and writes nothing through the pointer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    // Every code is below 256.
    libc::sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt, jf, k }
}

/// A socket on a port of its own to dial `peer` from, with buffers like those of a listener.
///
/// # Errors
/// When the system has none.
pub fn dialling_socket(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if peer.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = new_socket(any)?;
    socket.bind(&any.into())?;
    Ok(socket.into())
}

/// `address` with an IPv4 address as such: a socket for both families has them as IPv6.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What a socket has to do with those who have the connections on it.
#[derive(Clone)]
pub struct Ties {
    /// Hears of ICMP errors.
    pub unreachable: Unreachable,
    /// Says whose datagrams leave twice.
    pub copies: Arc<Copies>,
}

/// An endpoint on `socket`, driven by the current runtime. Without a server configuration it can only dial.
///
/// # Errors
/// When the socket cannot be registered with the runtime.
pub fn endpoint(
    config: EndpointConfig,
    server: Option<ServerConfig>,
    socket: UdpSocket,
    ties: Option<Ties>,
) -> io::Result<Endpoint> {
    driven(config, server, Datagrams::new(socket, ties)?)
}

/// An endpoint that accepts on `socket`, driven by the current runtime, and asks clients to go on at a preferred address, if
/// `preferred` has one for it.
///
/// # Errors
/// When the socket cannot be registered with the runtime.
pub fn listen(
    config: EndpointConfig,
    mut server: ServerConfig,
    socket: UdpSocket,
    preferred: Preferred,
) -> io::Result<Endpoint> {
    let address = socket.local_addr()?;
    let preferred = preferred.at(address);
    if preferred.is_empty() {
        return endpoint(config, Some(server), socket, None);
    }
    preferred.announce(&mut server, address.port());
    driven(config, Some(server), Answering::new(socket, preferred)?)
}

fn driven(
    config: EndpointConfig,
    server: Option<ServerConfig>,
    socket: Arc<dyn AsyncUdpSocket>,
) -> io::Result<Endpoint> {
    #[expect(clippy::disallowed_methods, reason = "it ends with the last handle: no drain has to wait for it")]
    Endpoint::new(config, server, socket, |task| drop(tokio::spawn(task)))
}

/// Moves `endpoint` with its connections to `socket`, which has what [`endpoint`] gave the first one.
///
/// # Errors
/// When the socket cannot be registered with the runtime; the endpoint stays where it is then.
pub fn rebind(endpoint: &Endpoint, socket: UdpSocket, ties: Option<Ties>) -> io::Result<()> {
    endpoint.rebind(Datagrams::new(socket, ties)?)
}

/// `socket` as [`endpoint`] has it, for an endpoint of the quinn crate: the h3 crate's client knows no other.
///
/// # Errors
/// When the socket cannot be registered with the runtime.
#[cfg(feature = "interop")]
pub fn abstract_socket(socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    Ok(Datagrams::new(socket, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    /// Sends one packet and tells which socket of the group got it.
    fn receiver(group: &[UdpSocket], packet: &[u8]) -> usize {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(packet, group[0].local_addr().unwrap()).unwrap();
        // Loopback delivers within send_to.
        let got: Vec<usize> = (0..group.len()).filter(|&i| group[i].recv_from(&mut [0; 64]).is_ok()).collect();
        assert_eq!(got.len(), 1, "one socket gets it");
        got[0]
    }

    #[test]
    fn packets_go_to_the_socket_that_the_connection_id_names() {
        for workers in [1, 2, 3, 7] {
            let group = bind_udp(loopback(), workers).unwrap();
            for byte in 0..=255_u8 {
                let short = [0x40, byte, 1, 2, 3];
                let long = [0xc0, 0, 0, 0, 1, 8, byte, 1, 2, 3];
                assert_eq!(receiver(&group, &short), usize::from(byte) % workers);
                assert_eq!(receiver(&group, &long), usize::from(byte) % workers);
            }
        }
    }

    #[test]
    fn runts_reach_some_socket_and_hurt_nobody() {
        let group = bind_udp(loopback(), 3).unwrap();
        for runt in [&[0x40][..], &[0xc0], &[0xc0, 0, 0, 0, 1, 0]] {
            assert_eq!(receiver(&group, runt), 0);
        }
    }

    #[test]
    fn a_second_instance_gets_an_error_that_names_the_address() {
        let group = bind_udp(loopback(), 2).unwrap();
        let address = group[0].local_addr().unwrap();
        let error = bind_udp(address, 2).unwrap_err().to_string();
        assert!(error.contains(&format!("UDP {address}")) && error.contains("choose another port"), "{error}");
    }

    #[test]
    fn all_sockets_share_one_port_and_ipv6_takes_ipv4_too() {
        let group = bind_udp("[::]:0".parse().unwrap(), 2).unwrap();
        let port = group[0].local_addr().unwrap().port();
        assert!(group.iter().all(|socket| socket.local_addr().unwrap().port() == port));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(&[0x40, 1, 0], ("127.0.0.1", port)).unwrap();
        assert!(group[1].recv_from(&mut [0; 8]).is_ok());
    }

    #[test]
    fn the_number_of_workers_is_bounded() {
        assert!(bind_udp(loopback(), 0).is_err());
        assert!(bind_udp(loopback(), WORKERS_MAX + 1).is_err());
    }
}
