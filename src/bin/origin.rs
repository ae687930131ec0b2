//! `origin`: arguments -> config -> `origin::run` -> exit code, and nothing more.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trunkline::admin::client;
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
    /// Move the tunnels of a running origin to another PoP: it comes first until the process ends, and others are let go
    /// when it is ready. Needs `admin` in the configuration.
    Migrate(Migrate),
}

#[derive(clap::Args)]
struct Migrate {
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    to: To,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct To {
    /// The PoP: its name, or its address as in `pops`, with or without the port.
    #[arg(long, value_name = "POP")]
    to: Option<String>,
    /// Back to the order of the configuration.
    #[arg(long)]
    auto: bool,
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
        Command::Status(args) => with_config(&args.file.config, |config| {
            exit::print("origin", client::status(config.admin.as_ref(), args.json))
        }),
        Command::Drain(file) => {
            with_config(&file.config, |config| exit::print("origin", client::drain(config.admin.as_ref())))
        }
        Command::Migrate(Migrate { ask, to }) => with_config(&ask.file.config, |config| {
            exit::print("origin", client::migrate(config.admin.as_ref(), to.to.as_deref(), ask.json))
        }),
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
