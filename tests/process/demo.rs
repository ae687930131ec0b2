//! `edge dev`, as a newcomer runs it.

use std::process::{Command, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

use crate::chain::{edge_binary, in_time};

#[tokio::test]
async fn the_show_kills_cuts_and_drains_and_no_client_notices() {
    let mut command = Command::new(edge_binary());
    command.args(["dev", "--outages", "--for", "12s", "--listen", "127.0.0.1:0"]).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("edge dev");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("failed 0 | resumed") && text.contains("\nFailed: 0."), "{text}");
    for act in ["tunnel cut", "killed"] {
        assert!(text.contains(&format!("1 x {act}")) || text.contains(&format!("2 x {act}")), "{act}: {text}");
    }
    let downloaded = text.split("whole downloads, ").nth(1).and_then(|rest| rest.split(' ').next()).expect("totals");
    assert!(downloaded.parse::<u64>().expect("MiB") > 0, "{text}");
}

#[tokio::test]
async fn the_demo_serves_says_how_and_leaves_nothing_behind() {
    let mut child = Command::new(edge_binary())
        .args(["dev", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .expect("edge dev");
    let pid = libc::pid_t::try_from(child.id()).expect("pid");
    let stdout = std::os::fd::OwnedFd::from(child.stdout.take().expect("stdout"));
    let mut lines = BufReader::new(pipe::Receiver::from_owned_fd(stdout).expect("pipe")).lines();
    let mut text = Vec::new();
    while let Some(line) = in_time("the demo's text", lines.next_line()).await.expect("read") {
        let last = line.contains("Ctrl-C");
        text.push(line);
        if last {
            break;
        }
    }
    let all = text.join("\n");
    assert_eq!(text.iter().filter(|line| line.contains("HTTP/3: 200")).count(), 2, "{all}");
    let ca = all.split("--cacert ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a curl line").to_owned();
    let kill = text.iter().find(|line| line.contains("kill -9 ")).expect("a kill line");
    let pop = kill.split_whitespace().nth(2).and_then(|pid| pid.parse::<i32>().ok()).expect("a pid");
    assert!(std::path::Path::new(&ca).exists(), "{ca}");
    // SAFETY: plain integers; both processes are ours.
    unsafe { libc::kill(pop, libc::SIGKILL) };
    let news = in_time("news of the killed PoP", lines.next_line()).await.expect("read").expect("a line");
    assert!(news.contains("pop-b is gone"), "{news}");
    // SAFETY: as above.
    unsafe { libc::kill(pid, libc::SIGINT) };
    while in_time("the end", lines.next_line()).await.expect("read").is_some() {}
    assert_eq!(child.wait().expect("wait").code(), Some(0));
    assert!(!std::path::Path::new(&ca).exists(), "the temporary folder is gone");
}
