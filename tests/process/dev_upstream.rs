//! `edge dev --upstream`: the user's own server instead of the built-in one.

use std::process::{Command, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use trunkline::dev::layout::Folder;

use crate::chain::{Upstream, edge_binary, in_time};

#[tokio::test]
async fn a_demo_serves_the_users_own_server() {
    let folder = Folder::temporary().expect("a temporary folder");
    let upstream = Upstream::start(&folder).await;
    let mut child = Command::new(edge_binary())
        .args(["dev", "--pops", "1", "--listen", "127.0.0.1:0", "--upstream", &upstream.url()])
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .expect("edge dev");
    let pid = libc::pid_t::try_from(child.id()).expect("pid");
    let stdout = std::os::fd::OwnedFd::from(child.stdout.take().expect("stdout"));
    let mut lines = BufReader::new(pipe::Receiver::from_owned_fd(stdout).expect("pipe")).lines();
    let mut text = String::new();
    while !text.contains("Ctrl-C") {
        let line = in_time("the demo's text", lines.next_line()).await.expect("read").expect("the demo runs");
        text.push_str(&line);
        text.push('\n');
    }
    assert!(text.starts_with(&format!("Trunkline serves {}\n", upstream.url())), "{text}");
    assert!(text.contains("HTTP/3: 200"), "{text}");
    let log = upstream.log("/").await;
    let probe = log.iter().find(|entry| entry["request_id"].is_string()).expect("the probe went through the chain");
    assert_eq!((&probe["method"], &probe["path"]), (&"GET".into(), &"/".into()), "{log:?}");
    // SAFETY: plain integers; the process is ours.
    unsafe { libc::kill(pid, libc::SIGINT) };
    while in_time("the end", lines.next_line()).await.expect("read").is_some() {}
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

#[test]
fn an_upstream_that_is_no_url_is_said_so() {
    let output = Command::new(edge_binary())
        .args(["dev", "--pops", "1", "--listen", "127.0.0.1:0", "--upstream", "ftp://127.0.0.1"])
        .output()
        .expect("edge dev");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("ftp://127.0.0.1") && text.contains("http://"), "{text}");
}
