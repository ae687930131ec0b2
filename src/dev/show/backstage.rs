//! Reads from the admin listeners of a demo what its clients do not see, and asks them to close a tunnel. Called by the
//! show; remembers each process's counters, since they begin anew with it.

use std::collections::HashMap;
use std::net::SocketAddr;

use http::Method;

use super::tally::Backstage;
use crate::admin::client::{AskError, ask_at};

/// The counters of one process as they were when last read.
type Counts = [u64; 4];

/// See the module.
#[derive(Debug, Default)]
pub struct Reader {
    last: HashMap<SocketAddr, Counts>,
    sum: Counts,
}

impl Reader {
    /// Adds what the process at `admin` counted since it was last read; a process that does not answer counts nothing.
    pub async fn read(&mut self, admin: SocketAddr) {
        if let Ok(text) = metrics(admin).await {
            self.handle_counts(admin, counts(&text));
        }
    }

    fn handle_counts(&mut self, admin: SocketAddr, now: Counts) {
        let last = self.last.insert(admin, now).unwrap_or_default();
        // A counter that fell began anew.
        let begun_anew = now.iter().zip(last).any(|(now, last)| *now < last);
        for ((sum, now), last) in self.sum.iter_mut().zip(now).zip(last) {
            *sum += if begun_anew { now } else { now - last };
        }
    }

    /// Everything so far.
    pub fn backstage(&self) -> Backstage {
        let [resumed, replayed, continued, migrated] = self.sum;
        Backstage { resumed, replayed, continued, migrated }
    }
}

/// Each move is told by the side that decides it: the edge resumes, replays and continues, the origin migrates.
fn counts(text: &str) -> Counts {
    let is_edge = text.contains("binary=\"edge\"");
    let of = |event: &str, counts: bool| if counts { sample(text, &event_series(event)) } else { 0 };
    [of("resume", is_edge), of("replay", is_edge), of("continuation", is_edge), of("migration", !is_edge)]
}

fn event_series(event: &str) -> String {
    format!("trunkline_tunnel_events_total{{event=\"{event}\"}} ")
}

fn sample(text: &str, series: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(series)?.parse().ok()).unwrap_or(0)
}

async fn metrics(admin: SocketAddr) -> Result<String, AskError> {
    ask_at(admin, Method::GET, "/metrics").await.map(|body| String::from_utf8_lossy(&body).into_owned())
}

/// How many links a process has; none if it does not answer.
pub async fn links(admin: SocketAddr) -> Option<u64> {
    metrics(admin).await.ok().map(|text| sample(&text, "trunkline_tunnel_links "))
}

/// Closes the busiest tunnel of a gateway.
pub async fn cut_tunnel(admin: SocketAddr) -> Result<(), AskError> {
    ask_at(admin, Method::POST, "/links/close").await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_begin_anew_with_their_process_add_up() {
        let (mut reader, admin) = (Reader::default(), SocketAddr::from(([127, 0, 0, 1], 1)));
        for counts in [[3, 0, 0, 1], [5, 1, 0, 1], [2, 0, 0, 0], [2, 0, 4, 0]] {
            reader.handle_counts(admin, counts);
        }
        assert_eq!(reader.backstage(), Backstage { resumed: 7, replayed: 1, continued: 4, migrated: 1 });
    }
}
