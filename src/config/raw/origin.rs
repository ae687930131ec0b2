//! The walk of `origin.toml`.
//!
//! Called by `OriginConfig`. Holds the ranges of its keys; the defaults are those of the checked structs.

use super::files::certificates;
use super::item::{Item, Seen, once, some};
use super::names::{admin, authority, name, pop_address, tls_name, upstream};
use super::numbers::{LONGEST, SHORTEST, duration, number, size};
use super::section::Section;
use super::shared::{drain, log, tunnel_identity, tunnel_limits, workers};
use crate::config::origin::{BACKOFF_MAX, DIAL_TIMEOUT, LINKS, POPS_WANTED};
use crate::config::{OriginConfig, OriginPop, OriginService, OriginTunnel, PopAddress, UpstreamLimits};
use crate::tunnel::identity::Identity;

/// More PoPs than anyone names.
const POPS_MAX: usize = 1_000;

/// Everything; none if anything that must be there is missing or wrong.
pub fn origin(top: &mut Section<'_>) -> Option<OriginConfig> {
    let name = top.required("name", "\"gw-1\"", name);
    let seen = Seen::default();
    let pops = top.required("pops", "[\"pop-a.example.net:7844\"]", some(|item| pop(item, &seen)));
    // If the PoPs are wrong, how many of them are wanted cannot be.
    let count = pops.as_ref().map_or(POPS_MAX, Vec::len);
    let pops_wanted = top.or("pops_wanted", POPS_WANTED.min(count), number(1..=count));
    let workers = workers(top);
    let admin = top.optional("admin", admin);
    let tunnel = tunnel(top.required_table("tunnel", "cert, key and ca"), name.as_deref());
    let services = services(top.required_tables("service", "name and upstreams"));
    let (drain, log) = (drain(top.table("drain")), log(top.table("log")));
    Some(OriginConfig {
        name: name?,
        workers,
        pops: pops?,
        pops_wanted,
        admin,
        tunnel: tunnel?,
        services: services?,
        drain,
        log,
    })
}

/// The address of a PoP, or `{ address, domain }`. No address twice.
fn pop(item: &Item<'_>, seen: &Seen<PopAddress>) -> Option<OriginPop> {
    let address = once(seen, pop_address);
    let Some(mut section) = Section::inline(item) else {
        return Some(OriginPop { address: address(item)?, domain: None });
    };
    let address = section.required("address", "\"pop-a.example.net:7844\"", address);
    let domain = section.optional("domain", name);
    Some(OriginPop { address: address?, domain })
}

/// `[tunnel]`
fn tunnel(mut section: Section<'_>, name: Option<&str>) -> Option<OriginTunnel> {
    let wanted = name.map(|name| Identity::Gateway { name: name.to_owned(), services: Vec::new() });
    let identity = tunnel_identity(&mut section, name.unwrap_or("gw-1"), wanted.as_ref());
    let links = section.or("links", LINKS, number(1..=8));
    let backoff_max = section.or("backoff_max", BACKOFF_MAX, duration(SHORTEST * 100..=LONGEST));
    let dial_timeout = section.or("dial_timeout", DIAL_TIMEOUT, duration(SHORTEST * 100..=LONGEST));
    let limits = tunnel_limits(section.table("limits"));
    Some(OriginTunnel { identity: identity?, links, backoff_max, dial_timeout, limits })
}

/// `[[service]]`: no name twice.
fn services(sections: Vec<Section<'_>>) -> Option<Vec<OriginService>> {
    let names = Seen::default();
    let all: Vec<_> = sections.into_iter().map(|section| service(section, &names)).collect();
    all.into_iter().collect()
}

fn service(mut section: Section<'_>, names: &Seen<String>) -> Option<OriginService> {
    let name = section.required("name", "\"web\"", once(names, name));
    let upstreams = section.required("upstreams", "[\"http://127.0.0.1:3000\"]", some(upstream));
    let ca = section.optional("ca", certificates);
    let tls_name = section.optional("tls_name", tls_name);
    let host = section.optional("host", authority);
    let limits = limits(section.table("limits"));
    Some(OriginService { name: name?, upstreams: upstreams?, limits, ca, tls_name, host })
}

/// `[service.limits]`
fn limits(mut section: Section<'_>) -> UpstreamLimits {
    let default = UpstreamLimits::default();
    let timeout = || duration(SHORTEST..=LONGEST);
    UpstreamLimits {
        connections_max: section.or("connections_max", default.connections_max, number(1..=65_536)),
        queue_max: section.or("queue_max", default.queue_max, number(0..=1_000_000)),
        queue_timeout: section.or("queue_timeout", default.queue_timeout, timeout()),
        connect_timeout: section.or("connect_timeout", default.connect_timeout, timeout()),
        response_timeout: section.or("response_timeout", default.response_timeout, timeout()),
        idle_timeout: section.or("idle_timeout", default.idle_timeout, timeout()),
        body_timeout: section.or("body_timeout", default.body_timeout, timeout()),
        field_section_max: section.or("field_section_max", default.field_section_max, size(1 << 10..=1 << 20)),
        fields_max: section.or("fields_max", default.fields_max, number(10..=10_000)),
    }
}
