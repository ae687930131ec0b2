//! What everybody in a run shares: the scenario, the network, what was seen of each exchange, and what must not be.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;
use trunkline::fault::Fault;

use crate::host::{Host, Node};
use crate::net::Net;
use crate::scenario::Scenario;

/// What was seen of one exchange.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The client's request was due at this time.
    pub started_ms: Option<u64>,
    /// Given to the process that runs the PoP.
    pub dispatched: bool,
    pub ended: Option<(u64, Ended)>,
    /// Handlers that began to work on it.
    pub executions: u32,
    /// Gateways that it was sent to.
    pub gateways: Vec<String>,
    /// Bytes of the request that the handler has, and of the response that the client has.
    pub progress: (u64, u64),
}

/// How an exchange ended for its client.
#[derive(Clone, Debug)]
pub enum Ended {
    Complete,
    Fault(Fault),
    /// The client went away.
    Cancelled,
    /// The PoP died, and its clients' connections with it.
    Gone,
    /// There was no link to send it on.
    NoLink,
}

/// See the module.
pub struct World {
    pub scenario: Scenario,
    pub net: Net,
    pub seen: Mutex<Vec<Seen>>,
    /// Processes that run now.
    pub hosts: Mutex<Vec<Arc<Host>>>,
    pub violations: Mutex<Vec<String>>,
    start: Instant,
    verbose: bool,
}

impl World {
    pub fn new(scenario: Scenario, verbose: bool) -> Arc<Self> {
        let seen = Mutex::new(vec![Seen::default(); scenario.requests.len()]);
        Arc::new(Self {
            net: Net::new(scenario.seed),
            scenario,
            seen,
            hosts: Mutex::default(),
            violations: Mutex::default(),
            start: Instant::now(),
            verbose,
        })
    }

    /// Milliseconds since the run began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Something happened that must not.
    pub fn violate(&self, what: String) {
        self.note(|| format!("VIOLATION: {what}"));
        self.violations.lock().push(format!("at {} ms: {what}", self.now()));
    }

    /// Tells who replays a scenario what goes on.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{:>7} ms  {}", self.now(), what());
        }
    }

    /// The process that runs now as `node`.
    pub fn host(&self, node: Node) -> Option<Arc<Host>> {
        self.hosts.lock().iter().find(|host| host.node == node).cloned()
    }

    /// Changes what was seen of the exchange `id`.
    pub fn see(&self, id: usize, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.seen.lock().get_mut(id) {
            change(seen);
        }
    }

    /// The exchange's end, once.
    pub fn end(&self, id: usize, ended: Ended) {
        self.note(|| format!("request {id}: {ended:?}"));
        let now = self.now();
        self.see(id, |seen| {
            seen.ended.get_or_insert((now, ended));
        });
    }
}

/// The byte at `offset` of a body: no two places look alike.
pub fn byte(key: u64, offset: u64) -> u8 {
    let mixed = (offset ^ (key << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 56) ^ (mixed >> 29)) as u8
}

/// Bytes `from..to` of a body.
pub fn bytes(key: u64, from: u64, to: u64) -> bytes::Bytes {
    (from..to).map(|offset| byte(key, offset)).collect::<Vec<_>>().into()
}

/// The body of request or response `id` as it is received.
pub struct Checker {
    key: u64,
    length: u64,
    pub received: u64,
}

impl Checker {
    pub fn new(key: u64, length: u64) -> Self {
        Self { key, length, received: 0 }
    }

    /// The next piece; an error says where it differs.
    pub fn take(&mut self, data: &[u8]) -> Result<(), String> {
        for (offset, got) in (self.received..).zip(data) {
            let want = byte(self.key, offset);
            if want != *got || offset >= self.length {
                return Err(format!("byte {offset} of {} is {got:#x}, not {want:#x}", self.length));
            }
        }
        self.received += data.len() as u64;
        Ok(())
    }

    /// The body ended.
    pub fn end(&self) -> Result<(), String> {
        let Self { received, length, .. } = self;
        if received == length { Ok(()) } else { Err(format!("complete after {received} of {length} bytes")) }
    }
}

/// The key of a request's body.
pub fn request_key(id: usize) -> u64 {
    id as u64 * 2
}

/// The key of a response's body.
pub fn response_key(id: usize) -> u64 {
    id as u64 * 2 + 1
}
