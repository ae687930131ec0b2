//! The network of a case: ends in namespaces of their own, joined by links that behave as the case says.
//!
//! Called by the cases. Owns namespaces, wire and captures; all of it goes when it is dropped.

pub mod capture;
pub mod command;
pub mod faults;
pub mod hub;
pub mod measure;
pub mod namespace;
pub mod nat;
pub mod packet;
pub mod shaping;
pub mod wire;

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Outcome;
use hub::{End, Hub};
use namespace::Namespace;

/// A running network.
#[derive(Debug)]
pub struct Network {
    // First, so that the thread has stopped when the devices go.
    wire: wire::Running,
    hub: Hubs,
    namespaces: Vec<Namespace>,
    captures: Vec<PathBuf>,
    hosts: PathBuf,
}

/// The hub, shared with the wire's thread.
#[derive(Clone)]
pub struct Hubs(Arc<Mutex<Hub>>);

impl std::fmt::Debug for Hubs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hubs")
    }
}

impl Hubs {
    /// Changes the network while it runs.
    pub fn with<T>(&self, change: impl FnOnce(&mut Hub) -> T) -> T {
        change(&mut self.0.lock())
    }
}

/// Networks made by this process, for names.
static MADE: AtomicUsize = AtomicUsize::new(0);

impl Network {
    /// Makes the namespaces and starts the wire. `names` are the ends; programs resolve them, each also with 4 and 6
    /// behind for one family alone. Captures go into `folder`, as NAME.pcap.
    pub fn start(names: &[&str], hub: Hub, folder: &Path) -> Outcome<Self> {
        let captures = names.iter().map(|name| folder.join(format!("{name}.pcap"))).collect();
        Self::make(names, hub, folder, captures)
    }

    /// The same without captures, for measurements.
    pub fn unrecorded(names: &[&str], hub: Hub, folder: &Path) -> Outcome<Self> {
        Self::make(names, hub, folder, Vec::new())
    }

    fn make(names: &[&str], hub: Hub, folder: &Path, captures: Vec<PathBuf>) -> Outcome<Self> {
        let hosts = folder.join("hosts");
        fs::write(&hosts, hosts_file(names))?;
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let (mut namespaces, mut tuns) = (Vec::new(), Vec::new());
        for (end, name) in names.iter().enumerate() {
            let (namespace, tun) =
                Namespace::create(&format!("{number}-{name}"), &hosts, hub::ipv4(end), hub::ipv6(end))?;
            namespaces.push(namespace);
            tuns.push(tun);
        }
        let hub = Arc::new(Mutex::new(hub));
        let wire = wire::start(hub.clone(), tuns, &captures)?;
        Ok(Self { wire, hub: Hubs(hub), namespaces, captures, hosts })
    }

    /// Its links, to change them.
    pub fn hub(&self) -> &Hubs {
        &self.hub
    }

    /// The namespace of an end.
    pub fn end(&self, end: End) -> Outcome<&Namespace> {
        Ok(self.namespaces.get(end).ok_or("no such end")?)
    }

    /// One more name, for programs at all ends.
    pub fn add_name(&self, name: &str, address: Ipv4Addr) -> Outcome<()> {
        Ok(writeln!(fs::OpenOptions::new().append(true).open(&self.hosts)?, "{address} {name}")?)
    }

    /// Stops the wire; the captures, in the order of ends, are then complete.
    pub fn stop(&mut self) -> Outcome<&[PathBuf]> {
        self.wire.stop()?;
        Ok(&self.captures)
    }
}

fn hosts_file(names: &[&str]) -> String {
    let mut file = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for (end, name) in names.iter().enumerate() {
        // A String takes whatever is written.
        let _ = writeln!(file, "{0} {name} {name}4 {name}46\n{1} {name}6 {name}46", hub::ipv4(end), hub::ipv6(end));
    }
    file
}
