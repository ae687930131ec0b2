//! What clients of the show noticed and what was done to the chain: counts, the live line, the totals. Written by the
//! errands and by [`super::havoc`]; decides what is a failure and what a client brought about by its own PoP's death.

use std::fmt::Write;
use std::time::Duration;

use parking_lot::Mutex;

/// Failures that are kept to be shown.
const FAILURES_MAX: usize = 10;

/// What the clients saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Requests that were answered as they should.
    pub requests: u64,
    /// Anything that went wrong and is not the client's own PoP's (or WebSocket's gateway's) death.
    pub failed: u64,
    /// The longest answer to a request.
    pub slowest: Duration,
    /// Downloads that were whole.
    pub downloads: u64,
    /// Their bytes so far, all of them checked.
    pub bytes: u64,
    /// Messages that came back over the WebSocket.
    pub echoes: u64,
    /// Connections that were opened anew after their PoP, or their WebSocket's gateway, was killed.
    pub reconnects: u64,
    /// The first failures.
    pub failures: Vec<String>,
}

/// What happened behind the scenes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backstage {
    /// Exchanges that went on over another tunnel.
    pub resumed: u64,
    /// Requests sent again.
    pub replayed: u64,
    /// Downloads that went on through another gateway.
    pub continued: u64,
    /// Times that a PoP's role changed for a gateway.
    pub migrated: u64,
}

/// What kills clients' connections.
#[derive(Debug)]
struct Deaths {
    pops: Vec<u64>,
    gateways: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Tally {
    seen: Mutex<Seen>,
    deaths: Mutex<Deaths>,
    acts: Mutex<Vec<(&'static str, u64)>>,
    latest: Mutex<String>,
}

impl Tally {
    /// Nothing happened yet to so many PoPs.
    pub fn new(pops: usize) -> Self {
        Self {
            seen: Mutex::default(),
            deaths: Mutex::new(Deaths { pops: vec![0; pops], gateways: 0 }),
            acts: Mutex::default(),
            latest: Mutex::default(),
        }
    }

    /// Notes what a client saw.
    pub fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen.lock());
    }

    /// Something went wrong for a client.
    pub fn fail(&self, what: String) {
        let mut seen = self.seen.lock();
        seen.failed += 1;
        if seen.failures.len() < FAILURES_MAX {
            seen.failures.push(what);
        }
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }

    /// Something is done to a process.
    pub fn act(&self, act: &'static str, name: &str) {
        let mut acts = self.acts.lock();
        match acts.iter_mut().find(|(known, _)| *known == act) {
            Some((_, count)) => *count += 1,
            None => acts.push((act, 1)),
        }
        *self.latest.lock() = format!("{name}: {act}");
    }

    /// A PoP dies without a word.
    pub fn pop_dies(&self, pop: usize) {
        if let Some(deaths) = self.deaths.lock().pops.get_mut(pop) {
            *deaths += 1;
        }
    }

    /// A gateway dies without a word.
    pub fn gateway_dies(&self) {
        self.deaths.lock().gateways += 1;
    }

    /// How often the PoP, and with `gateways` any gateway, died: when that is more than at the beginning of a connection,
    /// its end is no failure.
    pub fn deaths(&self, pop: usize, gateways: bool) -> u64 {
        let deaths = self.deaths.lock();
        deaths.pops.get(pop).copied().unwrap_or(0) + if gateways { deaths.gateways } else { 0 }
    }

    /// The live line, what matters most first: a narrow terminal cuts it.
    pub fn line(&self, elapsed: Duration, backstage: Backstage) -> String {
        let Seen { requests, failed, downloads, bytes, echoes, reconnects, .. } = self.seen();
        let Backstage { resumed, replayed, continued, migrated } = backstage;
        let (seconds, mib) = (elapsed.as_secs(), bytes >> 20);
        let mut line = format!(
            "{seconds:>4} s  requests {requests}, failed {failed} | resumed {resumed}, replayed {replayed}, \
             continued {continued}, migrated {migrated} | {downloads} downloads, {mib} MiB, {echoes} echoes, \
             {reconnects} reconnects"
        );
        let latest = self.latest.lock();
        if !latest.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(line, " | {latest}");
        }
        line
    }

    /// The totals at the end.
    pub fn totals(&self, elapsed: Duration, backstage: Backstage) -> String {
        let Seen { requests, failed, slowest, downloads, bytes, echoes, reconnects, failures } = self.seen();
        let Backstage { resumed, replayed, continued, migrated } = backstage;
        let acts: Vec<_> = self.acts.lock().iter().map(|(act, count)| format!("{count} x {act}")).collect();
        let mut text = format!(
            "In {} s of outages: {}.\n\
             Clients: {requests} requests, the slowest in {} ms; {downloads} whole downloads, {} MiB, every byte checked; \
             {echoes} echoes over a WebSocket.\n\
             Failed: {failed}. Reconnects, because a client's own PoP or its WebSocket's gateway was killed: {reconnects}.\n\
             Behind the scenes: {resumed} resumed, {replayed} replayed, {continued} continued, {migrated} migrated.\n",
            elapsed.as_secs(),
            if acts.is_empty() { "none".to_owned() } else { acts.join(", ") },
            slowest.as_millis(),
            bytes >> 20,
        );
        failures.iter().for_each(|failure| text.push_str(&format!("  failed: {failure}\n")));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_and_the_totals_say_what_was_noted() {
        let tally = Tally::new(2);
        tally.note(|seen| {
            seen.requests = 100;
            seen.slowest = Duration::from_millis(312);
            seen.bytes = 3 << 20;
        });
        tally.act("killed", "gw-1");
        tally.act("killed", "gw-2");
        tally.fail("GET /echo: 502".into());
        let backstage = Backstage { resumed: 4, replayed: 3, continued: 2, migrated: 1 };
        assert_eq!(
            tally.line(Duration::from_secs(7), backstage),
            "   7 s  requests 100, failed 1 | resumed 4, replayed 3, continued 2, migrated 1 | \
             0 downloads, 3 MiB, 0 echoes, 0 reconnects | gw-2: killed"
        );
        let totals = tally.totals(Duration::from_secs(7), backstage);
        assert!(
            totals.contains("2 x killed") && totals.contains("Failed: 1.") && totals.contains("GET /echo: 502"),
            "{totals}"
        );
    }

    #[test]
    fn a_connection_answers_for_the_deaths_since_it_began_of_its_own_pop() {
        let tally = Tally::new(2);
        let (began, socket) = (tally.deaths(0, false), tally.deaths(0, true));
        tally.pop_dies(1);
        assert_eq!(tally.deaths(0, false), began, "another PoP");
        tally.gateway_dies();
        assert_eq!(tally.deaths(0, false), began, "what a gateway carries goes on");
        assert!(tally.deaths(0, true) > socket, "but for a WebSocket");
        tally.pop_dies(0);
        assert!(tally.deaths(0, false) > began);
    }
}
