//! `interop-client`: the client role under quic-interop-runner, on the QUIC that the origin dials PoPs with. See
//! interop/README.md.
//!
//! Downloads every URL of `REQUESTS` in the way that `TESTCASE` asks for. Exits with 0 when all files are there, with 1
//! when not, and with 127 when it does not know the case.

mod cases;
#[path = "../contract.rs"]
mod contract;
mod dial;
mod download;
mod h3;
mod hq;
mod tls;

use std::env;
use std::process::ExitCode;

use contract::Contract;
use http::Uri;

/// Why files are missing.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    let contract = match Contract::read() {
        Ok(contract) => contract,
        Err((reason, code)) => {
            eprintln!("interop-client: {reason}");
            return code;
        }
    };
    match run(&contract) {
        Ok(files) => {
            println!("interop-client: {} done, {files} files", contract.case);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("interop-client: {}: {error}", contract.case);
            ExitCode::FAILURE
        }
    }
}

fn run(contract: &Contract) -> Result<usize, Failure> {
    let requests = env::var("REQUESTS").map_err(|_| "REQUESTS is missing")?;
    let urls = requests.split_whitespace().map(str::parse).collect::<Result<Vec<Uri>, _>>()?;
    if urls.is_empty() {
        return Err("REQUESTS is empty".into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(cases::run(contract, &urls))?;
    Ok(urls.len())
}
