//! The wire: one thread that moves packets between the TUN devices of all ends and the hub, and writes the captures.
//!
//! Called by the network, which stops it when it is dropped. The only place here that does packet I/O.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use trunkline::clock;

use super::capture;
use super::hub::{End, Hub};

/// Packets read from one device before the others have their turn.
const BATCH: usize = 64;
/// How long the thread sleeps at most: it looks then whether it shall stop.
const NAP_MAX: Duration = Duration::from_millis(50);

struct Port {
    tun: File,
    capture: Option<capture::Writer>,
}

/// The thread's own things.
struct Wire {
    hub: Arc<Mutex<Hub>>,
    ports: Vec<Port>,
    began: (Instant, Duration),
}

/// The running thread.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// Starts it. `tuns` are in the order of ends; each is captured into its file, if it has one.
pub fn start(hub: Arc<Mutex<Hub>>, tuns: Vec<OwnedFd>, captures: &[PathBuf]) -> io::Result<Running> {
    let mut ports = Vec::new();
    for (end, tun) in tuns.into_iter().enumerate() {
        let capture = captures.get(end).map(|path| capture::Writer::create(path)).transpose()?;
        ports.push(Port { tun: File::from(tun), capture });
    }
    let since_1970 = clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut wire = Wire { hub, ports, began: (clock::now(), since_1970) };
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let body = move || {
        prefer();
        while !stopped.load(Ordering::Relaxed) {
            wire.turn()?;
        }
        wire.close()
    };
    let thread = thread::Builder::new().name("wire".to_owned()).spawn(body)?;
    Ok(Running { stop, thread: Some(thread) })
}

impl Running {
    /// Stops the thread and completes the captures.
    pub fn stop(&mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(io::Error::other("the wire's thread died")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// On a loaded machine delays stay what they are: this thread goes before ordinary ones. Without the right to that it
/// works all the same.
fn prefer() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: a plain system call that reads one sched_param.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &priority) };
}

impl Wire {
    /// Waits for a packet or an arrival, and serves all that is there.
    fn turn(&mut self) -> io::Result<()> {
        let now = clock::now();
        let due = self.hub.lock().poll_timeout();
        let nap = due.map_or(NAP_MAX, |due| due.saturating_duration_since(now).min(NAP_MAX));
        wait(self.ports.iter().map(|port| port.tun.as_raw_fd()), nap)?;
        for end in 0..self.ports.len() {
            self.read(end)?;
        }
        self.deliver()
    }

    fn read(&mut self, end: End) -> io::Result<()> {
        let Some(port) = self.ports.get_mut(end) else { return Ok(()) };
        let mut buffer = [0; 65_536];
        for _ in 0..BATCH {
            let length = match port.tun.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let Some(packet) = buffer.get(..length) else { continue };
            let now = clock::now();
            port.record(self.began, now, packet)?;
            self.hub.lock().handle_packet(now, end, packet.to_vec());
        }
        Ok(())
    }

    fn deliver(&mut self) -> io::Result<()> {
        loop {
            let now = clock::now();
            let Some((end, packet)) = self.hub.lock().poll_arrival(now) else { return Ok(()) };
            let Some(port) = self.ports.get_mut(end) else { continue };
            port.record(self.began, now, &packet)?;
            // A full receive queue loses packets, as everywhere.
            let _ = port.tun.write(&packet);
        }
    }

    fn close(&mut self) -> io::Result<()> {
        self.ports.iter_mut().filter_map(|port| port.capture.take()).try_for_each(capture::Writer::close)
    }
}

impl Port {
    fn record(&mut self, (start, since_1970): (Instant, Duration), now: Instant, packet: &[u8]) -> io::Result<()> {
        let at = since_1970 + now.saturating_duration_since(start);
        self.capture.as_mut().map_or(Ok(()), |capture| capture.write(at, packet))
    }
}

/// ppoll(2): until one can be read or `nap` is over.
fn wait(fds: impl Iterator<Item = RawFd>, nap: Duration) -> io::Result<()> {
    let mut fds: Vec<_> = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    let nap = libc::timespec { tv_sec: 0, tv_nsec: i64::from(nap.subsec_nanos()) };
    // SAFETY: the kernel writes into `fds`, whose length is given.
    let result = unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, &nap, std::ptr::null()) };
    match io::Error::last_os_error() {
        error if result < 0 && error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
