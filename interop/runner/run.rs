//! One run: a case between a client and a server, from the making of files to the verdict.
//!
//! Called by the matrix. Owns the run's folder, its network and its processes while it lasts.

use std::fs;
use std::io::{Read, Write};
use std::iter;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use trunkline::clock;

use super::Outcome;
use super::case::{CLIENT, Case, Event, Kind, SERVER};
use super::certificates;
use super::judge::{self, Places, Verdict};
use super::net::hub::{Counts, Hub, ipv4};
use super::net::namespace::Namespace;
use super::net::{Hubs, Network};
use super::peers::{Job, Peer, Role};
use super::process::{self, Process};

/// How long a server may take until it answers.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Between looks at something awaited.
const TICK: Duration = Duration::from_millis(10);
/// The exit code that says: this case is not for me.
pub const UNSUPPORTED: i32 = 127;

/// Who with whom, what, and with which luck.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// The case.
    pub case: &'static Case,
    /// Who serves.
    pub server: &'a dyn Peer,
    /// Who downloads.
    pub client: &'a dyn Peer,
    /// Decides on every loss, corruption, file and name.
    pub seed: u64,
    /// A folder of the run's own, not yet there.
    pub folder: &'a Path,
}

/// The folders of a run.
struct Folders {
    www: PathBuf,
    downloads: PathBuf,
    certs: PathBuf,
    own: [PathBuf; 2],
}

impl Folders {
    fn make(folder: &Path) -> Outcome<Self> {
        let make = |name: &str| -> Outcome<PathBuf> {
            let path = folder.join(name);
            fs::create_dir_all(&path)?;
            Ok(path)
        };
        Ok(Self {
            www: make("www")?,
            downloads: make("downloads")?,
            certs: make("certs")?,
            own: [make("client")?, make("server")?],
        })
    }
}

impl Plan<'_> {
    /// Runs it. An error is the runner's own; whatever programs do is a verdict.
    pub fn run(&self) -> Outcome<Verdict> {
        let Some(http3) = self.protocol() else {
            return Ok(Verdict::Unsupported("not with both of them".to_owned()));
        };
        let folders = Folders::make(self.folder)?;
        certificates::write(&folders.certs, self.case.chain, self.seed)?;
        let requests = self.files(&folders.www)?;
        let keys = [self.folder.join("client/keys.log"), self.folder.join("server/keys.log")];
        let job = |role: Role| Job {
            role,
            case: self.case,
            http3,
            www: &folders.www,
            downloads: &folders.downloads,
            certs: &folders.certs,
            folder: &folders.own[role as usize],
            keys: &keys[role as usize],
            requests: &requests,
        };
        let server = self.server.commands(&job(Role::Server))?;
        let client = self.client.commands(&job(Role::Client))?;
        if server.is_empty() || client.is_empty() {
            return Ok(Verdict::Unsupported(format!(
                "{} does not",
                if server.is_empty() { self.server } else { self.client }.name()
            )));
        }
        let mut network = self.network()?;
        let ended = self.programs(&network, server, client);
        let [from, to] = network.stop()? else { return Err("two ends, two captures".into()) };
        let (from, to) = (from.clone(), to.clone());
        if let Some(verdict) = ended? {
            return Ok(verdict);
        }
        if let Some(idle) = self.idle(network.hub().with(|hub| hub.counts())) {
            return Ok(Verdict::Failed(idle.to_owned()));
        }
        // What the browser got is the page around the files.
        let _ = fs::remove_file(folders.www.join("page.html"));
        let places = Places {
            www: &folders.www,
            downloads: &folders.downloads,
            keys: [&keys[0], &keys[1]],
            captures: [&from, &to],
        };
        Ok(judge::judge(self.case, places))
    }

    /// What the link should have done and did not: then the run shows nothing.
    fn idle(&self, counts: Counts) -> Option<&'static str> {
        let [loss, corruption] = self.case.luck;
        let dark = matches!(self.case.event, Some(Event::Dark(..)));
        let loses = loss.percent > 0 || !self.case.drops.is_empty() || dark;
        if loses && counts.lost == 0 {
            return Some("the link lost nothing");
        }
        (corruption.percent > 0 && counts.corrupted == 0).then_some("the link corrupted nothing")
    }

    /// Whether HTTP/3 is spoken instead of HTTP/0.9; nothing if the two cannot do this case together.
    fn protocol(&self) -> Option<bool> {
        let (server, client) = (self.server.abilities(), self.client.abilities());
        if server.hq && client.hq {
            return Some(false);
        }
        // With HTTP/3, TESTCASE is "http3", and a peer that goes by it cannot be told anything else.
        let told = match self.case.kind {
            Kind::Plain => true,
            Kind::ByServer => !server.contract,
            Kind::ByClient => !client.contract,
            Kind::Refused => false,
        };
        told.then_some(true)
    }

    /// Makes the files; says what to ask for.
    fn files(&self, www: &Path) -> Outcome<Vec<String>> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut urls = Vec::new();
        for size in self.case.files.sizes {
            for _ in 0..self.case.files.each {
                let name: String = (0..self.case.files.name).map(|_| random.lowercase()).collect();
                let mut bytes = vec![0; *size];
                random.fill(&mut bytes);
                fs::write(www.join(&name), bytes)?;
                urls.push(format!("https://{}:443/{name}", self.case.host));
            }
        }
        Ok(urls)
    }

    fn network(&self) -> Outcome<Network> {
        let mut hub = Hub::new(2, self.seed, |_, to| self.case.direction(to));
        if let Some(Event::Rebind(..)) = self.case.event {
            hub.translate(CLIENT, self.seed);
        }
        Network::start(&["client", "server"], hub, self.folder)
    }

    /// Runs the programs; a verdict if they did not come to an end that can be judged.
    fn programs(&self, network: &Network, server: Vec<Command>, client: Vec<Command>) -> Outcome<Option<Verdict>> {
        let mut servers = Vec::new();
        for (number, command) in server.into_iter().enumerate() {
            servers.push(Process::start(
                command,
                Some(network.end(SERVER)?),
                &self.folder.join(format!("server/{number}")),
            )?);
        }
        if let Some(verdict) = self.await_server(network.end(SERVER)?, servers.last_mut().ok_or("no server")?)? {
            return Ok(Some(verdict));
        }
        let stop = AtomicBool::new(false);
        let ended = thread::scope(|scope| {
            if let Some(event) = self.case.event {
                let stop = &stop;
                scope.spawn(move || happen(event, network, stop));
            }
            let ended = self.client(network.end(CLIENT)?, client);
            stop.store(true, Ordering::Relaxed);
            ended
        })?;
        for server in &mut servers {
            server.end()?;
        }
        Ok(ended)
    }

    /// Waits until the server answers, on loopback, so that no capture shows it.
    fn await_server(&self, end: &Namespace, server: &mut Process) -> Outcome<Option<Verdict>> {
        let probe = end.inside(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))??;
        probe.set_read_timeout(Some(TICK))?;
        probe.connect((Ipv4Addr::LOCALHOST, 443))?;
        let deadline = clock::now() + READY_TIMEOUT;
        while clock::now() < deadline {
            if let Some(code) = server.exited()? {
                return Ok(Some(self.refusal("server", code)));
            }
            // Refused while nobody listens; then there is nothing to read either.
            let _ = probe.send(&unknown_version());
            if probe.recv(&mut [0; 1_500]).is_ok() {
                return Ok(None);
            }
            thread::sleep(TICK);
        }
        Ok(Some(Verdict::Failed("the server does not answer".to_owned())))
    }

    fn client(&self, end: &Namespace, mut commands: Vec<Command>) -> Outcome<Option<Verdict>> {
        let command = commands.pop().ok_or("no client")?;
        let mut client = Process::start(command, Some(end), &self.folder.join("client/0"))?;
        Ok(match client.wait(self.case.deadline)? {
            Some(0) => None,
            Some(code) => Some(self.refusal("client", code)),
            None => Some(Verdict::Failed(format!("the client had not ended after {:?}", self.case.deadline))),
        })
    }

    /// What an exit code other than success means.
    fn refusal(&self, who: &str, code: i32) -> Verdict {
        match (code, self.case.kind) {
            (UNSUPPORTED, Kind::Refused) => Verdict::Passed(Some("refused".to_owned())),
            (UNSUPPORTED, _) => Verdict::Unsupported(format!("the {who} says so")),
            (code, _) => Verdict::Failed(format!(
                "the {who} ended with {code}: {}",
                process::last_words(&self.folder.join(who).join("0"))
            )),
        }
    }
}

/// An Initial of a version that nobody speaks (RFC 9000 section 15), as large as it must be to be answered.
fn unknown_version() -> Vec<u8> {
    let mut packet = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1];
    packet.resize(1_200, 0);
    packet
}

/// So many packets arrive before anything happens: the transfer is under way then.
const TRANSFERRING: u64 = 300;

/// What happens beside the transfer, until `stop`.
fn happen(event: Event, network: &Network, stop: &AtomicBool) {
    let hub = network.hub();
    let transfers = |hub: &Hub| hub.counts().passed >= TRANSFERRING;
    match event {
        Event::Dark(light, dark) if once(hub, stop, |hub| transfers(hub)) => {
            let times = [light, dark].into_iter().cycle();
            in_turn(hub, stop, times, |hub, number| {
                hub.darken(CLIENT, SERVER, number.is_multiple_of(2));
                true
            });
        }
        Event::Rebind(what, first, every) if once(hub, stop, |hub| transfers(hub)) => {
            let times = iter::once(first).chain(iter::repeat(every));
            // Something of the client is under way, and comes from its new address: a client that only listens, and of which
            // nothing is, is forgotten for good.
            in_turn(hub, stop, times, |hub, _| {
                let speaks = hub.is_under_way(CLIENT);
                if speaks {
                    hub.rebind(CLIENT, what);
                }
                speaks
            });
        }
        Event::Dark(..) | Event::Rebind(..) => {}
        Event::CrossTraffic => {
            if let Err(error) = cross_traffic(network, stop) {
                let _ = writeln!(std::io::stderr(), "cross traffic: {error}");
            }
        }
    }
}

/// Does `change`, whenever the next of the times is over, with their number, as soon as it says that it is done; until `stop`.
fn in_turn(
    hub: &Hubs,
    stop: &AtomicBool,
    times: impl Iterator<Item = Duration>,
    mut change: impl FnMut(&mut Hub, usize) -> bool,
) {
    let mut due = clock::now();
    for (number, time) in times.enumerate() {
        due += time;
        if !once(hub, stop, |hub| clock::now() >= due && change(hub, number)) {
            return;
        }
    }
}

/// Waits until `holds`; whether that was before `stop`.
fn once(hub: &Hubs, stop: &AtomicBool, mut holds: impl FnMut(&mut Hub) -> bool) -> bool {
    while !hub.with(&mut holds) {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        thread::sleep(TICK);
    }
    true
}

/// A TCP connection from the server to the client that is never idle.
fn cross_traffic(network: &Network, stop: &AtomicBool) -> Outcome<()> {
    const PORT: u16 = 5_001;
    let listener = network.end(CLIENT)?.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    let mut sender = network.end(SERVER)?.inside(|| TcpStream::connect((ipv4(CLIENT), PORT)))??;
    let (mut receiver, _) = listener.accept()?;
    sender.set_write_timeout(Some(10 * TICK))?;
    receiver.set_read_timeout(Some(10 * TICK))?;
    let mut sink = move |stop: &AtomicBool| {
        let mut buffer = vec![0; 65_536];
        while !stop.load(Ordering::Relaxed) {
            let _ = receiver.read(&mut buffer);
        }
    };
    thread::scope(|scope| {
        scope.spawn(move || sink(stop));
        let bytes = vec![0; 65_536];
        while !stop.load(Ordering::Relaxed) {
            let _ = sender.write(&bytes);
        }
    });
    Ok(())
}

/// Takes what only a failure is worth keeping for out of a run's folder.
pub fn tidy(folder: &Path) {
    // What is not there need not go.
    let _ = fs::remove_dir_all(folder);
}
