//! The built-in upstream: a small HTTP server that gives `edge dev`, tests and interop something to carry.
//!
//! HTTP/1.1 and HTTP/2 with prior knowledge on one port, told apart by the client's first bytes; also on a unix
//! socket. It speaks to origins only, never to the open network: no TLS, no authentication. It must be stricter and
//! more predictable than what it helps to test, so every answer is computable by the client (`pattern.rs`, `/hash`)
//! and what it did is told by itself (`/log`, `/count`).

pub(crate) mod body;
mod echo;
mod events;
pub(crate) mod files;
mod journal;
mod link;
mod pattern;
mod query;
mod representation;
mod routes;
mod sha256;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

pub use pattern::pattern_fill;
pub use sha256::Sha256;

use crate::task::Tasks;
use routes::Routes;

/// Client connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8_192;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where the upstream listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address; port 0 picks one.
    Tcp(SocketAddr),
    /// The path of a unix socket; a stale socket file is replaced.
    Unix(PathBuf),
}

/// What the upstream serves, and where.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Where it listens.
    pub listen: Listen,
    /// Folder with static files; without it only the built-in paths exist.
    pub root: Option<PathBuf>,
}

/// A bound upstream, not yet serving.
pub struct Upstream {
    listener: Listener,
    /// Where it listens, with the port that was picked.
    pub addr: Listen,
    routes: Arc<Routes>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Upstream {
    /// Binds the socket and opens the folder.
    ///
    /// # Errors
    /// When the address is taken or the folder cannot be read.
    pub async fn bind(config: UpstreamConfig) -> io::Result<Self> {
        let routes = Arc::new(Routes::new(config.root.as_deref())?);
        let (listener, addr) = match config.listen {
            Listen::Tcp(addr) => {
                let listener = TcpListener::bind(addr).await?;
                let addr = Listen::Tcp(listener.local_addr()?);
                (Listener::Tcp(listener), addr)
            }
            Listen::Unix(path) => {
                remove_stale(&path)?;
                (Listener::Unix(UnixListener::bind(&path)?), Listen::Unix(path))
            }
        };
        Ok(Self { listener, addr, routes })
    }

    /// The upstream as `origin.toml` names it: `http://…` or `unix:…`.
    pub fn url(&self) -> String {
        match &self.addr {
            Listen::Tcp(addr) => format!("http://{addr}"),
            Listen::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// Serves until drain begins, then waits for the requests in flight. Connections are tasks of `tasks`.
    pub async fn run(self, tasks: Tasks) {
        let connections = tasks.child();
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { break };
            tokio::select! {
                () = connections.draining() => break,
                accepted = self.accept(&connections) => match accepted {
                    Ok(serve) => connections.spawn(async move {
                        serve.await;
                        drop(permit);
                    }),
                    Err(error) => {
                        tracing::warn!(%error, "upstream cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        connections.wait().await;
    }

    async fn accept(&self, tasks: &Tasks) -> io::Result<link::Serving> {
        match &self.listener {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Without it a small event waits up to 40 ms for the previous one's acknowledgement.
                stream.set_nodelay(true)?;
                Ok(link::serve(stream, self.routes.clone(), tasks.clone()))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(link::serve(stream, self.routes.clone(), tasks.clone()))
            }
        }
    }
}

/// Removes a socket file that nobody listens on any more; anything else in its place is an error at bind.
fn remove_stale(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() && std::os::unix::net::UnixStream::connect(path).is_err() => {
            std::fs::remove_file(path)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
