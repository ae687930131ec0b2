use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::fault::{Fault, Kind, Side, Stage};

type Lines<'a> = &'a [(&'a str, &'a str)];

fn map(lines: Lines) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    map
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn hop_by_hop_fields_are_removed() {
    let table: &[(Lines, &[&str])] = &[
        (&[("a", "1")], &["a: 1"]),
        (&[("connection", "keep-alive"), ("keep-alive", "timeout=5"), ("a", "1")], &["a: 1"]),
        (&[("connection", "x-one, X-Two ,,"), ("x-one", "1"), ("x-two", "2"), ("x-three", "3")], &["x-three: 3"]),
        (&[("connection", "x-one"), ("connection", "x-two"), ("x-one", "1"), ("x-two", "2")], &[]),
        (&[("connection", "x-one"), ("x-one", "1"), ("x-one", "2")], &[]),
        (&[("proxy-connection", "close"), ("upgrade", "h2c"), ("http2-settings", "x")], &[]),
        (&[("transfer-encoding", "gzip, chunked")], &[]),
        (&[("proxy-authorization", "x"), ("proxy-authenticate", "y"), ("authorization", "z")], &["authorization: z"]),
        // Naming what frames the message is an attack on the next hop.
        (
            &[("connection", "content-length, host"), ("content-length", "1"), ("host", "h")],
            &["content-length: 1", "host: h"],
        ),
        (&[("connection", "not a name, ()"), ("a", "1")], &["a: 1"]),
        (&[("te", "trailers")], &["te: trailers"]),
        (&[("connection", "te"), ("te", "trailers")], &["te: trailers"]),
        (&[("te", "gzip;q=0.5, Trailers;q=1")], &["te: trailers"]),
        (&[("te", "deflate"), ("te", "trailers")], &["te: trailers"]),
        (&[("te", "gzip")], &[]),
        (&[("te", "trailers-not")], &[]),
        (&[("trailer", "x-sum")], &["trailer: x-sum"]),
    ];
    for (before, after) in table {
        let mut headers = map(before);
        strip_hop_by_hop(&mut headers);
        assert_eq!(lines(&headers), *after, "{before:?}");
    }
}

#[test]
fn via_names_the_version_and_this_hop() {
    let via = Via::new("pop a/\"x\"");
    let mut headers = map(&[("via", "1.1 before")]);
    for version in ["1.0", "1.1", "2", "3", "4"] {
        via.append(&mut headers, version);
    }
    let lines: Vec<_> = headers.get_all("via").iter().collect();
    assert_eq!(lines, ["1.1 before", "1.0 pop-a--x-", "1.1 pop-a--x-", "2 pop-a--x-", "3 pop-a--x-", "1.1 pop-a--x-"]);
}

#[test]
fn a_loop_is_many_passes_or_very_many_hops() {
    let via = Via::new("pop-a");
    let long = "1.1 x, ".repeat(31) + "1.1 y";
    let table: &[(Lines, bool)] = &[
        (&[], false),
        (&[("via", "3 pop-a, 1.1 gw")], false),
        (&[("via", "3 pop-a, 1.1 gw"), ("via", "3 pop-a, 1.1 gw")], false),
        (&[("via", "3 pop-a, 1.1 gw"), ("via", "3  POP-A (c), 1.1 gw"), ("via", "HTTP/2 pop-a")], true),
        (&[("via", "3 pop-ab, 3 pop-b, 3 pop, pop-a 1, pop-a")], false),
        (&[("via", &long)], true),
        (&[("via", &long[7..])], false),
    ];
    for (before, expected) in table {
        assert_eq!(via.is_loop(&map(before)), *expected, "{before:?}");
    }
}

fn forward(before: Lines, peer: &str, trusted: bool) -> Vec<String> {
    let mut headers = map(before);
    let peer: IpAddr = peer.parse().unwrap();
    set_forwarded(&mut headers, &Forwarding { peer, proto: "https", host: "www.example.com:8443", trusted });
    lines(&headers)
}

const CLAIMED: Lines = &[
    ("x-forwarded-for", "10.0.0.1"),
    ("x-forwarded-for", "10.0.0.2"),
    ("x-forwarded-proto", "http"),
    ("x-forwarded-host", "first.example"),
    ("forwarded", "for=10.0.0.1"),
];

#[test]
fn what_a_stranger_says_of_others_is_overwritten() {
    let expected = [
        "forwarded: for=192.0.2.7;proto=https;host=\"www.example.com:8443\"",
        "x-forwarded-for: 192.0.2.7",
        "x-forwarded-host: www.example.com:8443",
        "x-forwarded-proto: https",
    ];
    assert_eq!(forward(&[], "192.0.2.7", false), expected);
    assert_eq!(forward(CLAIMED, "192.0.2.7", false), expected);
    assert_eq!(forward(CLAIMED, "::ffff:192.0.2.7", false), expected);
    assert_eq!(forward(&[], "192.0.2.7", true), expected);
}

#[test]
fn what_a_trusted_peer_says_is_kept_and_added_to() {
    assert_eq!(
        forward(CLAIMED, "2001:db8::1", true),
        [
            "forwarded: for=10.0.0.1, for=\"[2001:db8::1]\";proto=https;host=\"www.example.com:8443\"",
            "x-forwarded-for: 10.0.0.1, 10.0.0.2, 2001:db8::1",
            "x-forwarded-host: first.example",
            "x-forwarded-proto: http",
        ]
    );
}

#[test]
fn request_ids_are_kept_only_from_trusted_peers_and_only_well_formed() {
    let longest = "a".repeat(128);
    let longer = "a".repeat(129);
    let table = [
        ("Root=1-67:a/b+c.d_e@f=", true, true),
        (longest.as_str(), true, true),
        (longer.as_str(), true, false),
        ("", true, false),
        ("two words", true, false),
        ("a\"b", true, false),
        ("fine", false, false),
    ];
    for (id, trusted, kept) in table {
        let mut headers = map(&[("x-request-id", id)]);
        let returned = set_request_id(&mut headers, trusted);
        assert_eq!(headers.get_all(REQUEST_ID).iter().collect::<Vec<_>>(), [&returned]);
        assert_eq!(returned == id, kept, "{id:?}");
    }
    let mut twice = map(&[("x-request-id", "one"), ("x-request-id", "two")]);
    assert_eq!(set_request_id(&mut twice, true), "one");
    assert_eq!(lines(&twice), ["x-request-id: one"]);
}

#[test]
fn new_request_ids_differ_and_are_hexadecimal() {
    let mut ids = std::collections::HashSet::new();
    for _ in 0..1_000 {
        let id = set_request_id(&mut HeaderMap::new(), false);
        let id = id.to_str().unwrap().to_owned();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        assert!(ids.insert(id));
    }
}

#[test]
fn date_is_added_only_when_missing() {
    let mut headers = map(&[("date", "then")]);
    add_date(&mut headers);
    assert_eq!(lines(&headers), ["date: then"]);
    let mut headers = HeaderMap::new();
    add_date(&mut headers);
    let written = httpdate::parse_http_date(headers["date"].to_str().unwrap()).unwrap();
    let age = crate::clock::wall().duration_since(written).unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");
}

#[test]
fn timings_and_reasons_are_appended() {
    let mut headers = map(&[("server-timing", "db;dur=5"), ("proxy-status", "first")]);
    append_server_timing(&mut headers, "gateway", Duration::from_micros(12_045));
    append_proxy_status(&mut headers, "pop-a", &Fault::new(Stage::Upstream, Side::Upstream, Kind::ConnectionRefused));
    assert_eq!(
        lines(&headers),
        [
            "proxy-status: \"pop-a\"; error=connection_refused",
            "proxy-status: first",
            "server-timing: db;dur=5",
            "server-timing: gateway;dur=12.045",
        ]
    );
}

#[test]
fn timings_are_milliseconds_with_three_decimals() {
    for (micros, text) in [
        (0, "0.000"),
        (7, "0.007"),
        (999, "0.999"),
        (1_000, "1.000"),
        (60_000_001, "60000.001"),
        (u64::MAX, "18446744073709551.615"),
    ] {
        let mut headers = HeaderMap::new();
        append_server_timing(&mut headers, "edge", Duration::from_micros(micros));
        assert_eq!(headers["server-timing"], format!("edge;dur={text}"));
    }
}

fn any_headers() -> impl Strategy<Value = HeaderMap> {
    let names = prop::sample::select(vec![
        "connection",
        "keep-alive",
        "te",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-one",
        "x-two",
        "host",
        "content-length",
        "forwarded",
        "x-forwarded-for",
        "x-request-id",
    ]);
    let values = prop_oneof![
        "(x-one|x-two|te|host|connection|trailers|close|[ ,;=\"()]){0,6}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec((names, values), 0..12).prop_map(|lines| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        headers
    })
}

/// RFC 9110 section 7.6.1, word by word and slowly.
fn naive_strip(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all("connection")
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .filter(|name| !["te", "host", "content-length"].contains(&name.as_str()))
        .collect();
    let always = ["connection", "keep-alive", "transfer-encoding", "upgrade", "te"];
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        if !always.contains(&name.as_str()) && !named.contains(&name.as_str().to_owned()) {
            kept.append(name, value.clone());
        }
    }
    kept
}

proptest! {
    #[test]
    fn stripping_equals_the_naive_rule_and_is_idempotent(headers in any_headers()) {
        let mut once = headers.clone();
        strip_hop_by_hop(&mut once);
        let te = once.remove("te");
        prop_assert!(te.is_none_or(|te| te == "trailers"));
        prop_assert_eq!(&once, &naive_strip(&headers));
        let mut twice = once.clone();
        strip_hop_by_hop(&mut twice);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn nothing_that_peers_write_panics_or_survives_distrust(mut headers in any_headers(), peer in any::<IpAddr>()) {
        Via::new("pop-a").is_loop(&headers);
        set_forwarded(&mut headers, &Forwarding { peer, proto: "https", host: "h", trusted: true });
        set_request_id(&mut headers, true);
        set_forwarded(&mut headers, &Forwarding { peer, proto: "https", host: "h", trusted: false });
        prop_assert_eq!(headers.get("x-forwarded-for").unwrap().to_str().unwrap(), peer.to_canonical().to_string());
        prop_assert_eq!(headers.get_all("forwarded").iter().count(), 1);
    }
}
