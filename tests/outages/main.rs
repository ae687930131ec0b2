//! Outages with real processes: a mixed load runs while gateways, PoPs, links and upstreams are killed, stopped and
//! drained. One test per outage; each asserts what is logical (no idempotent request failed, every byte right, no POST
//! executed twice) and prints what it measured.
//!
//! `make outages` runs all of them and shows the figures; `make test` runs those that are not ignored.

#[path = "../process/chain/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the process tests use the rest")]
mod chain;
#[path = "../process/client/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the process tests use the rest")]
mod client;

/// What the files of the bench fail with.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[path = "../../benches/chains/template.rs"]
mod template;
#[path = "../../benches/chains/tools.rs"]
mod tools;

mod address;
mod bounds;
mod cluster;
mod drains;
mod gateways;
mod grey;
mod haproxy;
mod links;
mod load;
mod paths;
mod pops;
mod rates;
mod relay;
mod report;
mod tickets;
mod upstreams;
