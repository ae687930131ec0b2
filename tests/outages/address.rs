//! The local address of an origin changes: its links move to where the PoP is reached from now. In two network namespaces
//! of the test's own thread, which end with it; where they cannot be made the test says that it was skipped.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use serde_json::Value;
use trunkline::clock;
use trunkline::dev::child::Child;
use trunkline::dev::layout::{GATEWAY, Layout};
use trunkline::dev::upstream::pattern_fill;

use crate::chain::{Chain, Setup, edge_binary, eventually, in_time, metric, origin_binary, status_and_body};
use crate::client::{Client, Protocol};

/// More than all buffers on the way hold, so that it is under way for as long as its reader waits.
const LENGTH: usize = 64 << 20;

/// A network of the PoP, in which the test runs, and one of the origin's site, with a wire between them.
struct Ground {
    pop: File,
    site: File,
}

impl Ground {
    /// Makes both.
    fn new() -> io::Result<Self> {
        let pop = namespace()?;
        let site = namespace()?;
        let there = format!("/proc/{}/fd/{}", std::process::id(), pop.as_raw_fd());
        ip(&["link", "add", "site", "type", "veth", "peer", "name", "pop", "netns", &there])?;
        ip(&["addr", "add", "10.77.0.2/24", "dev", "site"])?;
        ip(&["link", "set", "site", "up"])?;
        let ground = Self { pop, site };
        ground.at_pop()?;
        ip(&["addr", "add", "10.77.0.1/24", "dev", "pop"])?;
        ip(&["link", "set", "pop", "up"])?;
        Ok(ground)
    }

    /// What this thread opens or starts from now on is at the PoP.
    fn at_pop(&self) -> io::Result<()> {
        enter(&self.pop)
    }

    /// At the origin's site.
    fn at_site(&self) -> io::Result<()> {
        enter(&self.site)
    }
}

/// A new network namespace, which this thread is in then.
fn namespace() -> io::Result<File> {
    // SAFETY: no pointers; only this thread moves.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    ip(&["link", "set", "lo", "up"])?;
    File::open("/proc/thread-self/ns/net")
}

fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor is open for the length of the call.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `ip` of iproute2, in the namespace of this thread.
fn ip(args: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(io::Error::other(format!("ip {}: {told}", args.join(" ")))) }
}

/// Where the PoP's links come from.
async fn addresses(chain: &Chain) -> Vec<String> {
    let (_, status) = status_and_body(chain.admin(0), "/status").await;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let tunnels = status["tunnels"].as_array().expect("tunnels").iter();
    tunnels.map(|tunnel| tunnel["address"].as_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn an_origin_whose_address_changes_moves_its_links_and_what_rides_on_them() {
    let ground = match Ground::new() {
        Ok(ground) => ground,
        Err(error) => return println!("SKIPPED, since network namespaces need root and iproute2: {error}"),
    };
    let chain = Chain::with(Setup { origin: false, tunnel: "10.77.0.1:0", ..Setup::default() }).await;
    let layout = Layout::new(chain.folder());

    ground.at_site().expect("the site");
    let args = ["upstream", "--listen", "127.0.0.1:0"];
    let upstream = Child::start("upstream", edge_binary(), &args, &layout.log("upstream-site")).await;
    let upstream = upstream.expect("an upstream");
    let (pops, upstreams) = (chain.edges[0].ready.tunnel.clone(), upstream.ready.http2.clone());
    layout.origin(&pops, &upstreams, "").expect("origin.toml");
    let config = layout.config(GATEWAY);
    let args = ["run", "-c", config.to_str().expect("UTF-8")];
    let _origin = Child::start(GATEWAY, origin_binary(), &args, &layout.log(GATEWAY)).await.expect("an origin");
    ground.at_pop().expect("the PoP");

    let comes_from = async |address: &str| {
        let addresses = addresses(&chain).await;
        (addresses.len() == 2 && addresses.iter().all(|link| link.starts_with(address))).then_some(())
    };
    eventually("the origin is there", async || comes_from("10.77.0.2:").await).await;
    let opened = metric(chain.admin(0), "trunkline_tunnel_links_opened_total").await;

    let mut client = Client::connect(&chain, Protocol::Http2).await;
    let request = client.request("GET", &format!("/bytes/{LENGTH}"));
    let mut body = client.stream(request).await.expect("head").into_body();
    let (mut at, mut expected) = (0, Vec::new());
    while let Some(frame) = in_time("data", body.frame()).await {
        let data = frame.unwrap_or_else(|error| panic!("at {at}: {error}")).into_data().expect("data");
        expected.resize(data.len(), 0);
        pattern_fill(at as u64, &mut expected);
        assert!(data == expected, "wrong bytes at {at}");
        if at == 0 {
            ground.at_site().expect("the site");
            ip(&["addr", "del", "10.77.0.2/24", "dev", "site"]).expect("no address");
            ip(&["addr", "add", "10.77.0.3/24", "dev", "site"]).expect("another address");
            ground.at_pop().expect("the PoP");
            let since = clock::now();
            eventually("the links come from there", async || comes_from("10.77.0.3:").await).await;
            let again = metric(chain.admin(0), "trunkline_tunnel_links_opened_total").await;
            let (took, new) = (since.elapsed().as_millis(), again - opened);
            println!("| the origin's address changes | links moved after {took} ms, {new} of 2 to new connections |");
        }
        at += data.len();
    }
    assert_eq!(at, LENGTH, "the download that was under way is whole");
}
