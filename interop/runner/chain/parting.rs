//! Programs that are told to end while clients download from them.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use trunkline::clock;
use trunkline::dev::upstream::pattern_fill;
use trunkline::observe::event::What;

use super::Try;
use super::world::{CLIENT, CLIENTS_PORT, HOST, POP_A, PREFERRED, Size, World, eventually};
use crate::Outcome;
use crate::certificates;
use crate::net::Network;
use crate::net::hub::{Hub, ipv4};
use crate::peers::{Contract, Role, beside};
use crate::process::{Process, last_words};
use crate::quic::connection::Sender;
use crate::quic::keylog::KeyLog;
use crate::quic::trace::Trace;
use crate::quic::wire::Kind;

const MB: u64 = 1 << 20;
/// What a packet of a download carries, or a little less.
const PAYLOAD: u64 = 1_400;
/// Files of a client, all at once.
const FILES: u64 = 20;
/// Two PoPs, of which the gateway holds one.
const SIZE: Size = Size { pops: 2, links: 2, together: false, wanted: 1, preferred: true };

/// A client that came to an address which PoPs share, and followed the PoP to its own, downloads while the PoP drains and the
/// gateway moves to the other: every file comes whole, the PoP ends with success, and the other serves.
pub async fn drain_at_preferred_address(attempt: &Try<'_>) -> Outcome<String> {
    let prepare = async |network: &Network| {
        network.end(POP_A)?.add_address(PREFERRED)?;
        network.add_name(HOST, ipv4(POP_A))
    };
    let mut world = World::start(attempt.folder, SIZE, attempt.hub(SIZE), prepare).await?;
    let moves = world.events(What::Migration)?;
    let lengths: Vec<_> = (0..FILES).map(|number| attempt.bytes(MB) + number).collect();
    let mut client = follower(attempt.folder, &world, &lengths)?;
    passed(&world.network, lengths.iter().sum::<u64>() / PAYLOAD / 10).await?;
    let took = world
        .drain(async || {
            eventually("the client ends", async || Ok(client.exited()?.is_some())).await?;
            match client.exited()? {
                Some(0) => Ok(()),
                code => {
                    Err(format!("the client ended with {code:?}: {}", last_words(&attempt.folder.join("follower")))
                        .into())
                }
            }
        })
        .await?;
    compare(&attempt.folder.join("downloads/bytes"), &lengths)?;
    world.client(1).await?.download(1_000).await?;
    let moves = world.events(What::Migration)? - moves;
    if moves == 0 {
        return Err("the gateway did not move to the other PoP".into());
    }
    let [shared, own] = packets(&mut world, attempt.folder)?;
    if own <= shared {
        return Err(format!("{shared} packets to the shared address, {own} to the PoP's own").into());
    }
    Ok(format!("{own} of {} packets to the PoP's own address, drained in {:.1} s", own + shared, took.as_secs_f64()))
}

/// aioquic, which follows a preferred address.
fn follower(folder: &Path, world: &World, lengths: &[u64]) -> Outcome<Process> {
    for name in ["downloads/bytes", "certs"] {
        fs::create_dir_all(folder.join(name))?;
    }
    fs::copy(folder.join("site-ca.pem"), folder.join("certs/ca.pem"))?;
    let urls: Vec<_> = lengths.iter().map(|length| format!("https://{HOST}:{CLIENTS_PORT}/bytes/{length}")).collect();
    let mut command = Contract::aioquic().program(Role::Client)?;
    command
        .env("TESTCASE", "http3")
        .env("REQUESTS", urls.join(" "))
        .env("DOWNLOADS", folder.join("downloads"))
        .env("CERTS", folder.join("certs"))
        .env("SSLKEYLOGFILE", folder.join("keys.log"));
    Process::start(command, Some(world.network.end(CLIENT)?), &folder.join("follower"))
}

/// Waits until so many more packets have arrived at any end.
async fn passed(network: &Network, packets: u64) -> Outcome<()> {
    let so_far = || network.hub().with(|hub| hub.counts().passed);
    let wanted = so_far() + packets;
    eventually("packets", async || Ok(so_far() >= wanted)).await
}

/// Each file has the upstream's pattern and the length that is its name.
fn compare(folder: &Path, lengths: &[u64]) -> Outcome<()> {
    for length in lengths {
        let file = fs::read(folder.join(length.to_string()))?;
        let mut expected = vec![0; usize::try_from(*length)?];
        pattern_fill(0, &mut expected);
        if file != expected {
            return Err(format!("{} bytes of {length}, or others", file.len()).into());
        }
    }
    Ok(())
}

/// Packets that the client sent after the handshake to the first PoP's shared and own address.
fn packets(world: &mut World, folder: &Path) -> Outcome<[usize; 2]> {
    let captures = world.network.stop()?;
    let log = KeyLog::read([folder.join("keys.log").as_path()]);
    let trace = Trace::read(captures.get(CLIENT).ok_or("no capture")?, CLIENTS_PORT, &log)?;
    let to = |address| {
        let sent = trace.of(Sender::Client, Kind::OneRtt);
        sent.filter(|packet| packet.server.ip() == IpAddr::from(address)).count()
    };
    Ok([to(ipv4(POP_A)), to(PREFERRED)])
}

/// The endpoint of the image as process 1 of a container, which no signal ends that it does not take: SIGTERM ends it with
/// success under a download. How long that takes is printed; the runner of the real matrix kills after a second.
pub async fn sigterm_as_process_1(attempt: &Try<'_>) -> Outcome<String> {
    let folder = attempt.folder;
    for name in ["www", "certs", "logs", "downloads"] {
        fs::create_dir_all(folder.join(name))?;
    }
    certificates::write(&folder.join("certs"), 1, attempt.seed)?;
    fs::write(folder.join("www/file"), vec![7; usize::try_from(64 * MB)?])?;
    let hub = Hub::new(2, attempt.seed, |_, _| attempt.links.direction());
    let network = Network::start(&["client", "server"], hub, folder)?;
    let mut endpoint = Command::new("unshare");
    contract(&mut endpoint, folder).args(["--pid", "--fork", "--kill-child"]).arg(beside("interop-endpoint")?);
    let mut endpoint = Process::start(endpoint, Some(network.end(1)?), &folder.join("server"))?;
    eventually("the endpoint", async || Ok(fs::metadata(folder.join("server.out"))?.len() > 0)).await?;
    let mut client = Command::new(beside("interop-client")?);
    contract(&mut client, folder).env("REQUESTS", "https://server4:443/file");
    let _client = Process::start(client, Some(network.end(0)?), &folder.join("client"))?;
    passed(&network, 500).await?;
    let began = clock::now();
    // SAFETY: a plain system call; the child lives, for `endpoint` waits for it and was not waited for itself.
    unsafe { libc::kill(child_of(endpoint.id())?, libc::SIGTERM) };
    eventually("the endpoint ends", async || Ok(endpoint.exited()?.is_some())).await?;
    match endpoint.exited()? {
        Some(0) => Ok(format!("ended in {} ms", (clock::now() - began).as_millis())),
        code => Err(format!("it ended with {code:?}: {}", last_words(&folder.join("server"))).into()),
    }
}

/// The part of the contract that both roles have.
fn contract<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    let variables = [("WWW", "www"), ("CERTS", "certs"), ("LOGS", "logs"), ("DOWNLOADS", "downloads")];
    command.env("TESTCASE", "transfer").envs(variables.map(|(name, path)| (name, folder.join(path))))
}

/// The only child of a process.
fn child_of(parent: u32) -> Outcome<libc::pid_t> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    Ok(children.trim().parse().map_err(|_| format!("its children are {children:?}"))?)
}
