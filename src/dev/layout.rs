//! The folder of a demo: certificates and configuration files of its PoPs and its origin.
//!
//! Called by `edge dev` and by the process tests. Writes files, starts nothing.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::child::Ready;
use crate::ca::{self, CaError, Subject};

/// The one service of a demo.
pub const SERVICE: &str = "web";
/// The file with the key of session tickets.
const TICKETS: &str = "tickets.keys";
/// The one gateway.
pub const GATEWAY: &str = "gw-1";

/// A folder that may be temporary.
pub struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    /// Uses `dir`, created if need be, and keeps it.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn keep(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { path: dir.canonicalize()?, temporary: false })
    }

    /// A new folder in the system's temporary one, for this user alone; removed when dropped.
    ///
    /// # Errors
    /// When none can be created.
    pub fn temporary() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("trunkline-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, temporary: true })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it goes when it is dropped.
    pub fn is_temporary(&self) -> bool {
        self.temporary
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, folder = %self.path.display(), "the temporary folder stays");
        }
    }
}

/// What is in the folder. Every method writes one file or a pair.
pub struct Layout<'a> {
    dir: &'a Path,
}

impl<'a> Layout<'a> {
    /// The layout of `dir`.
    pub fn new(dir: &'a Path) -> Self {
        Self { dir }
    }

    /// Makes the tunnel CA, all certificates and the key of session tickets that are not there yet.
    ///
    /// # Errors
    /// When a file cannot be written or a name is no name.
    pub fn certificates(&self, pops: &[String], hosts: &[String]) -> Result<(), CaError> {
        if !self.dir.join("tunnel-ca.pem").exists() {
            ca::init(self.dir)?;
        }
        for name in pops {
            self.issue(name, Subject::Pop { name: name.clone() })?;
        }
        self.gateway_certificate(GATEWAY)?;
        self.ticket_keys().map_err(|source| CaError::File { path: self.dir.join(TICKETS), source })?;
        self.issue("site", Subject::Site { hosts: hosts.to_vec() })
    }

    /// Makes the certificate of another gateway.
    ///
    /// # Errors
    /// When a file cannot be written or the name is none.
    pub fn gateway_certificate(&self, name: &str) -> Result<(), CaError> {
        self.issue(name, Subject::Gateway { name: name.into(), services: vec![SERVICE.into()] })
    }

    /// One key that all PoPs share: a client of one resumes at the next.
    fn ticket_keys(&self) -> io::Result<()> {
        let path = self.dir.join(TICKETS);
        if path.exists() {
            return Ok(());
        }
        let mut key = [0_u8; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| io::Error::other("no randomness"))?;
        let mut text = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        text.push('\n');
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        io::Write::write_all(&mut file?, text.as_bytes())
    }

    fn issue(&self, file: &str, subject: Subject) -> Result<(), CaError> {
        if self.dir.join(format!("{file}.pem")).exists() {
            return Ok(());
        }
        ca::issue(self.dir, self.dir, &subject, ca::DAYS).map(drop)
    }

    /// The certificate that clients must trust.
    pub fn site_ca(&self) -> PathBuf {
        self.dir.join("site-ca.pem")
    }

    /// The configuration file of a PoP or gateway.
    pub fn config(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.toml"))
    }

    /// Where a process writes its log.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Writes a PoP's `edge.toml`. `extra` is TOML that goes before the first table.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn edge(&self, name: &str, edge: &Edge<'_>) -> io::Result<()> {
        let listen = quoted(&edge.listen);
        let hosts = quoted(edge.hosts);
        let Edge { tunnel, admin, top, tables, .. } = edge;
        let text = format!(
            "name = \"{name}\"\nlisten = [{listen}]\nadmin = \"{admin}\"\n{top}\n\
             [tls]\ncert = \"site.pem\"\nkey = \"site.key\"\nticket_keys = \"{TICKETS}\"\n\n\
             [tunnel]\nlisten = \"{tunnel}\"\ncert = \"{name}.pem\"\nkey = \"{name}.key\"\nca = \"tunnel-ca.pem\"\n\n\
             [[service]]\nname = \"{SERVICE}\"\nhosts = [{hosts}]\n\n{tables}"
        );
        fs::write(self.config(name), text)
    }

    /// Writes the `origin.toml` of the one gateway.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn origin(&self, pops: &[String], upstreams: &[String], tables: &str) -> io::Result<()> {
        self.gateway(GATEWAY, &Gateway { tables, ..Gateway::new(pops, upstreams) })
    }

    /// Writes a gateway's `origin.toml`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn gateway(&self, name: &str, gateway: &Gateway<'_>) -> io::Result<()> {
        let Gateway { pops, upstreams, admin, top, tables } = gateway;
        let (pops, upstreams) = (quoted(pops), quoted(upstreams));
        let text = format!(
            "name = \"{name}\"\npops = [{pops}]\nadmin = \"{admin}\"\n{top}\n\
             [tunnel]\ncert = \"{name}.pem\"\nkey = \"{name}.key\"\nca = \"tunnel-ca.pem\"\n\n\
             [[service]]\nname = \"{SERVICE}\"\nupstreams = [{upstreams}]\n\n{tables}"
        );
        fs::write(self.config(name), text)
    }
}

/// What differs between the gateways of a demo.
#[derive(Clone, Debug)]
pub struct Gateway<'a> {
    /// Tunnel addresses of the PoPs.
    pub pops: &'a [String],
    /// URLs of the upstreams.
    pub upstreams: &'a [String],
    /// Admin address.
    pub admin: &'a str,
    /// More TOML before the first table.
    pub top: &'a str,
    /// More TOML behind the last table.
    pub tables: &'a str,
}

impl<'a> Gateway<'a> {
    /// A gateway with an admin address that the kernel picks.
    pub fn new(pops: &'a [String], upstreams: &'a [String]) -> Self {
        Self { pops, upstreams, admin: "127.0.0.1:0", top: "", tables: "" }
    }
}

/// What differs between the PoPs of a demo.
#[derive(Clone, Debug)]
pub struct Edge<'a> {
    /// Client addresses.
    pub listen: Vec<String>,
    /// Tunnel address.
    pub tunnel: String,
    /// Admin address.
    pub admin: String,
    /// Hosts of the service.
    pub hosts: &'a [String],
    /// More TOML before the first table.
    pub top: &'a str,
    /// More TOML behind the last table.
    pub tables: &'a str,
}

impl<'a> Edge<'a> {
    /// A PoP on `listen`, its other ports picked by the kernel.
    pub fn new(listen: SocketAddr, hosts: &'a [String]) -> Self {
        let any = SocketAddr::new(listen.ip(), 0).to_string();
        Self { listen: vec![listen.to_string()], tunnel: any, admin: "127.0.0.1:0".into(), hosts, top: "", tables: "" }
    }

    /// The same PoP where it turned out to listen, so that it comes back there when it is started again.
    pub fn at(&self, ready: &Ready) -> Self {
        let first = |found: &[String], wanted: &String| found.first().unwrap_or(wanted).clone();
        Self {
            listen: if ready.http2.is_empty() { self.listen.clone() } else { ready.http2.clone() },
            tunnel: first(&ready.tunnel, &self.tunnel),
            admin: first(&ready.admin, &self.admin),
            ..self.clone()
        }
    }
}

fn quoted(values: &[String]) -> String {
    values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ")
}
