//! Measurements on a link with delay and loss: the network, the upstream and the chain of each are its own.
//!
//! Used by `rounds`. The link is the user-space one of the interop runner and needs root.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::Outcome;
use crate::chains::{Site, Sites};
use crate::machine::ready_loopback;
use crate::net::Network;
use crate::net::faults::Plan;
use crate::net::hub::{Direction, Hub};
use crate::net::shaping::Shape;

/// Bits per second: what one thread moves in user space without being the limit.
const RATE: u64 = 200_000_000;
/// Packets that wait before the narrow end: what that rate sends in 25 ms.
const QUEUE: usize = 420;
/// All luck follows from it.
const SEED: u64 = 1;

/// A link somewhere in the chain.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    between: Between,
    round_trip: Duration,
    loss_permille: u16,
}

#[derive(Clone, Copy, Debug)]
enum Between {
    ClientAndEdge,
    EdgeAndOrigin,
}

impl Link {
    /// Between client and edge, with so many milliseconds there and back.
    pub const fn client(milliseconds: u64, loss_permille: u16) -> Self {
        Self { between: Between::ClientAndEdge, round_trip: Duration::from_millis(milliseconds), loss_permille }
    }

    /// Between edge and origin.
    pub const fn tunnel(milliseconds: u64, loss_permille: u16) -> Self {
        Self { between: Between::EdgeAndOrigin, round_trip: Duration::from_millis(milliseconds), loss_permille }
    }

    /// Makes it, and says where the ends of a chain are then.
    pub fn make(self, folder: &Path) -> Outcome<Sites> {
        fs::create_dir_all(folder)?;
        let shape = Shape { rate: Some(RATE), delay: self.round_trip / 2, queue: QUEUE };
        let plan = Plan { loss_permille: self.loss_permille, ..Plan::default() };
        let hub = Hub::new(2, SEED, |_, _| Direction { shape, plan: plan.clone() });
        let network = Arc::new(Network::unrecorded(&["near", "far"], hub, folder)?);
        for end in [0, 1] {
            network.end(end)?.inside(ready_loopback)??;
        }
        let (near, far) = (Site::end(&network, 0), Site::end(&network, 1));
        Ok(match self.between {
            Between::ClientAndEdge => Sites { client: near, edge: far.clone(), origin: far, linked: true },
            Between::EdgeAndOrigin => Sites { client: near.clone(), edge: near, origin: far, linked: true },
        })
    }
}

/// Why links cannot be made here, if they cannot.
pub fn obstacle() -> Option<&'static str> {
    // SAFETY: a plain system call.
    let root = unsafe { libc::geteuid() } == 0;
    match () {
        () if !root => Some("links with delay and loss need root"),
        () if !Path::new("/dev/net/tun").exists() => Some("links with delay and loss need /dev/net/tun"),
        () => None,
    }
}
