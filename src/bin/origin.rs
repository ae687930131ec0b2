//! `origin`: arguments -> config -> `origin::run` -> exit code, and nothing more.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use http::Method;
use trunkline::admin::client::{self, AskError};
use trunkline::config::OriginConfig;
use trunkline::exit::{self, Exit};

/// Requests live in many small allocations; the system's allocator took a tenth of their time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Dials PoPs and carries the requests that come through the tunnels to HTTP servers beside it.
#[derive(Parser)]
#[command(name = "origin", version, after_help = exit::HELP, after_long_help = exit::HELP)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve. Prints one line of JSON when ready; SIGTERM drains, a second one ends at once.
    Run(File),
    /// Check a configuration file and everything it names, and print every error.
    Check(File),
    /// Show the tunnels of a running origin. Needs `admin` in its configuration.
    Status(Ask),
    /// Drain a running origin, as SIGTERM does. Needs `admin` in its configuration.
    Drain(File),
}

#[derive(clap::Args)]
struct Ask {
    #[command(flatten)]
    file: File,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct File {
    /// The configuration file (TOML).
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Run(file) => with_config(&file.config, run),
        Command::Status(args) => with_config(&args.file.config, |config| ask(&config, args.json)),
        Command::Drain(file) => with_config(&file.config, |config| drain(&config)),
        Command::Check(file) => with_config(&file.config, |config| {
            println!("{}: ok, gateway {}", file.config.display(), config.name);
            Exit::Ok
        }),
    }
    .into()
}

fn with_config(path: &Path, then: impl FnOnce(OriginConfig) -> Exit) -> Exit {
    match OriginConfig::load(path) {
        Ok(config) => then(config),
        Err(errors) => {
            eprintln!("{errors}");
            Exit::Config
        }
    }
}

/// Serves until a signal.
fn run(config: OriginConfig) -> Exit {
    match trunkline::origin::run(config) {
        Ok(ended) => ended.into(),
        Err(error) => {
            eprintln!("origin: {error}");
            error.exit()
        }
    }
}

/// Asks a running process and prints what it says.
fn ask(config: &OriginConfig, json: bool) -> Exit {
    let status = client::ask(config.admin.as_ref(), Method::GET, "/status");
    match status.and_then(|body| serde_json::from_slice(&body).map_err(|e| AskError::Http(e.to_string()))) {
        Ok(status) if json => told(&format!("{status:#}\n")),
        Ok(status) => told(&client::as_text(&status)),
        Err(error) => failed(&error),
    }
}

/// Starts the drain of a running process, as SIGTERM does.
fn drain(config: &OriginConfig) -> Exit {
    match client::ask(config.admin.as_ref(), Method::POST, "/drain") {
        Ok(_) => told("draining\n"),
        Err(error) => failed(&error),
    }
}

fn told(text: &str) -> Exit {
    print!("{text}");
    Exit::Ok
}

fn failed(error: &AskError) -> Exit {
    eprintln!("origin: {error}");
    Exit::Failed
}
