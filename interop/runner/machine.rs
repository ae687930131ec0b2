//! What this machine lacks for networks of our own: rights, namespaces, TUN devices, `ip`, one of the two IP families.
//!
//! Called by main before anything else. What cannot be tried here is said loudly and is no failure of the product; where
//! `INTEROP_REQUIRED` is 1 it is a failure all the same.

use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use super::Outcome;
use super::net::Network;
use super::net::hub::{Direction, Hub, ipv4, ipv6};
use super::process::Process;

/// How long a program may take that does nothing.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a packet may take on a link without delay, and how many are sent before it is believed that none arrives.
const PATIENCE: Duration = Duration::from_secs(2);
const PACKETS: usize = 5;

/// Why no network can be made here; nothing if one can.
pub fn lacks() -> Option<String> {
    // SAFETY: a plain system call.
    if unsafe { libc::geteuid() } != 0 {
        return Some("network namespaces and TUN devices need root".to_owned());
    }
    probe().err().map(|error| format!("this machine makes no network for it: {error}"))
}

/// Says what is left out and why. Whether that may be.
pub fn skipped(what: &str, why: &str) -> bool {
    let required = std::env::var("INTEROP_REQUIRED").is_ok_and(|value| value == "1");
    let hint =
        if required { "INTEROP_REQUIRED is 1, so this is a failure" } else { "INTEROP_REQUIRED=1 makes it a failure" };
    // Where stderr is closed nobody wants to know.
    let _ = writeln!(std::io::stderr(), "\n*** interop: SKIPPED {what}: {why} ({hint})\n");
    !required
}

/// A network of two ends, a program in one of them, and a packet with either family.
fn probe() -> Outcome<()> {
    let folder = super::run_folder()?;
    let network = Network::unrecorded(&["one", "other"], Hub::new(2, 0, |_, _| Direction::default()), &folder)?;
    let mut program = Process::start(Command::new("true"), Some(network.end(0)?), &folder.join("true"))?;
    if program.wait(TIMEOUT)? != Some(0) {
        return Err("a program in a namespace does not end well".into());
    }
    for (from, to) in [(ipv4(0).into(), ipv4(1).into()), (ipv6(0).into(), ipv6(1).into())] {
        pass(&network, from, to)?;
    }
    drop(network);
    super::run::tidy(&folder);
    Ok(())
}

fn pass(network: &Network, from: IpAddr, to: IpAddr) -> Outcome<()> {
    let receiver = network.end(1)?.inside(|| UdpSocket::bind((to, 0)))??;
    let sender = network.end(0)?.inside(|| UdpSocket::bind((from, 0)))??;
    receiver.set_read_timeout(Some(PATIENCE))?;
    for _ in 0..PACKETS {
        sender.send_to(b"probe", receiver.local_addr()?)?;
        if receiver.recv(&mut [0; 16]).is_ok() {
            return Ok(());
        }
    }
    Err(format!("no packet from {from} arrives at {to}").into())
}
