//! curl as a client, with HTTP/3.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Answer, Protocol};
use crate::chain::{Chain, HOST};

/// A curl with HTTP/3: the machine's, or one in target/tools.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/curl.sh");
        let output = Command::new(script).stderr(Stdio::inherit()).output().expect("tests/tools/curl.sh");
        assert!(output.status.success(), "no curl with HTTP/3: see the message above");
        PathBuf::from(String::from_utf8(output.stdout).expect("text").trim())
    })
}

/// Runs curl against the first PoP; `path` is what comes behind the authority. The protocol is forced: another one
/// is a failure.
pub async fn curl(chain: &Chain, protocol: Protocol, path: &str, args: &[&str]) -> Answer {
    let (flag, version, peer) = match protocol {
        Protocol::Http1 => ("--http1.1", "1.1", chain.http2(0)),
        Protocol::Http2 => ("--http2", "2", chain.http2(0)),
        Protocol::Http3 => ("--http3-only", "3", chain.http3(0)),
    };
    let (head, body) = (chain.folder().join("curl.head"), chain.folder().join("curl.body"));
    let mut command = Command::new(program());
    command.args(["-sS", flag, "--max-time", "60", "-w", "%{http_version}"]);
    command.arg("--cacert").arg(chain.site_ca()).arg("-D").arg(&head).arg("-o").arg(&body);
    command.arg("--resolve").arg(format!("{HOST}:{}:{}", peer.port(), peer.ip()));
    command.args(args).arg(format!("https://{HOST}:{}{path}", peer.port()));
    // curl inherits nothing that could change what it does.
    command.env("CURL_HOME", "/nonexistent").stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("join").expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text, version, "the protocol that curl spoke");
    let mut answer = answer(&head, &body);
    if args.contains(&"-I") {
        // For HEAD curl writes the head where the body would go.
        answer.body.clear();
    }
    answer
}

/// The last head that curl wrote (interim ones come before it) and the body.
fn answer(head: &Path, body: &Path) -> Answer {
    let head = std::fs::read_to_string(head).expect("curl wrote a head");
    let last = head.split("\r\n\r\n").filter(|block| block.starts_with("HTTP/")).last().expect("a head");
    let mut lines = last.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let name = HeaderName::try_from(name).expect("a field name");
        headers.append(name, HeaderValue::from_str(value.trim()).expect("a field value"));
    }
    // curl writes no file for an answer without a body.
    let body = std::fs::read(body).unwrap_or_default();
    Answer { status: status.expect("a status"), headers, body: body.into(), trailers: None }
}

/// Every head that curl saw, interim ones too, as their status codes.
pub fn statuses(chain: &Chain) -> Vec<u16> {
    let head = std::fs::read_to_string(chain.folder().join("curl.head")).expect("curl wrote a head");
    let lines = head.lines().filter(|line| line.starts_with("HTTP/"));
    lines.filter_map(|line| line.split(' ').nth(1)).filter_map(|status| status.parse().ok()).collect()
}
