//! `edge`: arguments -> config -> `edge::run` -> exit code, and nothing more.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trunkline::admin::client;
use trunkline::ca::{self, CaError, Issued, Subject};
use trunkline::config::EdgeConfig;
use trunkline::dev::{self, DevArgs, UpstreamArgs};
use trunkline::exit::{self, Exit};

/// Requests live in many small allocations; the system's allocator took a tenth of their time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Terminates HTTP/3, HTTP/2 and HTTP/1.1 at a Point of Presence and carries the requests through tunnels to `origin`.
#[derive(Parser)]
#[command(name = "edge", version, after_help = exit::HELP, after_long_help = exit::HELP)]
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
    /// Show the tunnels of a running edge. Needs `admin` in its configuration.
    Tunnels(Ask),
    /// Drain a running edge, as SIGTERM does. Needs `admin` in its configuration.
    Drain(File),
    /// Make certificates: the tunnel CA, PoPs, gateways, and a site for development.
    #[command(subcommand)]
    Ca(Ca),
    /// Try everything on this machine: PoPs, an origin and an upstream, with fresh certificates.
    Dev(DevArgs),
    /// The built-in upstream of `dev` alone.
    #[command(hide = true)]
    Upstream(UpstreamArgs),
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

#[derive(Subcommand)]
enum Ca {
    /// Make a tunnel CA: tunnel-ca.pem, tunnel-ca.key.
    Init {
        /// Folder for the files; created if it is not there.
        dir: PathBuf,
    },
    /// Make a key and a certificate. Nothing is overwritten.
    Issue(Issue),
}

#[derive(clap::Args)]
struct Issue {
    /// Folder with the CA.
    dir: PathBuf,
    #[command(flatten)]
    subject: SubjectArgs,
    /// Services that the gateway may serve.
    #[arg(long = "service", value_name = "NAME", num_args = 1.., requires = "gateway", conflicts_with_all = ["pop", "hosts"])]
    services: Vec<String>,
    /// Days that the certificate is valid.
    #[arg(long, default_value_t = ca::DAYS, value_parser = clap::value_parser!(u32).range(1..=i64::from(ca::DAYS_MAX)))]
    days: u32,
    /// Folder for the new files; the CA's unless given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct SubjectArgs {
    /// A PoP, named as in its edge.toml: NAME.pem, NAME.key.
    #[arg(long, value_name = "NAME")]
    pop: Option<String>,
    /// A gateway, named as in its origin.toml: NAME.pem, NAME.key.
    #[arg(long, value_name = "NAME", requires = "services")]
    gateway: Option<String>,
    /// Hosts of a development site: site.pem, site.key, and site-ca.pem for clients to trust.
    #[arg(long = "site", value_name = "HOST", num_args = 1..)]
    hosts: Vec<String>,
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Run(file) => with_config(&file.config, run),
        Command::Tunnels(args) => with_config(&args.file.config, |config| {
            exit::print("edge", client::status(config.admin.as_ref(), args.json))
        }),
        Command::Drain(file) => {
            with_config(&file.config, |config| exit::print("edge", client::drain(config.admin.as_ref())))
        }
        Command::Check(file) => with_config(&file.config, |config| {
            println!("{}: ok, PoP {}", file.config.display(), config.name);
            Exit::Ok
        }),
        Command::Ca(Ca::Init { dir }) => exit::print("edge", ca::init(&dir)),
        Command::Ca(Ca::Issue(args)) => exit::print("edge", issue(args)),
        Command::Dev(args) => dev::run(args),
        Command::Upstream(args) => dev::run_upstream(args),
    }
    .into()
}

fn with_config(path: &Path, then: impl FnOnce(EdgeConfig) -> Exit) -> Exit {
    match EdgeConfig::load(path) {
        Ok(config) => then(config),
        Err(errors) => {
            eprintln!("{errors}");
            Exit::Config
        }
    }
}

/// Serves until a signal.
fn run(config: EdgeConfig) -> Exit {
    match trunkline::edge::run(config) {
        Ok(ended) => ended.into(),
        Err(error) => {
            eprintln!("edge: {error}");
            error.exit()
        }
    }
}

fn issue(args: Issue) -> Result<Issued, CaError> {
    let subject = match (args.subject.pop, args.subject.gateway) {
        (Some(name), _) => Subject::Pop { name },
        (None, Some(name)) => Subject::Gateway { name, services: args.services },
        (None, None) => Subject::Site { hosts: args.subject.hosts },
    };
    ca::issue(&args.dir, args.out.as_deref().unwrap_or(&args.dir), &subject, args.days)
}
