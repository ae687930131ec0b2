//! A network of the bench's own: loopback with the packet size and the congestion control of real links.
//!
//! On the machine's loopback packets may be 64 KiB large, and some servers probe for that and send them: figures nobody
//! meets elsewhere. In a network namespace of its own the bench sets 1,500 bytes, and disturbs nobody's ports. A machine may
//! have BBR for TCP, whose pacing interrupts whoever is on the processor; servers come with CUBIC.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::net::namespace::{CONTROL, choose_cubic};

/// Packet size of Ethernet, bytes.
const MTU: i32 = 1_500;

/// Moves this process into a new network namespace whose loopback has an MTU of 1,500, with CUBIC for TCP if the machine has it
/// for everyone. Must run before any thread starts. Fails where user namespaces are forbidden; the process is then where it was.
pub fn isolate() -> io::Result<()> {
    // SAFETY: plain system calls without pointers.
    let (user, group, root) = unsafe { (libc::getuid(), libc::getgid(), libc::unshare(libc::CLONE_NEWNET) == 0) };
    if !root {
        // SAFETY: as above.
        if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // user_namespaces(7): the group map may be written only after setgroups is denied.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    }
    // What it is in the end the report says.
    let _ = choose_cubic();
    ready_loopback()
}

/// The congestion control of TCP.
pub fn tcp_control() -> String {
    fs::read_to_string(CONTROL).map_or_else(|error| error.to_string(), |name| name.trim().to_owned())
}

/// Gives the loopback of this thread's namespace an MTU of 1,500 and raises it (netdevice(7)).
pub fn ready_loopback() -> io::Result<()> {
    // SAFETY: a plain system call; the descriptor is checked and owned below.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and checked.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: ifreq is plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_mtu = MTU;
    control(&socket, libc::SIOCSIFMTU, &request)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    control(&socket, libc::SIOCSIFFLAGS, &request)
}

fn control(socket: &OwnedFd, what: libc::Ioctl, request: &libc::ifreq) -> io::Result<()> {
    // SAFETY: both calls read one ifreq, which outlives them.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, std::ptr::from_ref(request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
