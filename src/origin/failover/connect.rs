//! From a PoP's address to a QUIC connection and its HELLO: resolves the name anew for each dial, tries the addresses of
//! both families, checks who answers. Called by `dial`; holds nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::dial::{Dialler, Holder};
use crate::quic::{self, Connection, Endpoint, initial_cid};
use crate::tunnel::code::CloseCode;
use crate::tunnel::control::Hello;
use crate::tunnel::endpoint::peer_certificate;
use crate::tunnel::identity::{Identity, POP_SERVER_NAME, identity};
use crate::tunnel::link::{self, ControlStream, Link, LinkError};

/// How long an address may stay silent before the next one is tried as well (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Addresses that one dial tries.
const ATTEMPTS_MAX: usize = 6;

/// Why a dial came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address now and had none before.
    #[error("cannot resolve {0}")]
    Resolve(String),
    /// No socket.
    #[error("{0}")]
    Socket(#[from] std::io::Error),
    /// quinn cannot begin to dial the address.
    #[error("{0}")]
    Connect(#[from] quinn::ConnectError),
    /// The connection or the link failed.
    #[error("{0}")]
    Link(#[from] LinkError),
    /// REGISTERED did not come.
    #[error("not registered in time")]
    Timeout,
}

impl DialError {
    /// Whether trying soon again is useless.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Link(LinkError::Identity(_) | LinkError::Refused(_) | LinkError::Wire(_)) => true,
            // A TLS alert: certificates do not fit.
            Self::Link(LinkError::Connection(quinn::ConnectionError::TransportError(error))) => {
                (0x100..0x200).contains(&u64::from(error.code))
            }
            _ => false,
        }
    }
}

/// A link that has said HELLO and not yet registered.
pub(super) struct Dialled {
    pub(super) link: Arc<Link>,
    pub(super) control: ControlStream,
    /// Its socket's endpoint, which no other link shares.
    pub(super) endpoint: Endpoint,
}

impl Dialler {
    /// Dials the PoP. Has no deadline of its own.
    pub(super) async fn dial(&self, holder: &mut Holder) -> Result<Dialled, DialError> {
        let addresses = in_turn(self.resolve(holder).await?);
        let mut config = self.client.clone();
        let seat = holder.seat;
        config.initial_dst_cid_provider(Arc::new(move || initial_cid(seat)));
        let (endpoint, connection) =
            first_to_answer(addresses, |address| connect(config.clone(), address, self.peers.clone().ties())).await?;
        let name = match pop_identity(&connection) {
            Ok(name) => name,
            Err(reason) => {
                connection.close(CloseCode::Identity.varint(), reason.as_bytes());
                return Err(LinkError::Identity(reason).into());
            }
        };
        let check = |hello: &Hello| match hello.node == name && hello.sends {
            true => Ok(()),
            false => Err(format!("a certificate for PoP {name}, but HELLO says {}", hello.node)),
        };
        let (link, control) =
            link::handshake(connection, &self.peers, self.hello.clone(), true, holder.worker, check).await?;
        Ok(Dialled { link, control, endpoint })
    }

    /// The addresses of the PoP's name now.
    async fn resolve(&self, holder: &mut Holder) -> Result<Vec<SocketAddr>, DialError> {
        let host = holder.address.host.as_str();
        let lookup = tokio::net::lookup_host((host, holder.address.port));
        let found = match tokio::time::timeout(self.dial_timeout / 2, lookup).await {
            Ok(Ok(found)) => Ok(found.collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        };
        found_or_known(host, found, &mut holder.known)
    }
}

/// What a name was found to have, or what it had when it was last found, if the resolver fails: an outage of DNS need not
/// become one of the tunnels.
fn found_or_known(
    host: &str,
    found: Result<Vec<SocketAddr>, String>,
    known: &mut Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, DialError> {
    let failure = match found {
        Ok(found) if !found.is_empty() => {
            *known = found;
            return Ok(known.clone());
        }
        Ok(_) => "no address".to_owned(),
        Err(failure) => failure,
    };
    if known.is_empty() {
        return Err(DialError::Resolve(format!("{host}: {failure}")));
    }
    tracing::warn!(host, failure, "the name does not resolve; its last addresses are dialled");
    Ok(known.clone())
}

/// The order in which addresses are tried: families in turn, beginning with that of the first, which the system prefers
/// (RFC 8305 section 4); within a family at random, as a name may have addresses that do not answer.
fn in_turn(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else { return addresses };
    fastrand::shuffle(&mut addresses);
    let (preferred, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let pairs = std::iter::from_fn(|| {
        let pair = [preferred.next(), other.next()];
        pair.iter().any(Option::is_some).then_some(pair)
    });
    pairs.flatten().flatten().take(ATTEMPTS_MAX).collect()
}

/// Tries the addresses one after the other, each when the last failed or was silent for [`ATTEMPT_DELAY`], and answers
/// the first that succeeds; the others are given up.
async fn first_to_answer<T, F>(addresses: Vec<SocketAddr>, attempt: impl Fn(SocketAddr) -> F) -> Result<T, DialError>
where
    F: Future<Output = Result<T, DialError>>,
{
    let mut attempts = FuturesUnordered::new();
    let mut failure = DialError::Timeout;
    let mut addresses = addresses.into_iter().peekable();
    loop {
        attempts.extend(addresses.next().map(&attempt));
        tokio::select! {
            result = attempts.next() => match result {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(error)) => failure = error,
                None => return Err(failure),
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if addresses.peek().is_some() => {}
        }
    }
}

/// One QUIC handshake, from a socket of its own.
async fn connect(
    config: quinn::ClientConfig,
    address: SocketAddr,
    ties: quic::Ties,
) -> Result<(Endpoint, Connection), DialError> {
    let socket = quic::dialling_socket(address)?;
    let endpoint = quic::endpoint(quinn::EndpointConfig::default(), None, socket, Some(ties))?;
    let connection = endpoint.connect_with(config, address, POP_SERVER_NAME)?.await.map_err(LinkError::Connection)?;
    Ok((endpoint, connection))
}

fn pop_identity(connection: &Connection) -> Result<String, String> {
    let certificate = peer_certificate(connection).ok_or("no certificate")?;
    match identity(&certificate) {
        Ok(Identity::Pop { name }) => Ok(name),
        Ok(Identity::Gateway { name, .. }) => Err(format!("the certificate is of gateway {name}, not of a PoP")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use parking_lot::Mutex;

    use super::*;
    use crate::clock;

    fn addresses(text: &[&str]) -> Vec<SocketAddr> {
        text.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn a_name_that_moved_is_followed_and_one_that_no_longer_resolves_stays_where_it_was() {
        let (old, new, mut known) = (addresses(&["192.0.2.1:1"]), addresses(&["192.0.2.2:1"]), Vec::new());
        let unknown = found_or_known("a.test", Err("down".into()), &mut known).unwrap_err();
        assert!(unknown.to_string().contains("a.test: down"), "{unknown}");
        assert_eq!(found_or_known("a.test", Ok(old.clone()), &mut known).unwrap(), old);
        assert_eq!(found_or_known("a.test", Ok(new.clone()), &mut known).unwrap(), new);
        for failure in [Err("down".to_owned()), Ok(Vec::new())] {
            assert_eq!(found_or_known("a.test", failure, &mut known).unwrap(), new);
        }
    }

    #[test]
    fn families_take_turns_beginning_with_the_one_that_the_system_prefers() {
        let mixed = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1"]);
        for _ in 0..20 {
            let order = in_turn(mixed.clone());
            let families: Vec<_> = order.iter().map(SocketAddr::is_ipv6).collect();
            assert_eq!(families, [true, false, true, true]);
            assert!(mixed.iter().all(|address| order.contains(address)));
        }
        assert_eq!(in_turn(addresses(&["127.0.0.1:1", "[::1]:1"]))[0], mixed[3]);
        assert!(in_turn(Vec::new()).is_empty());
        assert_eq!(in_turn(vec![mixed[0]; 50]).len(), ATTEMPTS_MAX);
    }

    /// Answers at once, refuses at once, or stays silent, by the port.
    async fn act(address: SocketAddr, tried: &Mutex<Vec<u16>>) -> Result<u16, DialError> {
        tried.lock().push(address.port());
        match address.port() {
            1 => Ok(1),
            2 => Err(DialError::Resolve("2".into())),
            _ => pending().await,
        }
    }

    async fn race(text: &[&str]) -> (Option<u16>, Vec<u16>, Duration) {
        let (tried, begun) = (Mutex::default(), clock::now());
        let race = first_to_answer(addresses(text), |address| act(address, &tried));
        let won = tokio::time::timeout(Duration::from_secs(5), race).await.ok().and_then(Result::ok);
        (won, tried.into_inner(), clock::now() - begun)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_is_not_waited_for_and_one_that_refuses_not_at_all() {
        assert_eq!(race(&["[::1]:1", "127.0.0.1:1"]).await, (Some(1), vec![1], Duration::ZERO));
        assert_eq!(race(&["[::1]:2", "127.0.0.1:1"]).await, (Some(1), vec![2, 1], Duration::ZERO));
        assert_eq!(race(&["[::1]:3", "[::1]:4", "127.0.0.1:1"]).await, (Some(1), vec![3, 4, 1], ATTEMPT_DELAY * 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_without_an_address_that_answers_fails_with_the_last_reason() {
        let tried = Mutex::default();
        let all = addresses(&["[::1]:2", "127.0.0.1:2"]);
        let error = first_to_answer(all, |address| act(address, &tried)).await.unwrap_err();
        assert!(matches!(error, DialError::Resolve(_)), "{error}");
        assert_eq!(race(&["[::1]:2", "127.0.0.1:3"]).await, (None, vec![2, 3], Duration::from_secs(5)));
    }
}
