//! Drives [`super::machine`]: hears of links from their tasks, tells them what each PoP is for. Holds no link itself.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::machine::{Chosen, MIGRATE_TIMEOUT, Machine, Role};
use crate::clock;
use crate::config::{OriginPop, PopAddress};
use crate::observe::event::{Event, Events, What};

/// One PoP as its links' tasks see it.
pub struct Pop {
    /// Where it is.
    pub address: PopAddress,
    /// What may fail at once with others of the same domain.
    domain: Option<String>,
    role: watch::Sender<Role>,
    /// Its name, once its certificate was seen.
    name: Mutex<Option<Arc<str>>>,
}

/// Why the tunnels did not move to a PoP by hand.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// No PoP of the configuration has that name or address.
    #[error("no PoP `{0}`; this origin knows {1}")]
    Unknown(String, String),
    /// Several have that host.
    #[error("`{0}` is the host of several PoPs: name the port as well")]
    Ambiguous(String),
    /// It was not ready in time.
    #[error("{0} could not be reached within {within:?}; the tunnels stay where they are", within = MIGRATE_TIMEOUT)]
    Unreachable(PopAddress),
}

/// See the module. One per process.
pub struct Supervisor {
    pops: Vec<Pop>,
    machine: Mutex<Machine>,
    changed: Notify,
    /// For [`Self::run`] alone, which keeps what it did not wait for.
    due: Notify,
    /// Notified when the operator asks for a PoP: no dial waits longer.
    asked: Notify,
    events: Events,
}

impl Supervisor {
    /// PoPs in order of preference, of which `wanted` shall be held.
    pub fn new(configured: &[OriginPop], wanted: usize, events: Events) -> Arc<Self> {
        let machine = Machine::new(domains(configured), wanted, clock::now());
        let pop = |(index, OriginPop { address, domain }): (usize, &OriginPop)| Pop {
            address: address.clone(),
            domain: domain.clone(),
            role: watch::Sender::new(machine.role(index)),
            name: Mutex::default(),
        };
        let pops = configured.iter().enumerate().map(pop).collect();
        Arc::new(Self {
            pops,
            machine: Mutex::new(machine),
            changed: Notify::new(),
            due: Notify::new(),
            asked: Notify::new(),
            events,
        })
    }

    /// The PoPs, in order.
    pub fn pops(&self) -> &[Pop] {
        &self.pops
    }

    /// Applies one event, whose name for people is `why`, and publishes what it changes.
    pub fn handle(&self, why: &str, event: impl FnOnce(&mut Machine)) {
        let (mut left, mut taken) = (Vec::new(), Vec::new());
        let mut machine = self.machine.lock();
        event(&mut machine);
        for (index, pop) in self.pops.iter().enumerate() {
            let role = machine.role(index);
            let mut was = role;
            pop.role.send_if_modified(|now| {
                was = std::mem::replace(now, role);
                was != role
            });
            match was {
                was if was == role => {}
                Role::Held => left.push(pop.to_string()),
                _ if role == Role::Held => taken.push(pop.to_string()),
                was => tracing::info!(%pop, ?was, ?role, "role of a PoP"),
            }
        }
        drop(machine);
        if !left.is_empty() || !taken.is_empty() {
            let (from, to) = (&left.join(", "), &taken.join(", "));
            self.events.emit(&Event { from, to, why, ..Event::new(What::Migration) });
        }
        self.changed.notify_waiters();
        self.due.notify_one();
    }

    /// Whether enough other PoPs have ready links.
    pub fn is_covered_without(&self, index: usize) -> bool {
        self.machine.lock().is_covered_without(index)
    }

    /// Resolves when something happened that may change [`Self::is_covered_without`].
    pub fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
    }

    /// Resolves when the operator asks for a PoP.
    pub fn asked(&self) -> impl Future<Output = ()> + '_ {
        self.asked.notified()
    }

    /// The places of the PoPs at these addresses (`host:port`), as far as they are known here.
    pub fn places(&self, addresses: &[String]) -> Vec<usize> {
        let place = |address: &String| self.pops.iter().position(|pop| pop.address.to_string() == *address);
        addresses.iter().filter_map(place).collect()
    }

    /// Puts the PoP named `to` (its name, or its address with or without the port) first and waits until it has a ready link.
    /// Others are let go only then. Nothing changes if that takes too long.
    pub async fn migrate(&self, to: &str) -> Result<Value, MigrateError> {
        let index = self.find(to)?;
        let begun = clock::now();
        self.handle("asked for", |machine| machine.handle_migrate(Some(index), begun));
        self.asked.notify_waiters();
        loop {
            let changed = self.changed();
            let chosen = self.machine.lock().chosen(index);
            match (chosen, self.pops.get(index)) {
                (Chosen::Yes, _) => break,
                (Chosen::No, Some(pop)) => return Err(MigrateError::Unreachable(pop.address.clone())),
                (Chosen::Pending, _) | (_, None) => changed.await,
            }
        }
        let millis = u64::try_from(clock::now().saturating_duration_since(begun).as_millis()).unwrap_or(u64::MAX);
        Ok(json!({ "to": to, "millis": millis, "pops": self.status() }))
    }

    /// Back to the order of the configuration.
    pub fn forget_choice(&self) -> Value {
        self.handle("back to the configuration", |machine| machine.handle_migrate(None, clock::now()));
        json!({ "to": null, "pops": self.status() })
    }

    fn find(&self, wanted: &str) -> Result<usize, MigrateError> {
        let matching = |is: &dyn Fn(&Pop) -> bool| -> Vec<usize> {
            self.pops.iter().enumerate().filter(|(_, pop)| is(pop)).map(|(index, _)| index).collect()
        };
        let exact =
            matching(&|pop| pop.name().is_some_and(|name| *name == *wanted) || pop.address.to_string() == wanted);
        let by_host = matching(&|pop| pop.address.host == wanted);
        match (exact.as_slice(), by_host.as_slice()) {
            ([index, ..], _) | ([], [index]) => Ok(*index),
            ([], []) => {
                let known: Vec<_> = self.pops.iter().map(Pop::to_string).collect();
                Err(MigrateError::Unknown(wanted.to_owned(), known.join(", ")))
            }
            ([], _) => Err(MigrateError::Ambiguous(wanted.to_owned())),
        }
    }

    /// The PoPs for `/status`, in the order of the configuration.
    pub fn status(&self) -> Value {
        let machine = self.machine.lock();
        let pops = self.pops.iter().enumerate().map(|(index, pop)| {
            json!({
                "pop": pop.name().as_deref(),
                "address": pop.address.to_string(),
                "domain": pop.domain,
                "role": format!("{:?}", machine.role(index)),
                "ready": machine.ready(index),
                "chosen": machine.chosen(index) != Chosen::No,
            })
        });
        pops.collect()
    }

    /// Lets time pass, until the process ends.
    pub async fn run(&self) {
        loop {
            let now = clock::now();
            let due = self.machine.lock().poll_timeout(now);
            tokio::select! {
                () = self.due.notified() => {}
                () = async { tokio::time::sleep_until(due.unwrap_or(now).into()).await }, if due.is_some() => {
                    self.handle("it stayed, or did not come", |machine| machine.handle_timeout(clock::now()));
                }
            }
        }
    }
}

/// Numbers of the failure domains: that of the first PoP there, which without a domain is the PoP itself.
fn domains(pops: &[OriginPop]) -> impl Iterator<Item = usize> {
    let first = |domain: &String| pops.iter().position(|pop| pop.domain.as_ref() == Some(domain));
    pops.iter().enumerate().map(move |(index, pop)| pop.domain.as_ref().and_then(first).unwrap_or(index))
}

impl Pop {
    /// What the PoP is for now and whenever that changes.
    pub fn roles(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }

    /// Its name, once its certificate was seen.
    pub fn name(&self) -> Option<Arc<str>> {
        self.name.lock().clone()
    }

    /// Its certificate says that this is its name.
    pub fn set_name(&self, name: &Arc<str>) {
        *self.name.lock() = Some(name.clone());
    }
}

impl fmt::Display for Pop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        self.name().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor() -> Arc<Supervisor> {
        let pop = |host: &str, port| OriginPop { address: PopAddress { host: host.into(), port }, domain: None };
        let supervisor = Supervisor::new(&[pop("a.test", 1), pop("b.test", 1), pop("b.test", 2)], 1, Events::default());
        supervisor.pops()[0].set_name(&"pop-a".into());
        supervisor
    }

    #[test]
    fn a_pop_is_found_by_name_address_or_host_and_otherwise_the_error_lists_them() {
        let supervisor = supervisor();
        for (wanted, index) in [("pop-a", 0), ("a.test", 0), ("a.test:1", 0), ("b.test:2", 2)] {
            assert_eq!(supervisor.find(wanted).unwrap(), index, "{wanted}");
        }
        let ambiguous = supervisor.find("b.test").unwrap_err().to_string();
        assert!(ambiguous.contains("port"), "{ambiguous}");
        let unknown = supervisor.find("pop-x").unwrap_err().to_string();
        assert!(unknown.contains("a.test:1 (pop-a), b.test:1, b.test:2"), "{unknown}");
        assert_eq!(supervisor.places(&["b.test:2".into(), "c.test:1".into()]), [2]);
    }

    #[test]
    fn pops_of_one_domain_share_a_number_and_those_without_one_have_their_own() {
        let pop = |domain: Option<&str>| OriginPop {
            address: PopAddress { host: "a.test".into(), port: 1 },
            domain: domain.map(str::to_owned),
        };
        let pops = [pop(None), pop(Some("fra")), pop(Some("ams")), pop(Some("fra")), pop(None)];
        assert_eq!(domains(&pops).collect::<Vec<_>>(), [0, 1, 2, 1, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_migration_waits_for_the_link_and_lapses_without_one() {
        let supervisor = supervisor();
        let driver = supervisor.run();
        let moved = async {
            supervisor.handle("test", |machine| machine.handle_ready(0, clock::now()));
            let migration = supervisor.migrate("b.test:2");
            let ready = async {
                supervisor.pops()[2].roles().wait_for(|role| *role == Role::Held).await.unwrap();
                supervisor.handle("test", |machine| machine.handle_ready(2, clock::now()));
            };
            let (moved, ()) = tokio::join!(migration, ready);
            assert_eq!(moved.unwrap()["pops"][2]["role"], "Held");
            let told = supervisor.events.status();
            assert_eq!((&told[0]["to"], &told[0]["why"]), (&json!("b.test:2"), &json!("asked for")), "make");
            assert_eq!((&told[1]["from"], &told[1]["to"]), (&json!("a.test:1 (pop-a)"), &json!("")), "before break");
            let late = supervisor.migrate("b.test:1").await.unwrap_err();
            assert!(matches!(late, MigrateError::Unreachable(_)), "{late}");
            assert_eq!(supervisor.status()[2]["chosen"], true, "the choice before it stays");
            assert_eq!(supervisor.forget_choice()["pops"][2]["chosen"], false);
        };
        tokio::select! {
            () = driver => unreachable!("it never ends"),
            () = moved => {}
        }
    }
}
