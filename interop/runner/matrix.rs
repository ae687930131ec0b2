//! The matrix: every case with every pair that was asked for, each with a seed of its own.
//!
//! Called by main, which runs what is listed here.

use std::path::Path;

use super::Outcome;
use super::attempts::Task;
use super::case::Case;
use super::judge::Verdict;
use super::peers::{OURS, Peer};
use super::run::Plan;

/// Every case with every pair of a server and a client, in the order of cases.
pub fn tasks<'a>(
    cases: &[&'static Case],
    pairs: &[(&'a dyn Peer, &'a dyn Peer)],
    seed: u64,
    folder: &Path,
) -> Vec<Task<'a>> {
    cases
        .iter()
        .flat_map(|case| pairs.iter().map(|(server, client)| task(case, *server, *client, seed, folder)))
        .collect()
}

fn task<'a>(case: &'static Case, server: &'a dyn Peer, client: &'a dyn Peer, seed: u64, folder: &Path) -> Task<'a> {
    let (server_name, client_name) = (server.name(), client.name());
    let seed = derive(seed, &[case.name, server_name, client_name]);
    let run = move |folder: &Path| {
        let verdict = Plan { case, server, client, seed, folder }.run();
        verdict.unwrap_or_else(|error| Verdict::Failed(format!("the runner: {error}")))
    };
    Task {
        case: case.name.to_owned(),
        pair: format!("{client_name} -> {server_name}"),
        seed,
        folder: folder.join(format!("{server_name}_{client_name}")).join(case.name),
        run: Box::new(run),
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
    Ok(all.filter(|(server, client)| foreign || server.name() == OURS || client.name() == OURS).collect())
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
