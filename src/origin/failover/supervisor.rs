//! Drives [`super::machine`]: hears of links from their tasks, tells them what each PoP is for. Holds no link itself.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::machine::{Machine, Role};
use crate::clock;
use crate::config::PopAddress;

/// One PoP as its links' tasks see it.
pub struct Pop {
    /// Where it is.
    pub address: PopAddress,
    role: watch::Sender<Role>,
}

/// See the module. One per process.
pub struct Supervisor {
    pops: Vec<Pop>,
    machine: Mutex<Machine>,
    changed: Notify,
}

impl Supervisor {
    /// PoPs in order of preference, of which `wanted` shall be held.
    pub fn new(addresses: &[PopAddress], wanted: usize) -> Arc<Self> {
        let machine = Machine::new(addresses.len(), wanted, clock::now());
        let pop = |(index, address): (usize, &PopAddress)| Pop {
            address: address.clone(),
            role: watch::Sender::new(machine.role(index)),
        };
        let pops = addresses.iter().enumerate().map(pop).collect();
        Arc::new(Self { pops, machine: Mutex::new(machine), changed: Notify::new() })
    }

    /// The PoPs, in order.
    pub fn pops(&self) -> &[Pop] {
        &self.pops
    }

    /// Applies one event and publishes what it changes.
    pub fn handle(&self, event: impl FnOnce(&mut Machine)) {
        let mut machine = self.machine.lock();
        event(&mut machine);
        for (index, pop) in self.pops.iter().enumerate() {
            let role = machine.role(index);
            let changed = pop.role.send_if_modified(|now| std::mem::replace(now, role) != role);
            if changed {
                tracing::info!(pop = pop.address.host, port = pop.address.port, ?role, "role of a PoP");
            }
        }
        drop(machine);
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    /// Whether enough other PoPs have ready links.
    pub fn is_covered_without(&self, index: usize) -> bool {
        self.machine.lock().is_covered_without(index)
    }

    /// Resolves when something happened that may change [`Self::is_covered_without`].
    pub fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
    }

    /// Lets time pass, until the process ends.
    pub async fn run(&self) {
        loop {
            let now = clock::now();
            let due = self.machine.lock().poll_timeout(now);
            tokio::select! {
                () = self.changed.notified() => {}
                () = async { tokio::time::sleep_until(due.unwrap_or(now).into()).await }, if due.is_some() => {
                    self.handle(|machine| machine.handle_timeout(clock::now()));
                }
            }
        }
    }
}

impl Pop {
    /// What the PoP is for now and whenever that changes.
    pub fn roles(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }
}
