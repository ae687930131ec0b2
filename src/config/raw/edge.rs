//! The walk of `edge.toml`.
//!
//! Called by `EdgeConfig`. Holds the ranges of its keys; the defaults are those of the checked structs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::files::{file, folder, pair};
use super::item::{Item, Seen, each, flag, once, some};
use super::names::{address, admin, host_pattern, name, network, pop_address, socket};
use super::numbers::{LONGEST, SHORTEST, duration, number, show_size, size};
use super::section::Section;
use super::shared::{drain, log, tunnel_identity, tunnel_limits, workers};
use crate::config::{EdgeConfig, EdgeService, EdgeTunnel, HostPattern, Http3, Limits, NextPop, TlsCertificate};
use crate::quic::Preferred;
use crate::tunnel::identity::Identity;

/// Everything; none if anything that must be there is missing or wrong.
pub fn edge(top: &mut Section<'_>) -> Option<EdgeConfig> {
    let name = top.required("name", "\"pop-a\"", name);
    let listen = top.required("listen", "[\"[::]:443\"]", some(listen_once(&Seen::default())));
    let workers = workers(top);
    let admin = top.optional("admin", admin);
    let state_dir = top.optional("state_dir", folder);
    let trusted = top.or("trusted", Vec::new(), each(network));
    let mut tls = top.required_table("tls", "cert = \"site.pem\" and key = \"site.key\"");
    let ticket_keys = tls.optional("ticket_keys", file);
    let early_data = early_data(&mut tls);
    let certificates = certificates(tls);
    let tunnel_section = top.required_table("tunnel", "listen, cert, key and ca");
    let tunnel = tunnel(tunnel_section, name.as_deref(), listen.as_deref().unwrap_or_default());
    let services = services(top.required_tables("service", "name and hosts"));
    let pops = pops(top.tables("pop"));
    let limits = limits(top.table("limits"));
    let http3 = http3(top.table("http3"), listen.as_deref().unwrap_or_default());
    let (drain, log) = (drain(top.table("drain")), log(top.table("log")));
    Some(EdgeConfig {
        name: name?,
        workers,
        listen: listen?,
        admin,
        state_dir,
        trusted,
        certificates: certificates?,
        ticket_keys,
        early_data,
        tunnel: tunnel?,
        services: services?,
        pops,
        limits,
        http3,
        drain,
        log,
        #[cfg(feature = "interop")]
        interop: None,
    })
}

/// Two sockets cannot have one address; port 0 gives a fresh port to each.
fn listen_once<'a>(seen: &Seen<SocketAddr>) -> impl Fn(&Item<'a>) -> Option<SocketAddr> {
    |item| {
        let address = socket(item)?;
        if address.port() == 0 { Some(address) } else { once(seen, |_| Some(address))(item) }
    }
}

/// A ticket for early data is used once, which other PoPs cannot know.
fn early_data(tls: &mut Section<'_>) -> bool {
    let early_data = tls.or("early_data", false, flag);
    if early_data && tls.has("ticket_keys") {
        let message = "`early_data` needs tickets of one process, `ticket_keys` makes those of a fleet".into();
        tls.conflict("early_data", message, "one of the two".into());
    }
    early_data
}

/// `[tls]`: `cert` and `key`, or `[[tls.certificate]]` tables, or both.
fn certificates(mut tls: Section<'_>) -> Option<Vec<TlsCertificate>> {
    let more = tls.tables("certificate");
    let mut certificates = Vec::new();
    if more.is_empty() || tls.has("cert") || tls.has("key") {
        certificates.push(certificate(&mut tls));
    } else {
        tls.knows(&["cert", "key"]);
    }
    certificates.extend(more.into_iter().map(|mut section| certificate(&mut section)));
    certificates.into_iter().collect()
}

fn certificate(section: &mut Section<'_>) -> Option<TlsCertificate> {
    pair(section, "site.pem", "site.key").map(|pair| TlsCertificate { cert: pair.cert, key: pair.key })
}

/// `[tunnel]`
fn tunnel(mut section: Section<'_>, name: Option<&str>, clients: &[SocketAddr]) -> Option<EdgeTunnel> {
    let apart = |item: &Item<'_>| {
        let address = socket(item)?;
        match address.port() != 0 && clients.contains(&address) {
            true => item
                .refuse(format!("`{address}` is where HTTP/3 listens"), "another UDP port than in the file's `listen`"),
            false => Some(address),
        }
    };
    let listen = section.required("listen", "\"[::]:7844\"", apart);
    let wanted = name.map(|name| Identity::Pop { name: name.to_owned() });
    let identity = tunnel_identity(&mut section, name.unwrap_or("pop-a"), wanted.as_ref());
    let limits = tunnel_limits(section.table("limits"));
    Some(EdgeTunnel { listen: listen?, identity: identity?, limits })
}

/// `[[service]]`: no name and no host twice.
fn services(sections: Vec<Section<'_>>) -> Option<Vec<EdgeService>> {
    let names = Seen::default();
    let hosts = Seen::default();
    let all: Vec<_> = sections.into_iter().map(|section| service(section, &names, &hosts)).collect();
    all.into_iter().collect()
}

fn service(mut section: Section<'_>, names: &Seen<String>, hosts: &Seen<HostPattern>) -> Option<EdgeService> {
    let name = section.required("name", "\"web\"", once(names, name));
    let hosts = section.required("hosts", "[\"www.example.com\"]", some(once(hosts, host_pattern)));
    let response_timeout = section.or("response_timeout", Duration::from_secs(60), duration(SHORTEST..=LONGEST));
    Some(EdgeService { name: name?, hosts: hosts?, response_timeout })
}

/// `[[pop]]`: no address twice.
fn pops(sections: Vec<Section<'_>>) -> Vec<NextPop> {
    let (tunnels, clients) = (Seen::default(), Seen::default());
    let pop = |mut section: Section<'_>| {
        let tunnel = section.required("tunnel", "\"pop-b.example.net:7844\"", once(&tunnels, pop_address));
        let http3 = section.optional("http3", once(&clients, pop_address));
        Some(NextPop { tunnel: tunnel?, http3 })
    };
    sections.into_iter().filter_map(pop).collect()
}

/// `[limits]`
fn limits(mut section: Section<'_>) -> Limits {
    let default = Limits::default();
    let timeout = || duration(SHORTEST..=LONGEST);
    let stream_window = section.or("stream_window", default.stream_window, size(16 << 10..=1 << 30));
    let connection_window = section.or("connection_window", default.connection_window, size(16 << 10..=1 << 30));
    if connection_window < stream_window {
        let least = show_size(u64::from(stream_window));
        section.conflict(
            "connection_window",
            "`connection_window` is smaller than `stream_window`".into(),
            format!("at least `stream_window`, {least}"),
        );
    }
    Limits {
        connections_max: section.or("connections_max", default.connections_max, number(1..=10_000_000)),
        handshakes_max: section.or("handshakes_max", default.handshakes_max, number(1..=1_000_000)),
        retry_threshold: section.or("retry_threshold", default.retry_threshold, number(0..=1_000_000)),
        streams_max: section.or("streams_max", default.streams_max, number(1..=65_536)),
        resets_max: section.or("resets_max", default.resets_max, number(0..=1_000_000)),
        fields_max: section.or("fields_max", default.fields_max, number(10..=10_000)),
        field_section_max: section.or("field_section_max", default.field_section_max, size(1 << 10..=1 << 20)),
        header_timeout: section.or("header_timeout", default.header_timeout, timeout()),
        idle_timeout: section.or("idle_timeout", default.idle_timeout, timeout()),
        body_timeout: section.or("body_timeout", default.body_timeout, timeout()),
        total_timeout: section.optional("total_timeout", timeout()),
        stream_window,
        connection_window,
        send_window: section.or("send_window", default.send_window, size(16 << 10..=1 << 30)),
        requests_per_address_max: section.optional("requests_per_address_max", number(1..=1_000_000)),
        connections_per_address_rate: section.optional("connections_per_address_rate", number(1..=1_000_000)),
    }
}

/// `[http3]`
fn http3(mut section: Section<'_>, listen: &[SocketAddr]) -> Http3 {
    let default = Http3::default();
    let preferred_address = preferred_address(&mut section, listen);
    Http3 {
        enabled: section.or("enabled", default.enabled, flag),
        alt_svc_max_age: section.or("alt_svc_max_age", default.alt_svc_max_age, duration(Duration::ZERO..=LONGEST)),
        alt_svc_port: section.optional("alt_svc_port", number(1..=u16::MAX)),
        preferred_address,
    }
}

/// One address of each family at most, and a listener that packets to it reach.
fn preferred_address(section: &mut Section<'_>, listen: &[SocketAddr]) -> Preferred {
    let mut preferred = Preferred::default();
    let mut twice = false;
    for address in section.or("preferred_address", Vec::new(), each(address)) {
        twice |= match address {
            IpAddr::V4(address) => preferred.v4.replace(address).is_some(),
            IpAddr::V6(address) => preferred.v6.replace(address).is_some(),
        };
    }
    let conflict = |message: &str, allowed: &str| {
        section.conflict("preferred_address", message.into(), allowed.into());
    };
    if twice {
        conflict("`preferred_address` has two of one family", "one IPv4 and one IPv6 address");
    }
    let reached = |wanted: Preferred| listen.iter().any(|address| wanted.at(*address) == wanted);
    if !listen.is_empty() && !preferred.is_empty() && !reached(preferred) {
        let allowed = "with \"[::]:443\" in `listen`; IPv4 alone also with \"0.0.0.0:443\"";
        conflict("`preferred_address` needs a listener on all addresses", allowed);
    }
    preferred
}
