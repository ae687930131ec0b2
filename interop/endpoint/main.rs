//! `interop-endpoint`: Trunkline as a server under quic-interop-runner. See interop/README.md.
//!
//! Without arguments it is the supervisor, which the runner starts; `edge FILE` and `origin FILE` are the two processes
//! that it starts: the products' own, in a build with HTTP/0.9.

#[path = "../contract.rs"]
mod contract;
mod server;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use contract::Contract;
use trunkline::config::{EdgeConfig, Interop, OriginConfig};
use trunkline::exit::Exit;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] | ["supported"] => with_contract(server::run),
        ["edge", file] => with_contract(|contract| edge(Path::new(file), contract).into()),
        ["origin", file] => origin(Path::new(file)).into(),
        _ => failed("no arguments: the environment says what to do (interop/README.md)").into(),
    }
}

fn with_contract(run: impl FnOnce(Contract) -> ExitCode) -> ExitCode {
    Contract::read().map_or_else(
        |(reason, code)| {
            eprintln!("interop-endpoint: {reason}");
            code
        },
        run,
    )
}

fn edge(file: &Path, contract: Contract) -> Exit {
    let mut config = match EdgeConfig::load(file) {
        Ok(config) => config,
        Err(errors) => return failed(errors),
    };
    config.early_data = contract.case == "zerortt";
    config.interop = Some(Interop {
        chacha20: contract.case == "chacha20",
        qlog: contract.qlog,
        direct: server::is_direct().then(server::www),
    });
    trunkline::edge::run(config).map_or_else(failed, Exit::from)
}

fn origin(file: &Path) -> Exit {
    match OriginConfig::load(file) {
        Ok(config) => trunkline::origin::run(config).map_or_else(failed, Exit::from),
        Err(errors) => failed(errors),
    }
}

fn failed(error: impl std::fmt::Display) -> Exit {
    eprintln!("interop-endpoint: {error}");
    Exit::Failed
}
