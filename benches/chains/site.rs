//! Where the ends of a chain run: all on one loopback, or at the ends of a link with delay and loss.
//!
//! Chosen by `rounds`; whoever starts a process of a chain asks here for its addresses and its way into its network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use super::tools::free_address_on;
use crate::Outcome;
use crate::net::Network;
use crate::net::hub::{End, ipv4};

/// One end.
#[derive(Clone)]
pub struct Site {
    /// Where it listens.
    pub ip: IpAddr,
    namespace: Option<(Arc<Network>, End)>,
}

impl Site {
    /// Beside the bench.
    pub fn loopback() -> Self {
        Self { ip: Ipv4Addr::LOCALHOST.into(), namespace: None }
    }

    /// At an end of a network.
    pub fn end(network: &Arc<Network>, end: End) -> Self {
        Self { ip: ipv4(end).into(), namespace: Some((network.clone(), end)) }
    }

    /// An address that nobody uses there.
    pub fn free_address(&self) -> Outcome<SocketAddr> {
        match &self.namespace {
            Some((network, end)) => Ok(network.end(*end)?.inside(|| free_address_on(self.ip))??),
            None => Ok(free_address_on(self.ip)?),
        }
    }

    /// `command`, to be started there.
    pub fn enclose<'a>(&self, command: &'a mut Command) -> Outcome<&'a mut Command> {
        match &self.namespace {
            Some((network, end)) => network.end(*end)?.enclose(command),
            None => Ok(command),
        }
    }
}

/// The ends of a chain.
#[derive(Clone)]
pub struct Sites {
    /// The load generator's.
    pub client: Site,
    /// The edge's.
    pub edge: Site,
    /// The origin's and the upstream's.
    pub origin: Site,
    /// Whether there is a link between any of them.
    pub linked: bool,
}

impl Sites {
    /// All beside the bench.
    pub fn loopback() -> Self {
        let site = Site::loopback();
        Self { client: site.clone(), edge: site.clone(), origin: site, linked: false }
    }
}
