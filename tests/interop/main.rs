//! The endpoint for quic-interop-runner on loopback: both programs as the runner starts them, every case that a link of
//! its own is not needed for. Files are compared byte by byte.

mod endpoint;
mod lines;
mod tap;

use std::net::UdpSocket;
use std::time::Duration;

use endpoint::{Endpoint, UNSUPPORTED, client};
use tap::Tap;

/// Sizes in bytes: nothing, less than a packet, many windows.
const SIZES: [usize; 4] = [0, 1, 1_024, 3_000_000];

fn succeeds(server_case: &str, client_case: &str, sizes: &[usize]) {
    let server = Endpoint::start(server_case, "");
    let files = server.files(sizes);
    let code = server.client(client_case, &files);
    assert_eq!(code, 0, "{}", server.logs());
    server.compare(&files);
    assert_eq!(server.end(), 0);
}

#[test]
fn a_handshake_and_one_small_file() {
    succeeds("handshake", "handshake", &[1_024]);
}

#[test]
fn files_of_any_size_come_through_the_chain_unchanged() {
    succeeds("transfer", "transfer", &SIZES);
}

#[test]
fn two_thousand_files_come_on_one_connection() {
    succeeds("transfer", "transfer", &[32; 2_000]);
}

#[test]
fn http3_downloads_the_same_files() {
    succeeds("http3", "http3", &SIZES);
}

#[test]
fn chacha20_alone_is_enough() {
    succeeds("chacha20", "chacha20", &SIZES);
}

#[test]
fn keys_are_updated_in_the_middle_of_a_file() {
    succeeds("transfer", "keyupdate", &[3_000_000, 1_024]);
}

#[test]
fn a_retry_comes_in_its_case_and_in_no_other() {
    for (case, retries) in [("retry", true), ("handshake", false)] {
        let server = Endpoint::start(case, "");
        let files = server.files(&[10_240]);
        let tap = Tap::start(server.port());
        let code = client(case, &format!("https://127.0.0.1:{}/{}", tap.port(), files.concat()), &[server.folder()]);
        assert_eq!(code, 0, "{}", server.logs());
        server.compare(&files);
        // RFC 9000 section 17.2.5: a long header of type 3.
        assert_eq!(tap.first_bytes().iter().any(|byte| byte & 0xf0 == 0xf0), retries, "{case}");
        assert_eq!(server.end(), 0);
    }
}

#[test]
fn the_second_connection_is_resumed() {
    succeeds("resumption", "resumption", &[5_120, 10_240]);
}

#[test]
fn requests_in_0rtt_are_answered_and_the_upstream_knows() {
    let server = Endpoint::start("zerortt", "");
    let mut files = server.files(&[32; 40]);
    assert_eq!(server.client("zerortt", &files), 0, "{}", server.logs());
    server.compare(&files);
    // The upstream says what it was asked.
    files.truncate(1);
    files.push("echo".into());
    assert_eq!(server.client("zerortt", &files), 0, "{}", server.logs());
    let asked = server.downloaded("echo").expect("an answer");
    let asked = String::from_utf8(asked).expect("JSON");
    assert!(asked.contains("early-data"), "{asked}");
    assert_eq!(server.end(), 0);
}

#[test]
fn every_file_has_a_connection_of_its_own() {
    let server = Endpoint::start("multiconnect", "");
    let files = server.files(&[1_024; 20]);
    assert_eq!(server.client("multiconnect", &files), 0, "{}", server.logs());
    server.compare(&files);
    assert_eq!(server.qlog("_server.sqlog").len(), 20);
    assert_eq!(server.end(), 0);
}

#[test]
fn an_edge_alone_serves_the_same_files() {
    let server = Endpoint::start("transfer", "INTEROP_DIRECT=1");
    let files = server.files(&SIZES);
    for case in ["transfer", "http3"] {
        assert_eq!(server.client(case, &files), 0, "{}", server.logs());
        server.compare(&files);
    }
    assert_eq!(server.end(), 0);
}

#[test]
fn a_file_that_is_not_there_fails_and_leaves_nothing() {
    for params in ["", "INTEROP_DIRECT=1"] {
        let server = Endpoint::start("transfer", params);
        for case in ["transfer", "http3"] {
            assert_eq!(server.client(case, &["missing".into()]), 1);
            assert_eq!(server.downloaded("missing"), None);
        }
        assert_eq!(server.end(), 0);
    }
}

#[test]
fn an_unknown_case_is_unsupported_in_both_roles() {
    for case in ["v2", "versionnegotiation", "some-random-words", ""] {
        assert_eq!(endpoint::server_exit(case), UNSUPPORTED, "{case}");
        assert_eq!(client(case, "https://localhost:1/file", &[]), UNSUPPORTED, "{case}");
    }
}

#[test]
fn secrets_of_clients_are_logged_and_those_of_tunnels_are_not() {
    let server = Endpoint::start("handshake", "");
    let files = server.files(&[1_024]);
    assert_eq!(server.client("handshake", &files), 0, "{}", server.logs());
    let secrets = server.secrets();
    let handshakes = |text: &str| text.lines().filter(|line| line.starts_with("SERVER_HANDSHAKE")).count();
    assert_eq!((handshakes(&secrets.client), handshakes(&secrets.server)), (1, 1));
    assert!(secrets.server.lines().all(|line| secrets.client.contains(line)), "the server logged another connection");
    assert_eq!(server.end(), 0);
}

#[test]
fn an_unknown_version_is_answered_with_those_that_are_known() {
    let server = Endpoint::start("handshake", "");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    // RFC 9000 section 15: versions of this form are never in use.
    let mut packet = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 4, 9, 9, 9, 9];
    packet.resize(1_200, 0);
    socket.send_to(&packet, ("127.0.0.1", server.port())).expect("sent");
    let mut answer = [0; 1_500];
    let length = socket.recv(&mut answer).expect("an answer");
    let answer = answer.get(..length).expect("its bytes");
    assert_eq!(answer.get(1..5), Some(&[0; 4][..]), "Version Negotiation");
    assert_eq!(answer.get(5..11), Some(&[4, 9, 9, 9, 9, 8][..]), "the IDs change places");
    assert!(answer.get(19..).expect("versions").chunks(4).any(|version| version == [0, 0, 0, 1]));
    assert_eq!(server.end(), 0);
}

#[test]
fn a_line_is_get_and_a_path_and_anything_else_is_reset() {
    let server = Endpoint::start("transfer", "");
    server.files(&[1_024]);
    let served = server.served("file-0");
    let asked = |lines: &[&str]| lines::ask(server.folder(), server.port(), lines);
    // The line's end may be missing, and what follows it means nothing.
    for answer in asked(&["GET /file-0\r\n", "GET /file-0\n", "GET /file-0", "GET /file-0\r\nmore\r\n"]) {
        assert_eq!(answer.as_ref(), Ok(&served));
    }
    let long = format!("GET /{}\r\n", "a".repeat(100_000));
    let wrong =
        ["", "\r\n", "GET", "GET \r\n", "get /file-0\r\n", "POST /file-0\r\n", "GET file-0\r\n", "GET / x", &long];
    for answer in asked(&wrong) {
        assert_eq!(answer, Err(1));
    }
    assert_eq!(server.end(), 0);
}
