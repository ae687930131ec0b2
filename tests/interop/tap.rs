//! Between one client and a server: passes datagrams on and remembers what kinds of packets the server sends.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Between looks at whether it is over.
const PATIENCE: Duration = Duration::from_millis(20);

/// A tap; ends when dropped.
pub struct Tap {
    port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
    over: Arc<AtomicBool>,
}

impl Tap {
    /// Between a port of its own and `server` on this machine.
    pub fn start(server: u16) -> Self {
        let (near, far) = (socket(), socket());
        far.connect(("127.0.0.1", server)).expect("connected");
        let port = near.local_addr().expect("an address").port();
        let tap = Self { port, seen: Arc::default(), over: Arc::default() };
        let client = Arc::new(Mutex::new(None));
        let up = Way { over: tap.over.clone(), client: client.clone() };
        let down = Way { over: tap.over.clone(), client };
        let (near_too, far_too) = (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
        thread::spawn(move || up.run(&near, |packet, _| far.send(packet)));
        let seen = tap.seen.clone();
        thread::spawn(move || {
            down.run(&far_too, |packet, client| {
                seen.lock().expect("unpoisoned").extend(packet.first());
                client.map_or(Ok(0), |client| near_too.send_to(packet, client))
            });
        });
        tap
    }

    /// Where the client finds it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The first byte of each datagram from the server.
    pub fn first_bytes(&self) -> Vec<u8> {
        self.seen.lock().expect("unpoisoned").clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// One direction.
struct Way {
    over: Arc<AtomicBool>,
    /// Who sent last to the near side.
    client: Arc<Mutex<Option<SocketAddr>>>,
}

impl Way {
    fn run(&self, from: &UdpSocket, pass_on: impl Fn(&[u8], Option<SocketAddr>) -> io::Result<usize>) {
        let connected = from.peer_addr().is_ok();
        let mut packet = [0; 2_048];
        while !self.over.load(Ordering::Relaxed) {
            let Ok((length, sender)) = from.recv_from(&mut packet) else { continue };
            let mut client = self.client.lock().expect("unpoisoned");
            if !connected {
                *client = Some(sender);
            }
            // What cannot be passed on is lost, as on any network.
            let _ = pass_on(&packet[..length], *client);
        }
    }
}
