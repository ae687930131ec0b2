//! quiche (with BoringSSL) by the contract of quic-interop-runner: hq-interop and HTTP/3, both roles.
//!
//! Started by interop/runner with the contract's environment. Exits with 127 for what quiche does not do: version 2, as a client
//! also one suite alone and key updates, which it follows but does not begin.

mod client;
#[path = "../../contract.rs"]
mod contract;
mod conversation;
mod h3;
mod hq;
mod link;
mod server;

use std::process::ExitCode;

use contract::{IDLE_TIMEOUT, Outcome, UNSUPPORTED, ended, variable};
use quiche::{Config, PROTOCOL_VERSION};

const BOTH: [&str; 7] = ["handshake", "transfer", "retry", "resumption", "zerortt", "http3", "multiconnect"];
/// What the client does and a server has to let happen.
const SERVER: [&str; 2] = ["chacha20", "keyupdate"];
/// UDP payload, with IPv6 less than Ethernet's.
const DATAGRAM_MAX: usize = 1_350;

fn main() -> ExitCode {
    let (role, case) = (variable("ROLE"), variable("TESTCASE"));
    let client = role == "client";
    if !BOTH.contains(&case.as_str()) && (client || !SERVER.contains(&case.as_str())) {
        return ExitCode::from(UNSUPPORTED);
    }
    ended("quiche", &role, if client { client::download(&case) } else { server::serve(&case) })
}

/// What both roles have in common.
fn config(case: &str) -> Outcome<Config> {
    let mut config = Config::new(PROTOCOL_VERSION)?;
    config.set_application_protos(if case == "http3" { quiche::h3::APPLICATION_PROTOCOL } else { &[b"hq-interop"] })?;
    config.set_max_idle_timeout(IDLE_TIMEOUT.as_millis().try_into()?);
    config.set_max_send_udp_payload_size(DATAGRAM_MAX);
    config.set_initial_max_data(10_000_000);
    config.set_initial_max_stream_data_bidi_local(1_000_000);
    config.set_initial_max_stream_data_bidi_remote(1_000_000);
    config.set_initial_max_stream_data_uni(1_000_000);
    config.set_initial_max_streams_bidi(100);
    config.set_initial_max_streams_uni(100);
    if case == "zerortt" {
        config.enable_early_data();
    }
    config.log_keys();
    Ok(config)
}
