//! What quic-interop-runner tells an endpoint, and what it expects of one: the same for both roles. Read once at the start.
//!
//! Folders and the port have the runner's values by default; a variable moves each, so that the programs run without a
//! container too.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

/// The case is not supported: said by the exit code, at once.
pub const UNSUPPORTED: u8 = 127;

/// Every value of TESTCASE that the runner gives to endpoints, but for `v2` (which quinn does not have), `connectionmigration`
/// (interop/README.md says why) and `versionnegotiation` (which the runner does not run).
const CASES: &[&str] = &[
    "handshake",
    "transfer",
    "chacha20",
    "keyupdate",
    "retry",
    "resumption",
    "zerortt",
    "http3",
    "multiconnect",
    "ecn",
    "rebind-port",
    "rebind-addr",
];

/// The environment of one run.
#[derive(Clone, Debug)]
pub struct Contract {
    /// `TESTCASE`
    pub case: String,
    /// `CERTS`: `cert.pem`, `priv.key`, `ca.pem`.
    pub certs: PathBuf,
    /// `QLOGDIR`, if it can be written to.
    pub qlog: Option<PathBuf>,
    /// `PORT`: UDP.
    pub port: u16,
}

impl Contract {
    /// Reads it. With the argument `supported` the program does no more than that.
    ///
    /// # Errors
    /// What to say and to exit with: a case that is none of [`CASES`], or a port that is none.
    pub fn read() -> Result<Self, (String, ExitCode)> {
        let case = env::var("TESTCASE").unwrap_or_default();
        if !CASES.contains(&case.as_str()) {
            return Err((format!("TESTCASE {case:?} is not supported"), ExitCode::from(UNSUPPORTED)));
        }
        if env::args().nth(1).is_some_and(|argument| argument == "supported") {
            return Err((format!("TESTCASE {case:?} is supported"), ExitCode::SUCCESS));
        }
        let port = match env::var("PORT") {
            Ok(port) => port.parse().map_err(|_| (format!("PORT {port:?} is no port"), ExitCode::FAILURE))?,
            Err(_) => 443,
        };
        Ok(Self {
            case,
            certs: folder("CERTS", "/certs"),
            qlog: env::var_os("QLOGDIR").map(PathBuf::from).filter(|path| std::fs::create_dir_all(path).is_ok()),
            port,
        })
    }
}

/// The folder that the variable `name` holds, or the runner's own.
pub fn folder(name: &str, default: &str) -> PathBuf {
    env::var_os(name).map_or_else(|| default.into(), PathBuf::from)
}
