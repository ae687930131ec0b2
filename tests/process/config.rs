//! Wrong configuration, as an operator meets it.

use std::process::{Command, Output};

use trunkline::dev::layout::{Edge, Folder, GATEWAY, Layout};

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
    for command in ["run", "check"] {
        let output = run(origin_binary(), &[command, "-c"], "name = \"gw-1\"\npops = []\n");
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(3), "{command}: {text}");
        assert!(
            text.contains("wrong.toml:2") && text.contains("pops") && text.contains("service"),
            "{command}: {text}"
        );
        assert!(output.stdout.is_empty(), "no ready line");
    }
}

#[test]
fn the_origin_checks_what_its_file_names() {
    let folder = Folder::temporary().expect("folder");
    let layout = Layout::new(folder.path());
    layout.certificates(&["pop-a".to_owned()], &["localhost".to_owned()]).expect("certificates");
    let check = |tables: &str| {
        layout.origin(&["127.0.0.1:1".to_owned()], &["https://localhost:1".to_owned()], tables).expect("write");
        let config = layout.config(GATEWAY);
        let output = Command::new(origin_binary()).args(["check", "-c"]).arg(&config).output().expect("run");
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).expect("text"))
    };
    let (code, text) = check("ca = \"site-ca.pem\"\n");
    assert_eq!((code, text.contains(": ok, gateway gw-1")), (Some(0), true), "{text}");
    for (tables, expected) in [
        ("ca = \"missing.pem\"\n", "missing.pem"),
        ("ca = \"site.key\"\n", "no certificate in"),
        ("tls_name = \"no name\"\n", "tls_name"),
        ("[service.limits]\nresponse_timeout = \"soon\"\n", "response_timeout"),
    ] {
        let (code, text) = check(tables);
        assert_eq!(code, Some(3), "{tables}: {text}");
        assert!(text.contains(expected) && text.contains("gw-1.toml:") && text.contains('^'), "{tables}: {text}");
    }
}

#[test]
fn an_address_in_use_exits_with_4() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let folder = Folder::temporary().expect("folder");
    let layout = Layout::new(folder.path());
    let hosts = ["localhost".to_owned()];
    layout.certificates(&["pop-a".to_owned()], &hosts).expect("certificates");
    let edge = Edge::new(taken.local_addr().expect("address"), &hosts);
    layout.edge("pop-a", &edge).expect("write");
    let output = Command::new(edge_binary()).args(["run", "-c"]).arg(layout.config("pop-a")).output().expect("run");
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
}
