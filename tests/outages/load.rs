//! The mixed load: most requests short, some POST numbered so that a second execution shows, some long downloads checked
//! byte by byte, some slow uploads; over HTTP/3 and HTTP/2, to every PoP.
//!
//! A client does what any client does: it opens a new connection when the old one is over, to another PoP if the first
//! does not answer, and sends again what the server said it did not begin.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use trunkline::clock;
use trunkline::dev::upstream::pattern_fill;

use crate::chain::HOST;
use crate::client::{Client, Download, Exchange, Failure, MULTIPLEXED, Protocol};
use crate::cluster::Cluster;

/// Longest that a request may take before it counts as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest that a client waits for a connection before it turns to another PoP.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Length of a long download unless TRUNKLINE_OUTAGES_DOWNLOAD says otherwise, bytes.
const DOWNLOAD: usize = 1 << 20;
/// Requests per second unless TRUNKLINE_OUTAGES_RATE says otherwise.
const RATE: usize = 50;

/// The upstream's pattern, long enough for every GET of the load.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut pattern = vec![0; number("TRUNKLINE_OUTAGES_DOWNLOAD", DOWNLOAD).max(64 << 10)];
    pattern_fill(0, &mut pattern);
    pattern
});

/// A number of the environment.
pub fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GET, 2 to 64 KiB.
    Get,
    /// POST, 1 to 32 KiB, numbered.
    Post,
    /// GET, long, with a strong ETag.
    Download,
    /// POST, in pieces with pauses, numbered.
    Upload,
}

/// One request that is over.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it was.
    pub kind: Kind,
    /// The PoP that its client preferred.
    pub pop: usize,
    /// When it began.
    pub began: Instant,
    /// When it ended.
    pub ended: Instant,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// The path of its POST.
    pub path: String,
}

/// A client that keeps a connection.
struct Lane {
    protocol: Protocol,
    pop: usize,
    /// Its PoP first, then the others.
    peers: Vec<SocketAddr>,
    client: tokio::sync::Mutex<Option<Client>>,
    /// Connections that take no new requests; those on them go on.
    retired: Mutex<Vec<Client>>,
}

impl Lane {
    fn retire(&self, slot: &mut Option<Client>) {
        self.retired.lock().extend(slot.take());
    }
}

struct Shared {
    ca: PathBuf,
    lanes: Vec<Lane>,
    stop: AtomicBool,
    /// Tells its numbers from those of another load of the same upstream.
    run: u64,
    begun: AtomicUsize,
    again: AtomicUsize,
    outcomes: Mutex<Vec<Outcome>>,
}

/// A load that runs.
pub struct Load {
    shared: Arc<Shared>,
    driver: JoinSet<()>,
}

/// A load that is over.
pub struct Finished {
    /// Every request.
    pub outcomes: Vec<Outcome>,
    /// Requests that clients sent again because the server had not begun them.
    pub again: usize,
}

impl Load {
    /// Starts it against all PoPs of `cluster`.
    pub fn start(cluster: &Cluster) -> Self {
        let addresses = (0..cluster.chain.edges.len()).map(|pop| [cluster.chain.http3(pop), cluster.chain.http2(pop)]);
        Self::at(cluster.chain.site_ca(), &addresses.collect::<Vec<_>>())
    }

    /// Starts it against PoPs at these addresses, of HTTP/3 and HTTP/2.
    pub fn at(ca: PathBuf, addresses: &[[SocketAddr; 2]]) -> Self {
        LazyLock::force(&PATTERN);
        let pops = addresses.len();
        let mut lanes = Vec::new();
        for (pop, protocol) in (0..pops).flat_map(|pop| MULTIPLEXED.map(|protocol| (pop, protocol))) {
            let address = |pop: usize| addresses[pop][usize::from(protocol != Protocol::Http3)];
            let peers = (0..pops).map(|other| address((pop + other) % pops)).collect();
            lanes.push(Lane { protocol, pop, peers, client: tokio::sync::Mutex::new(None), retired: Mutex::default() });
        }
        let shared = Arc::new(Shared {
            ca,
            lanes,
            stop: AtomicBool::new(false),
            run: fastrand::u64(..1 << 32),
            begun: AtomicUsize::new(0),
            again: AtomicUsize::new(0),
            outcomes: Mutex::default(),
        });
        let mut driver = JoinSet::new();
        driver.spawn(drive(shared.clone()));
        Self { shared, driver }
    }

    /// Lets it run; what happens meanwhile is the outage.
    pub async fn run(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Waits until requests of each kind went through.
    pub async fn warm(&self) {
        crate::chain::eventually("the load runs", async || {
            let outcomes = self.shared.outcomes.lock();
            let seen = |kind| outcomes.iter().any(|outcome| outcome.kind == kind && outcome.failure.is_none());
            let all = [Kind::Get, Kind::Post, Kind::Download, Kind::Upload].into_iter().all(seen);
            (all && outcomes.len() > 50).then_some(())
        })
        .await;
    }

    /// Begins nothing new and waits for what runs.
    pub async fn finish(mut self) -> Finished {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(joined) = self.driver.join_next().await {
            joined.expect("the load did not panic");
        }
        let outcomes = std::mem::take(&mut *self.shared.outcomes.lock());
        assert_eq!(outcomes.len(), self.shared.begun.load(Ordering::Relaxed), "every request has an outcome");
        Finished { outcomes, again: self.shared.again.load(Ordering::Relaxed) }
    }
}

async fn drive(shared: Arc<Shared>) {
    let rate = u32::try_from(number("TRUNKLINE_OUTAGES_RATE", RATE)).expect("a small number");
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut requests = JoinSet::new();
    while !shared.stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let number = shared.begun.fetch_add(1, Ordering::Relaxed);
        requests.spawn(shared.clone().one(number));
        while let Some(joined) = requests.try_join_next() {
            joined.expect("a request did not panic");
        }
    }
    while let Some(joined) = requests.join_next().await {
        joined.expect("a request did not panic");
    }
}

impl Shared {
    async fn one(self: Arc<Self>, number: usize) {
        let kind = match fastrand::usize(..20) {
            0 => Kind::Download,
            1 => Kind::Upload,
            2..6 => Kind::Post,
            _ => Kind::Get,
        };
        let lane = &self.lanes[fastrand::usize(..self.lanes.len())];
        let length = match kind {
            Kind::Get => fastrand::usize(2 << 10..64 << 10),
            Kind::Post | Kind::Upload => fastrand::usize(1 << 10..32 << 10),
            Kind::Download => PATTERN.len(),
        };
        let path = match kind {
            Kind::Get | Kind::Download => format!("/bytes/{length}"),
            Kind::Post | Kind::Upload => format!("/count?key=post-{:x}-{number}-", self.run),
        };
        let began = clock::now();
        let done = tokio::time::timeout(REQUEST_TIMEOUT, self.ask(lane, kind, &path, length)).await;
        let failure = match done {
            Ok(done) => done.err().map(|error| format!("{error}")),
            Err(_) => Some(format!("not done in {REQUEST_TIMEOUT:?}")),
        };
        let outcome = Outcome { kind, pop: lane.pop, began, ended: clock::now(), failure, path };
        self.outcomes.lock().push(outcome);
    }

    async fn ask(&self, lane: &Lane, kind: Kind, path: &str, length: usize) -> Result<(), Failure> {
        for _ in 0..3 {
            let exchange = self.open(lane, kind, path, length).await?;
            match exchange_once(exchange, kind, length).await {
                Err(error) if is_unbegun(&*error) => {
                    self.again.fetch_add(1, Ordering::Relaxed);
                    lane.retire(&mut *lane.client.lock().await);
                }
                done => return done,
            }
        }
        Err("refused three times".into())
    }

    /// A request's head on the lane's connection; a connection that takes none is replaced: nothing was sent on it.
    async fn open(&self, lane: &Lane, kind: Kind, path: &str, length: usize) -> Result<Exchange, Failure> {
        let mut slot = lane.client.lock().await;
        let mut last: Failure = "no PoP answers".into();
        for turn in 0..=lane.peers.len() {
            if slot.is_none() {
                let peer = lane.peers[turn.saturating_sub(1) % lane.peers.len()];
                let dial = Client::dial(&self.ca, lane.protocol, peer);
                match tokio::time::timeout(CONNECT_TIMEOUT, dial).await {
                    Ok(Ok(client)) => *slot = Some(client),
                    Ok(Err(error)) => last = error,
                    Err(_) => last = format!("no connection to {peer} in {CONNECT_TIMEOUT:?}").into(),
                }
            }
            let Some(client) = slot.as_mut() else { continue };
            let method = if matches!(kind, Kind::Get | Kind::Download) { "GET" } else { "POST" };
            let mut request = client.request(method, path);
            if method == "POST" {
                request.headers_mut().insert("content-length", length.into());
            }
            match client.open(request).await {
                Ok(exchange) => return Ok(exchange),
                Err(error) => {
                    last = error;
                    lane.retire(&mut slot);
                }
            }
        }
        Err(format!("{HOST}: {last}").into())
    }
}

/// Whether the server said that it did not begin with the request, so that any client sends it again.
fn is_unbegun(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let text = format!("{error:?}");
    ["REFUSED_STREAM", "H3_REQUEST_REJECTED", "Canceled"].iter().any(|sign| text.contains(sign))
}

async fn exchange_once(exchange: Exchange, kind: Kind, length: usize) -> Result<(), Failure> {
    let Exchange { mut upload, response } = exchange;
    let sent = async {
        // An upload that fails is told by the response, or by its absence.
        let pieces = match kind {
            Kind::Get | Kind::Download => 0,
            Kind::Post => 1,
            Kind::Upload => 5,
        };
        for piece in 0..pieces {
            if piece > 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let part = Bytes::from_static(&PATTERN[length * piece / pieces..length * (piece + 1) / pieces]);
            let _ = upload.data(part).await;
        }
        let _ = upload.finish().await;
    };
    let answer = async { check(response.await?, kind, length).await };
    // The answer decides: after a failure nobody waits for the upload.
    tokio::select! {
        biased;
        answer = answer => answer,
        () = async { sent.await; std::future::pending().await } => unreachable!("it never ends"),
    }
}

/// Reads the response to its end; every byte must be right.
async fn check(response: Response<Download>, kind: Kind, length: usize) -> Result<(), Failure> {
    let (head, mut body) = response.into_parts();
    let read_all = matches!(kind, Kind::Post | Kind::Upload);
    let (mut at, mut text) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if head.status != 200 || read_all {
            text.extend_from_slice(&data);
        } else if PATTERN.get(at..at + data.len()) != Some(&*data) {
            return Err(format!("WRONG BYTES at {at}").into());
        }
        at += data.len();
    }
    match head.status.as_u16() {
        200 if read_all => match serde_json::from_slice::<serde_json::Value>(&text)?["finished"].as_u64() {
            Some(1) => Ok(()),
            other => Err(format!("WRONG: finished {other:?} times").into()),
        },
        200 if at == length => Ok(()),
        200 => Err(format!("WRONG: a clean end after {at} of {length} bytes").into()),
        status => {
            let why = head.headers.get("proxy-status").map(|value| format!("{value:?}")).unwrap_or_default();
            Err(format!("{status} {why} {}", String::from_utf8_lossy(&text).trim()).into())
        }
    }
}
