//! Takes links from origins on the tunnel port. Called once per worker; owns the links' tasks.

use std::sync::Arc;
use std::time::Duration;

use super::crowd::{Crowd, LINKS_MAX};
use super::dispatch::tunnels::{EdgeOwner, Tunnels};
use crate::quic::{Connection, Endpoint, Incoming};
use crate::task::Tasks;
use crate::tunnel::code::CloseCode;
use crate::tunnel::control::Hello;
use crate::tunnel::endpoint::peer_certificate;
use crate::tunnel::identity::{Identity, identity};
use crate::tunnel::link::{self, LinkError};
use crate::tunnel::peer::Peers;

/// For QUIC and TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes under way on one worker; a flood of Initials is met with Retry well before.
const HANDSHAKES_MAX: usize = 256;
/// Handshakes under way from which on a dialler must prove its address.
const RETRY_THRESHOLD: usize = 16;

/// Everything the accept loop of one worker needs besides its endpoint.
#[derive(Clone)]
pub struct Acceptor {
    /// The worker's index.
    pub worker: usize,
    /// What this edge says of itself.
    pub hello: Hello,
    /// Processes at the other end.
    pub peers: Arc<Peers>,
    /// The table that links enter.
    pub tunnels: Arc<Tunnels>,
    /// Links of each gateway.
    pub crowd: Arc<Crowd>,
    /// Where origins dial the other PoPs, for REGISTERED.
    pub pops: Vec<String>,
    /// Owner of the links.
    pub tasks: Tasks,
}

/// Accepts links until the endpoint is closed.
pub async fn accept_links(endpoint: Endpoint, acceptor: Acceptor) {
    let handshakes = acceptor.tasks.child();
    while let Some(incoming) = endpoint.accept().await {
        let under_way = handshakes.len();
        if under_way >= HANDSHAKES_MAX {
            incoming.refuse();
        } else if under_way >= RETRY_THRESHOLD && !incoming.remote_address_validated() {
            // An unvalidated dialler may always be asked.
            incoming.retry();
        } else {
            let acceptor = acceptor.clone();
            handshakes.spawn(async move { acceptor.accept(incoming).await });
        }
    }
}

impl Acceptor {
    async fn accept(self, incoming: Incoming) {
        let address = incoming.remote_address();
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, async { incoming.accept()?.await });
        let outcome = match handshake.await {
            Ok(Ok(connection)) => self.clone().establish(connection).await,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(LinkError::Timeout),
        };
        if let Err(error) = outcome {
            self.peers.metrics().links_failed.inc();
            tracing::warn!(%address, %error, "link refused");
        }
    }

    async fn establish(self, connection: Connection) -> Result<(), LinkError> {
        let (name, granted) = match gateway_identity(&connection) {
            Ok(identity) => identity,
            Err(reason) => {
                connection.close(CloseCode::Identity.varint(), reason.as_bytes());
                return Err(LinkError::Identity(reason));
            }
        };
        let Some(place) = self.crowd.enter(&name) else {
            let reason = format!("gateway {name} has {LINKS_MAX} links already");
            self.peers.metrics().links_refused.inc();
            connection.close(CloseCode::Busy.varint(), reason.as_bytes());
            return Err(LinkError::Refused(reason));
        };
        let check = |hello: &Hello| match hello.node == name && hello.serves {
            true => Ok(()),
            false => Err(format!("a certificate for gateway {name}, but HELLO says {}", hello.node)),
        };
        let established = link::handshake(connection, &self.peers, self.hello, false, self.worker, check);
        let (link, control) = established.await?;
        let owner = Arc::new(EdgeOwner { tunnels: self.tunnels, granted, pops: self.pops });
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            let node = link.peer().node().clone();
            let error = link::run(link, control, owner, &tasks).await;
            drop(place);
            tracing::info!(gateway = %node, reason = %error, "tunnel closed");
        });
        Ok(())
    }
}

fn gateway_identity(connection: &Connection) -> Result<(String, Vec<String>), String> {
    let certificate = peer_certificate(connection).ok_or("no certificate")?;
    match identity(&certificate) {
        Ok(Identity::Gateway { name, services }) => Ok((name, services)),
        Ok(Identity::Pop { name }) => Err(format!("the certificate is of PoP {name}, not of a gateway")),
        Err(error) => Err(error.to_string()),
    }
}
