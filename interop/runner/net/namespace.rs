//! Network namespaces: one for each end, with a TUN device as its only way out, and programs started in them.
//!
//! Called by the network. Owns the namespaces by name (`trunkline-<pid>-<number>-<end>`): they go when this is dropped, on
//! SIGINT and SIGTERM through [`remove_own`], and what a killed run left behind goes at the start of the next one.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::super::Outcome;
use super::command::output;

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
/// Of every namespace of this program.
const PREFIX: &str = "trunkline-";
/// The one interface of a namespace but loopback.
const DEVICE: &str = "wire";
/// What new TCP connections of a namespace have, and what may be chosen for it.
pub const CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
/// Packets are as large as on Ethernet.
const MTU: &str = "1500";

/// A namespace with its TUN device.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    hosts: CString,
}

/// How long `ip` may take; milliseconds, where nothing is wrong.
const IP_TIMEOUT: Duration = Duration::from_secs(30);

fn ip(arguments: &[&str]) -> Outcome<()> {
    let done = output(Command::new("ip").args(arguments), IP_TIMEOUT);
    done.map(drop).map_err(|error| format!("{error} ({})", arguments.join(" ")).into())
}

impl Namespace {
    /// Makes one with these addresses. `hosts` takes the place of /etc/hosts for programs in it.
    pub fn create(name: &str, hosts: &Path, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Outcome<(Self, OwnedFd)> {
        let name = format!("{PREFIX}{}-{name}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self { name, hosts: CString::new(hosts.as_os_str().as_bytes())? };
        let tun = namespace.device()?;
        namespace.configure(ipv4, ipv6)?;
        Ok((namespace, tun))
    }

    fn file(&self) -> io::Result<File> {
        File::open(Path::new(NAMES).join(&self.name))
    }

    /// Makes the device inside.
    fn device(&self) -> Outcome<OwnedFd> {
        Ok(self.inside(|| tun(DEVICE))??)
    }

    /// Does `work` inside, on a thread of its own that is thrown away with its namespace. A socket that was made there
    /// stays there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Outcome<T> {
        let file = self.file()?;
        let done = thread::scope(|scope| scope.spawn(|| enter(&file).map(|()| work())).join());
        Ok(done.map_err(|_| "the thread in a namespace died")??)
    }

    fn configure(&self, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Outcome<()> {
        let inside = |arguments: &[&str]| ip(&[&["-n", self.name.as_str()], arguments].concat());
        inside(&["link", "set", "lo", "up"])?;
        inside(&["address", "add", &format!("{ipv4}/32"), "dev", DEVICE])?;
        inside(&["-6", "address", "add", &format!("{ipv6}/128"), "dev", DEVICE, "nodad"])?;
        inside(&["link", "set", DEVICE, "mtu", MTU, "txqueuelen", "4000", "up"])?;
        inside(&["route", "add", "default", "dev", DEVICE])?;
        inside(&["-6", "route", "add", "default", "dev", DEVICE])?;
        // The same on every machine.
        if let Err(error) = self.inside(choose_cubic)? {
            eprintln!("TCP in {} is what the machine has, not CUBIC: {error}", self.name);
        }
        Ok(())
    }

    /// Gives it one more address.
    pub fn add_address(&self, ipv4: Ipv4Addr) -> Outcome<()> {
        ip(&["-n", &self.name, "address", "add", &format!("{ipv4}/32"), "dev", DEVICE])
    }

    /// `command`, to be started in this namespace, with its hosts file, and to die with the thread that starts it.
    pub fn enclose<'a>(&self, command: &'a mut Command) -> Outcome<&'a mut Command> {
        let file = self.file()?;
        let hosts = self.hosts.clone();
        let prepare = move || {
            enter(&file)?;
            own_hosts(&hosts)?;
            bind_life()
        };
        // SAFETY: between fork and exec `prepare` makes only system calls and allocates nothing.
        Ok(unsafe { command.pre_exec(prepare) })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What cannot be removed now is a leftover for the next run.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// setns(2): this thread is then in the namespace.
fn enter(file: &File) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that lives.
    check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Puts `hosts` over /etc/hosts in a mount namespace of this process alone.
fn own_hosts(hosts: &CString) -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: plain system calls; the strings are constants or outlive the call.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()))?;
        check(libc::mount(hosts.as_ptr(), c"/etc/hosts".as_ptr(), none, libc::MS_BIND, std::ptr::null()))
    }
}

/// Dies when the thread that forked dies; takes signals again, which this program holds back in its own threads.
fn bind_life() -> io::Result<()> {
    // SAFETY: plain system calls; sigset_t is plain data that sigemptyset fills.
    unsafe {
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))
    }
}

/// Opens a TUN device in the namespace of this thread: one packet for each read and write, nothing before it.
fn tun(name: &str) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the call reads and writes one ifreq, which outlives it.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, std::ptr::from_mut(&mut request)) })?;
    Ok(file.into())
}

/// Gives new TCP connections of this thread's namespace CUBIC.
///
/// # Errors
/// When the machine does not have it for namespaces: see [`prepare_machine`].
pub fn choose_cubic() -> io::Result<()> {
    fs::write(CONTROL, "cubic")
}

/// Names of namespaces of this program, with the process that made them.
fn names() -> Vec<(String, u32)> {
    let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok().map(|pid| (name.clone(), pid)))
        .collect()
}

/// Before the first network is made: removes what runs left behind that did not come to their end, and lets namespaces have
/// CUBIC for TCP. What one may have, its machine must allow to everyone; that stays.
pub fn prepare_machine() {
    let allowed = fs::read_to_string(ALLOWED).unwrap_or_default();
    if !allowed.split_whitespace().any(|control| control == "cubic") {
        // Where it fails each namespace says so.
        let _ = fs::write(ALLOWED, format!("{} cubic", allowed.trim()));
    }
    for (name, pid) in names() {
        if !PathBuf::from(format!("/proc/{pid}")).exists() {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

/// Removes all namespaces of this process.
pub fn remove_own() {
    for (name, pid) in names() {
        if pid == std::process::id() {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}
