//! The matrix: every case with every pair that was asked for, several at once, each with a seed of its own.
//!
//! Called by main. A run that fails is run again with the same seed; both outcomes are reported, and it counts as failed.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;
use trunkline::clock;

use super::Outcome;
use super::case::Case;
use super::judge::Verdict;
use super::peers::Peer;
use super::report::Record;
use super::run::{Plan, tidy};

/// What to run.
pub struct Matrix<'a> {
    /// The cases.
    pub cases: Vec<&'static Case>,
    /// Server and client of each pair.
    pub pairs: Vec<(&'a dyn Peer, &'a dyn Peer)>,
    /// All luck follows from it.
    pub seed: u64,
    /// Runs at once.
    pub jobs: usize,
    /// A folder of its own.
    pub folder: &'a Path,
    /// Keep what runs that passed have left.
    pub keep: bool,
}

impl Matrix<'_> {
    /// Runs all; the records are in the order of cases, then pairs.
    pub fn run(&self) -> Vec<Record> {
        let plans: Vec<_> =
            self.cases.iter().flat_map(|case| self.pairs.iter().map(move |pair| (*case, *pair))).collect();
        let next = AtomicUsize::new(0);
        let records = Mutex::new(Vec::new());
        let worker = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some((case, (server, client))) = plans.get(number) else { break };
                let record = self.one(case, *server, *client);
                // Whoever closed stdout does not want to know.
                let _ = writeln!(std::io::stdout(), "{}", record.line());
                records.lock().push((number, record));
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(worker);
            }
        });
        let mut records = records.into_inner();
        records.sort_by_key(|(number, _)| *number);
        records.into_iter().map(|(_, record)| record).collect()
    }

    fn one(&self, case: &'static Case, server: &dyn Peer, client: &dyn Peer) -> Record {
        let (server_name, client_name) = (server.name(), client.name());
        let seed = derive(self.seed, &[case.name, server_name, client_name]);
        let started = clock::now();
        let run = |attempt: &str| {
            let folder =
                self.folder.join(format!("{server_name}_{client_name}")).join(format!("{}{attempt}", case.name));
            let verdict = Plan { case, server, client, seed, folder: &folder }.run();
            let verdict = verdict.unwrap_or_else(|error| Verdict::Failed(format!("the runner: {error}")));
            if !self.keep && !matches!(verdict, Verdict::Failed(_)) {
                tidy(&folder);
            }
            verdict
        };
        let verdict = run("");
        let again = matches!(verdict, Verdict::Failed(_)).then(|| run("-again"));
        let (case, pair) = (case.name.to_owned(), format!("{client_name} -> {server_name}"));
        Record { case, pair, seed, verdict, again, took: clock::now() - started }
    }
}

/// A seed for one run, that does not depend on which others are run (FNV-1a).
pub fn derive(seed: u64, words: &[&str]) -> u64 {
    let bytes = words.iter().flat_map(|word| word.bytes().chain([0]));
    bytes.fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The peers of these names, as pairs; all of a role if none is named. Pairs without Trunkline are left out unless
/// `foreign` asks for them.
pub fn pairs<'a>(
    peers: &'a [Box<dyn Peer>],
    servers: &[String],
    clients: &[String],
    foreign: bool,
) -> Outcome<Vec<(&'a dyn Peer, &'a dyn Peer)>> {
    for name in servers.iter().chain(clients) {
        if !peers.iter().any(|peer| peer.name() == name) {
            let names: Vec<_> = peers.iter().map(|peer| peer.name()).collect();
            return Err(format!("no peer is called {name}; there are {}", names.join(", ")).into());
        }
    }
    let chosen = |role: usize, names: &[String]| -> Vec<&'a dyn Peer> {
        let able = peers.iter().filter(|peer| peer.abilities().roles[role]);
        able.filter(|peer| names.is_empty() || names.iter().any(|name| name == peer.name()))
            .map(|peer| &**peer)
            .collect()
    };
    let (with_servers, with_clients) = (chosen(1, servers), chosen(0, clients));
    let all = with_servers.iter().flat_map(|server| with_clients.iter().map(move |client| (*server, *client)));
    Ok(all.filter(|(server, client)| foreign || server.name() == "trunkline" || client.name() == "trunkline").collect())
}

#[cfg(test)]
mod tests {
    use super::super::peers;
    use super::*;

    #[test]
    fn a_seed_depends_on_every_word() {
        let seeds = [derive(1, &["a", "b"]), derive(1, &["ab", ""]), derive(2, &["a", "b"])];
        assert!(seeds[0] != seeds[1] && seeds[0] != seeds[2]);
        assert_eq!(seeds[0], derive(1, &["a", "b"]));
    }

    #[test]
    fn every_foreign_peer_is_paired_with_ours_in_each_of_its_roles() {
        let peers = peers::all();
        let pairs = pairs(&peers, &[], &[], false).unwrap();
        for peer in &peers {
            let [client, server] = peer.abilities().roles;
            assert_eq!(
                pairs.iter().any(|(s, c)| s.name() == "trunkline" && c.name() == peer.name()),
                client,
                "{}",
                peer.name()
            );
            assert_eq!(
                pairs.iter().any(|(s, c)| c.name() == "trunkline" && s.name() == peer.name()),
                server,
                "{}",
                peer.name()
            );
        }
    }
}
