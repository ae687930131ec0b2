//! What can be seen of a chain from outside: the upstream's own record, metrics, memory.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use trunkline::dev::child::Child;
use trunkline::dev::layout::Folder;

use super::{edge_binary, eventually};

/// The built-in upstream as a process.
pub struct Upstream {
    /// The process.
    pub child: Child,
}

impl Upstream {
    /// Starts it on any port; `folder` is also what it serves files from.
    pub async fn start(folder: &Folder) -> Self {
        let log = folder.path().join("upstream.log");
        let root = folder.path().to_str().expect("UTF-8");
        let args = ["upstream", "--listen", "127.0.0.1:0", "--root", root];
        let child =
            Child::start("upstream", edge_binary(), &args, &log).await.unwrap_or_else(|error| panic!("{error}"));
        Self { child }
    }

    /// `http://…`
    pub fn url(&self) -> String {
        self.child.ready.http2.first().expect("the upstream has an address").clone()
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.url().trim_start_matches("http://").parse().expect("address")
    }

    /// The requests it saw whose path starts with `prefix`, which is one query parameter there.
    pub async fn log(&self, prefix: &str) -> Vec<Value> {
        assert!(!prefix.contains(['&', '#']), "{prefix} would be cut");
        let body = get(self.addr(), &format!("/log?prefix={prefix}")).await;
        serde_json::from_str(&body).expect("a JSON array")
    }

    /// Waits until its only request with `prefix` has `state`.
    pub async fn until(&self, prefix: &str, state: &str) {
        eventually(&format!("{prefix} is {state}"), async || {
            let log = self.log(prefix).await;
            assert!(log.len() < 2, "one request only: {log:?}");
            log.first().is_some_and(|entry| entry["state"] == state).then_some(())
        })
        .await;
    }

    /// What it counted for `key`.
    pub async fn executions(&self, key: &str) -> Value {
        serde_json::from_str(&get(self.addr(), &format!("/count?key={key}&report")).await).expect("JSON")
    }
}

/// The sum of a metric over its label sets, or of one series if `name` has labels; from an admin listener.
pub async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let text = get(admin, "/metrics").await;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples = lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| *series == name || series.split('{').next() == Some(name));
    samples.map(|(_, value)| value.parse::<f64>().expect("a number")).sum()
}

/// Most resident memory a process ever had, bytes.
pub fn memory_peak(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.pid())).expect("a living process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
}

/// One plain request, straight to a process.
pub async fn get(peer: SocketAddr, path: &str) -> String {
    status_and_body(peer, path).await.1
}

/// The same with its status.
pub async fn status_and_body(peer: SocketAddr, path: &str) -> (u16, String) {
    let io = TokioIo::new(TcpStream::connect(peer).await.expect("connect"));
    let (mut requests, connection) = hyper::client::conn::http1::handshake(io).await.expect("handshake");
    let request = Request::get(path).header("host", "test").body(Empty::<Bytes>::new()).expect("request");
    let exchange = async move {
        let response = requests.send_request(request).await.expect("response");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("body").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    };
    tokio::join!(exchange, async { drop(connection.await) }).0
}
