//! What it takes to run programs of others: where they are, and addresses for those that cannot choose. Used by the bench and
//! by the outage tests.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Outcome;

/// An address on loopback that nobody uses at the moment, for programs that cannot choose one themselves.
pub fn free_address() -> io::Result<SocketAddr> {
    free_address_on(Ipv4Addr::LOCALHOST.into())
}

/// The same on another address of this machine, or of the namespace of this thread.
pub fn free_address_on(ip: IpAddr) -> io::Result<SocketAddr> {
    loop {
        let tcp = TcpListener::bind((ip, 0))?;
        let address = tcp.local_addr()?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
}

/// The folder with the programs of a Debian sid package, unpacked under target/ on first use.
pub fn debian(package: &str) -> Outcome<PathBuf> {
    brought("debian.sh", &[package])
}

/// The folder that a script of tests/tools prints: where the programs are that it brought.
pub fn brought(script: &str, arguments: &[&str]) -> Outcome<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools").join(script);
    let output = Command::new(&script).args(arguments).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{} {} failed", script.display(), arguments.join(" ")).into());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}
