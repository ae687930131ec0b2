//! The same outages of the nearest peer: HAProxy at both ends, over reverse HTTP. It is not tested here, it is measured.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use trunkline::ca::{self, Subject};
use trunkline::dev::layout::SERVICE;

use crate::Outcome;
use crate::chain::{Chain, Setup, eventually};
use crate::client::{Client, Failure, MULTIPLEXED, Protocol};
use crate::load::{Finished, Load};
use crate::template::{fill, text};
use crate::tools::{debian, free_address};

/// For bytes to go on; then it counts as hung.
const PATIENCE: Duration = Duration::from_secs(10);
/// Length of long bodies.
const LARGE: usize = 64 << 20;

/// A TCP connection that runs through a [`Wire`].
struct Pair {
    ends: [TcpStream; 2],
    bytes: Arc<AtomicU64>,
}

/// What the connections of one origin run through, so that they can be cut.
#[derive(Clone)]
struct Wire {
    address: SocketAddr,
    pairs: Arc<Mutex<Vec<Pair>>>,
}

impl Wire {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let wire = Self { address: listener.local_addr().expect("address"), pairs: Arc::default() };
        let pairs = wire.pairs.clone();
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // The edge may not listen yet: the origin dials again.
                let Ok(far) = TcpStream::connect(to) else { continue };
                let bytes = Arc::<AtomicU64>::default();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
                    let bytes = bytes.clone();
                    thread::spawn(move || copy(from, to, &bytes));
                }
                pairs.lock().push(Pair { ends: [near, far], bytes });
            }
        });
        wire
    }

    /// Counts from now on.
    fn reset(&self) {
        self.pairs.lock().iter().for_each(|pair| pair.bytes.store(0, Ordering::Relaxed));
    }

    /// Bytes carried since then.
    fn carried(&self) -> u64 {
        self.pairs.lock().iter().map(|pair| pair.bytes.load(Ordering::Relaxed)).sum()
    }

    /// Cuts the connection that carried most.
    fn cut(&self) {
        let mut pairs = self.pairs.lock();
        let busiest = (0..pairs.len()).max_by_key(|index| pairs[*index].bytes.load(Ordering::Relaxed));
        let pair = pairs.remove(busiest.expect("a connection"));
        pair.ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, bytes: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
        bytes.fetch_add(length as u64, Ordering::Relaxed);
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// A process that ends with the test.
struct Program(Child);

impl Program {
    fn start(binary: &Path, config: &Path) -> Outcome<Self> {
        let log = File::create(config.with_extension("log"))?;
        let mut command = Command::new(binary);
        command.arg("-db").arg("-f").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(Self(command.spawn()?))
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.0.id()).expect("a process id");
        // SAFETY: kill(2) without pointers, of a child that is not waited for yet.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// HAProxy as an edge and two origins, before the upstream of a chain that has no origin of its own.
struct Peer {
    origins: Vec<Program>,
    configs: Vec<PathBuf>,
    wires: Vec<Wire>,
    address: SocketAddr,
    binary: PathBuf,
    _edge: Program,
    chain: Chain,
}

impl Peer {
    async fn start() -> Outcome<Self> {
        let binary = debian("haproxy")?.join("haproxy");
        let chain = Chain::with(Setup { origin: false, ..Setup::default() }).await;
        let folder = chain.folder().to_owned();
        let subject = Subject::Gateway { name: "gw-1".into(), services: vec![SERVICE.into()] };
        if !folder.join("gw-1.pem").exists() {
            ca::issue(&folder, &folder, &subject, ca::DAYS)?;
        }
        for name in ["gw-1", "pop-a", "site"] {
            let both = [fs::read(folder.join(format!("{name}.pem")))?, fs::read(folder.join(format!("{name}.key")))?];
            fs::write(folder.join(format!("{name}.both.pem")), both.concat())?;
        }
        let (address, tunnel) = (free_address()?, free_address()?);
        let upstream = chain.upstream.addr();
        let path = |name: &str| text(folder.join(name));
        let values = |tunnel: SocketAddr| {
            [
                ("ADDRESS", address.to_string()),
                ("TUNNEL", tunnel.to_string()),
                ("UPSTREAM", upstream.to_string()),
                ("BUFFER", (16 << 10).to_string()),
                ("SITE", path("site.both.pem")),
                ("POP", path("pop-a.both.pem")),
                ("GATEWAY", path("gw-1.both.pem")),
                ("TUNNEL_CA", path("tunnel-ca.pem")),
            ]
        };
        let config = folder.join("haproxy-edge.cfg");
        fill("haproxy/edge.cfg", &values(tunnel), &config)?;
        let edge = Program::start(&binary, &config)?;
        let wires = [Wire::start(tunnel), Wire::start(tunnel)];
        let mut peer = Self {
            origins: Vec::new(),
            configs: Vec::new(),
            wires: wires.to_vec(),
            address,
            binary,
            _edge: edge,
            chain,
        };
        for (index, wire) in wires.iter().enumerate() {
            let config = folder.join(format!("haproxy-origin-{index}.cfg"));
            fill("haproxy/origin.cfg", &values(wire.address), &config)?;
            peer.origins.push(Program::start(&peer.binary, &config)?);
            peer.configs.push(config);
        }
        eventually("HAProxy serves", async || {
            let mut client = Client::dial(&peer.chain.site_ca(), Protocol::Http2, peer.address).await.ok()?;
            let request = client.request("GET", "/status/204");
            let answer = client.send(request, "").await.ok()?;
            (answer.status == 204 && peer.wires.iter().all(|wire| wire.carried() > 0)).then_some(())
        })
        .await;
        Ok(peer)
    }

    fn load(&self) -> Load {
        Load::at(self.chain.site_ca(), &[[self.address; 2]])
    }

    fn restart(&mut self, origin: usize) -> Outcome<()> {
        self.origins[origin] = Program::start(&self.binary, &self.configs[origin])?;
        Ok(())
    }

    /// The origin that carried more than the other since the counts began.
    fn carrier(&self) -> usize {
        (0..self.wires.len()).max_by_key(|index| self.wires[*index].carried()).expect("two")
    }

    async fn tell(&self, outage: &str, done: &Finished) {
        let mut keys = std::collections::BTreeMap::new();
        for entry in self.chain.upstream.log("/count").await {
            *keys.entry(entry["path"].to_string()).or_insert(0) += 1;
        }
        let twice = keys.values().filter(|times| **times > 1).count();
        println!("{} {twice} POSTs executed twice |", done.figures(&format!("HAProxy: {outage}")));
    }

    /// A download in whose middle `break_it` is called; how far it came.
    async fn download(&self, protocol: Protocol, break_it: impl FnOnce()) -> Result<usize, Failure> {
        self.wires.iter().for_each(Wire::reset);
        let mut client = Client::dial(&self.chain.site_ca(), protocol, self.address).await?;
        let request = client.request("GET", &format!("/bytes/{LARGE}"));
        let mut body = client.stream(request).await?.into_body();
        let (mut at, mut break_it) = (0, Some(break_it));
        loop {
            let Ok(frame) = tokio::time::timeout(PATIENCE, body.frame()).await else {
                return Err(format!("nothing came for {PATIENCE:?} after {} MiB", at >> 20).into());
            };
            let Some(Ok(frame)) = frame else { break };
            at += frame.into_data().map_or(0, |data| data.len());
            if at >= LARGE / 2
                && let Some(break_it) = break_it.take()
            {
                break_it();
            }
        }
        Ok(at)
    }

    /// The same upwards; the answer's status, if one came.
    async fn upload(&self, protocol: Protocol) -> Result<u16, Failure> {
        let mut client = Client::dial(&self.chain.site_ca(), protocol, self.address).await?;
        let mut request = client.request("POST", "/hash");
        request.headers_mut().insert("content-length", LARGE.into());
        self.wires.iter().for_each(Wire::reset);
        let mut exchange = client.open(request).await?;
        let piece = Bytes::from(vec![7; 64 << 10]);
        for number in 0..LARGE / piece.len() {
            if number == LARGE / piece.len() / 2 {
                self.wires[self.carrier()].cut();
            }
            tokio::time::timeout(PATIENCE, exchange.upload.data(piece.clone())).await??;
        }
        exchange.upload.finish().await?;
        Ok(tokio::time::timeout(PATIENCE, exchange.response()).await??.status().as_u16())
    }
}

#[tokio::test]
#[ignore = "make outages: brings HAProxy from Debian"]
async fn rows_1_3_7_8_10_of_haproxy() {
    let mut peer = match Peer::start().await {
        Ok(peer) => peer,
        Err(error) => {
            println!("| HAProxy | not run: {error} |");
            return;
        }
    };
    let load = peer.load();
    load.warm().await;
    peer.origins[0].signal(libc::SIGKILL);
    load.run(Duration::from_secs(3)).await;
    peer.restart(0).expect("it starts again");
    load.run(Duration::from_secs(1)).await;
    peer.tell("1 kill -9 of an origin", &load.finish().await).await;

    for (time, name) in [(500, "500 ms"), (5_000, "5 s")] {
        let load = peer.load();
        load.warm().await;
        peer.origins[0].signal(libc::SIGSTOP);
        load.run(Duration::from_millis(time)).await;
        peer.origins[0].signal(libc::SIGCONT);
        load.run(Duration::from_secs(2)).await;
        peer.tell(&format!("3 SIGSTOP of an origin, {name}"), &load.finish().await).await;
    }

    let load = peer.load();
    load.warm().await;
    peer.origins[0].signal(libc::SIGUSR1);
    load.run(Duration::from_secs(3)).await;
    peer.restart(0).expect("it starts again");
    load.run(Duration::from_secs(1)).await;
    peer.tell("8 drain (SIGUSR1) of an origin", &load.finish().await).await;

    for protocol in MULTIPLEXED {
        let at = peer.download(protocol, || peer.wires[peer.carrier()].cut()).await;
        let up = peer.upload(protocol).await.map_err(|error| error.to_string());
        println!(
            "| HAProxy: 7 a connection cut once in the middle of {} MiB, {protocol:?} | down: {:?} MiB came | up: {up:?} |",
            LARGE >> 20,
            at.map(|at| at >> 20).map_err(|error| error.to_string())
        );
    }
    for protocol in MULTIPLEXED {
        let at = peer.download(protocol, || peer.origins[peer.carrier()].signal(libc::SIGKILL)).await;
        println!(
            "| HAProxy: 10 the origin killed in the middle of {} MiB, {protocol:?} | {:?} MiB came |",
            LARGE >> 20,
            at.map(|at| at >> 20).map_err(|error| error.to_string())
        );
        for origin in 0..2 {
            peer.restart(origin).expect("it starts again");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
