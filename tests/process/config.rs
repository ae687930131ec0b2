//! Wrong configuration, as an operator meets it.

use std::process::{Command, Output};

use trunkline::dev::layout::Folder;

use crate::chain::{edge_binary, origin_binary};

fn run(program: &std::path::Path, args: &[&str], file: &str) -> Output {
    let folder = Folder::temporary().expect("folder");
    let path = folder.path().join("wrong.toml");
    std::fs::write(&path, file).expect("write");
    Command::new(program).args(args).arg(&path).output().expect("run")
}

#[test]
fn a_wrong_file_prints_every_error_and_exits_with_3() {
    let file = "name = \"pop-a\"\nlisten = [\"not an address\"]\nlisten_adress = 1\n[tls]\ncert = \"missing.pem\"\nkey = \"missing.key\"\n";
    for command in ["run", "check"] {
        let output = run(edge_binary(), &[command, "-c"], file);
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(3), "{command}: {text}");
        for expected in ["wrong.toml:2", "wrong.toml:3", "missing.pem", "listen_adress", "tunnel", "^"] {
            assert!(text.contains(expected), "{command}: {expected:?} is not in:\n{text}");
        }
        assert!(output.stdout.is_empty(), "no ready line");
    }
}

#[test]
fn the_origin_does_the_same() {
    let output = run(origin_binary(), &["run", "-c"], "name = \"gw-1\"\npops = []\n");
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("pops") && text.contains("service"), "{text}");
}

#[test]
fn an_address_in_use_exits_with_4() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let folder = Folder::temporary().expect("folder");
    let layout = trunkline::dev::layout::Layout::new(folder.path());
    let hosts = ["localhost".to_owned()];
    layout.certificates(&["pop-a".to_owned()], &hosts).expect("certificates");
    let edge = trunkline::dev::layout::Edge::new(taken.local_addr().expect("address"), &hosts);
    layout.edge("pop-a", &edge).expect("write");
    let output = Command::new(edge_binary()).args(["run", "-c"]).arg(layout.config("pop-a")).output().expect("run");
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
}
