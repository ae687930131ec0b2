//! The judge before captures whose story is known: what is not in them it must not see.
//!
//! The fixtures are aioquic with aioquic: a handshake with one small file, and one with a Retry.

use std::path::PathBuf;

use super::checks::{self, Check};
use super::*;

fn evidence(name: &str, case: &'static str, with_keys: bool) -> Evidence<'static> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("interop/runner/judge/fixtures");
    let file = |end: &str| folder.join(name).with_extension(end);
    let log = if with_keys { KeyLog::read([file("keys").as_path()]) } else { KeyLog::default() };
    let read = || Trace::read(&file("pcap"), PORT, &log).unwrap();
    Evidence { case: Case::named(case).unwrap(), client: read(), server: read(), keys: with_keys }
}

fn failure(check: Check, evidence: &Evidence<'_>) -> String {
    match check(evidence) {
        Verdict::Failed(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plain_handshake_is_one() {
    assert_eq!(weigh(&evidence("handshake", "handshake", true)), Verdict::Passed(None));
    assert_eq!(weigh(&evidence("retry", "retry", true)), Verdict::Passed(None));
}

#[test]
fn everything_in_a_plain_handshake_was_opened() {
    let evidence = evidence("handshake", "handshake", true);
    let closed: Vec<_> = evidence.client.packets.iter().filter(|packet| packet.opened.is_none()).collect();
    assert!(closed.is_empty(), "{closed:?}");
}

#[test]
fn what_was_not_done_is_not_seen() {
    let plain = evidence("handshake", "handshake", true);
    let planted: [(Check, &str); 9] = [
        (checks::retry, "no Retry"),
        (checks::hello_is_repeated, "1 ClientHello"),
        (checks::only_chacha20, "suites offered"),
        (checks::resumption, "1 connections"),
        (checks::zero_rtt, "no 0-RTT"),
        (checks::key_phases, "client 0, server 0"),
        (checks::amplification, "the long chain was not used"),
        (checks::paths_are_validated, "a single path"),
        (checks::addresses_differ, "kept its address"),
    ];
    for (check, expected) in planted {
        let reason = failure(check, &plain);
        assert!(reason.contains(expected), "{reason}, not {expected}");
    }
    assert!(matches!(checks::ecn(&plain), Verdict::Unsupported(_)));
    assert!(failure(checks::only_ipv6, &plain).contains("IPv4"));
}

#[test]
fn a_retry_is_seen_where_none_may_be() {
    assert_eq!(failure(checks::no_retry, &evidence("retry", "retry", true)), "a Retry that nobody asked for");
}

#[test]
fn too_few_handshakes_are_counted() {
    let Verdict::Failed(reason) = weigh(&evidence("handshake", "handshakeloss", true)) else { panic!("passed") };
    assert_eq!(reason, "1 handshakes, not 50");
}

#[test]
fn without_keys_nothing_passes_that_needs_them() {
    let blind = evidence("handshake", "handshake", false);
    for check in
        [checks::ecn, checks::key_phases, checks::paths_are_validated, checks::stream_limit, checks::amplification]
    {
        assert!(matches!(check(&blind), Verdict::Unsupported(_)));
    }
}

#[test]
fn a_missing_a_changed_and_an_extra_file_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (www, downloads) = (folder.path().join("www"), folder.path().join("downloads"));
    fs::create_dir(&www).unwrap();
    fs::create_dir(&downloads).unwrap();
    let judged = || same_files(&www, &downloads).unwrap();
    fs::write(www.join("a"), "1").unwrap();
    assert_eq!(judged(), Err("1 of 1 files did not arrive".to_owned()));
    fs::write(downloads.join("a"), "2").unwrap();
    assert_eq!(judged(), Err("a arrived changed".to_owned()));
    fs::write(downloads.join("a"), "1").unwrap();
    assert_eq!(judged(), Ok(()));
    fs::write(downloads.join("b"), "").unwrap();
    assert_eq!(judged(), Err("b was not asked for".to_owned()));
}
