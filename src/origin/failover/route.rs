//! Which local address leads to a PoP: a machine that changes networks, or whose address does, moves its links at once
//! instead of waiting for silence. Called by `dial` once a second for each link; owns nothing but what it saw last.

use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// What was seen of the way to one PoP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    local: Option<IpAddr>,
    /// There was no way when it was last looked for.
    lost: bool,
}

impl Route {
    /// The way as it is now.
    pub fn new(local: Option<IpAddr>) -> Self {
        Self { local, lost: local.is_none() }
    }

    /// Looked again: whether the way is another one, or there is one again. A way that is lost is none to move to.
    pub fn handle_look(&mut self, local: Option<IpAddr>) -> bool {
        let Some(address) = local else {
            self.lost = true;
            return false;
        };
        let moved = self.lost || self.local != Some(address);
        *self = Self::new(Some(address));
        moved
    }
}

/// The local address from which the system would send to `remote` now; none without a route. Sends nothing.
pub fn local_towards(remote: SocketAddr) -> Option<IpAddr> {
    let socket = Socket::new(Domain::for_address(remote), Type::DGRAM, None).ok()?;
    socket.connect(&remote.into()).ok()?;
    socket.local_addr().ok()?.as_socket().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_moves_when_its_address_changes_or_the_way_is_back_and_only_then() {
        let [home, away] = ["192.0.2.1", "198.51.100.1"].map(|text| text.parse().ok());
        let mut route = Route::new(home);
        assert!(!route.handle_look(home));
        assert!(route.handle_look(away), "another network");
        assert!(!route.handle_look(away), "once");
        assert!(!route.handle_look(None), "nowhere to move to");
        assert!(!route.handle_look(None));
        assert!(route.handle_look(away), "the same address, but what lay between may have forgotten us");
        assert!(Route::new(None).handle_look(home));
    }

    #[test]
    fn the_system_says_from_where_it_would_send() {
        let loopback = local_towards("127.0.0.1:9".parse().unwrap());
        assert_eq!(loopback, "127.0.0.1".parse().ok());
    }
}
