//! Stage 8: opening one upstream connection: name, TCP or unix socket, TLS.
//!
//! Called by [`super::link`] with a slot of the pool; knows nothing of HTTP but its ALPN names. Every fault here is
//! [`Retry::Anywhere`]: no request byte was sent.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::io::{Socket, Transport};
use super::pool::Slot;
use crate::config::{OriginService, Upstream, UpstreamScheme, UpstreamTarget};
use crate::fault::{Fault, Kind, Retry, Side, Stage};
use crate::tls::{self, TlsError};

/// Before the next address of a name is tried beside the ones under way (RFC 8305 section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// A dead host behind a silent stream is found after about 15 s + 3 x 5 s.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Why a service's upstreams cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamSetupError {
    /// The CA file cannot be read or holds no certificate.
    #[error(transparent)]
    Ca(#[from] TlsError),
    /// No CA file is configured and the system has no usable roots.
    #[error("no usable system root certificates: {0}")]
    SystemRoots(String),
    /// The TLS library refuses its own defaults.
    #[error("TLS client: {0}")]
    Tls(#[from] rustls::Error),
    /// A host is no name that a certificate can carry.
    #[error("{0:?} is not a name that a certificate can be checked against")]
    TlsName(String),
}

/// How to reach one upstream.
pub(super) struct Connector {
    target: UpstreamTarget,
    tls: Option<Tls>,
    connect_timeout: Duration,
    /// Bytes sent and not acknowledged for this long end the connection: a backstop behind the body timeout.
    unacknowledged_max: Duration,
}

struct Tls {
    any: TlsConnector,
    http1: TlsConnector,
    name: ServerName<'static>,
}

/// TLS configurations of a service: with HTTP/2 and without.
pub(super) struct TlsConfigs {
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl TlsConfigs {
    /// Loads roots, if any upstream needs them.
    pub(super) fn load(service: &OriginService) -> Result<Option<Self>, UpstreamSetupError> {
        if !service.upstreams.iter().any(|upstream| upstream.scheme == UpstreamScheme::Https) {
            return Ok(None);
        }
        let roots = match &service.ca {
            Some(path) => tls::load_roots(path)?,
            None => system_roots()?,
        };
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = Arc::new(config.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Some(Self { any: Arc::new(config), http1 }))
    }
}

fn system_roots() -> Result<RootCertStore, UpstreamSetupError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let reason = loaded.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
        return Err(UpstreamSetupError::SystemRoots(reason));
    }
    Ok(roots)
}

impl Connector {
    pub(super) fn new(
        upstream: &Upstream,
        service: &OriginService,
        configs: Option<&TlsConfigs>,
    ) -> Result<Self, UpstreamSetupError> {
        let tls = match (upstream.scheme, configs) {
            (UpstreamScheme::Https, Some(configs)) => {
                let name = service.tls_name.clone().unwrap_or_else(|| host_of(&upstream.target));
                let server = ServerName::try_from(name.clone()).map_err(|_| UpstreamSetupError::TlsName(name))?;
                Some(Tls { any: configs.any.clone().into(), http1: configs.http1.clone().into(), name: server })
            }
            _ => None,
        };
        Ok(Self {
            target: upstream.target.clone(),
            tls,
            connect_timeout: service.limits.connect_timeout,
            unacknowledged_max: service.limits.body_timeout.saturating_mul(2),
        })
    }

    /// Opens a connection within the connect timeout. `http1_only` offers nothing else in ALPN.
    pub(super) async fn connect(&self, slot: Slot, http1_only: bool) -> Result<Socket, Fault> {
        let connected = tokio::time::timeout(self.connect_timeout, self.open(http1_only)).await;
        let transport = connected.unwrap_or(Err(connect_fault(Kind::ConnectionTimeout)))?;
        Ok(Socket::new(transport, slot))
    }

    async fn open(&self, http1_only: bool) -> Result<Transport, Fault> {
        let stream = match &self.target {
            UpstreamTarget::Unix(path) => {
                return UnixStream::connect(path).await.map(Transport::Unix).map_err(|error| io_fault(&error));
            }
            UpstreamTarget::Tcp { host, port } => self.open_tcp(host, *port).await?,
        };
        let Some(tls) = &self.tls else { return Ok(Transport::Tcp(stream)) };
        let connector = if http1_only { &tls.http1 } else { &tls.any };
        let stream = connector.connect(tls.name.clone(), stream).await.map_err(|error| tls_fault(&error))?;
        Ok(Transport::Tls(Box::new(stream)))
    }

    async fn open_tcp(&self, host: &str, port: u16) -> Result<TcpStream, Fault> {
        let stream = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => TcpStream::connect((address, port)).await,
            Err(_) => {
                let addresses = tokio::net::lookup_host((host, port)).await;
                let addresses = addresses.map_err(|_| connect_fault(Kind::DnsError))?;
                race(interleaved(addresses)).await
            }
        };
        let stream = stream.map_err(|error| io_fault(&error))?;
        self.tune(&stream).map_err(|error| io_fault(&error))?;
        Ok(stream)
    }

    fn tune(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL).with_retries(3);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(self.unacknowledged_max))?;
        Ok(())
    }
}

fn host_of(target: &UpstreamTarget) -> String {
    match target {
        UpstreamTarget::Tcp { host, .. } => host.trim_matches(['[', ']']).to_owned(),
        UpstreamTarget::Unix(_) => "localhost".to_owned(),
    }
}

/// Alternates address families, the resolver's first choice first (RFC 8305 section 4).
fn interleaved(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (six, four): (Vec<_>, Vec<_>) = addresses.partition(SocketAddr::is_ipv6);
    let longest = six.len().max(four.len());
    (0..longest).flat_map(|at| [six.get(at).copied(), four.get(at).copied()]).flatten().collect()
}

/// Connects to the first address that answers: each next one is tried when the last failed or is silent for a while.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    type Attempt = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;
    let mut left = addresses.into_iter();
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut start = true;
    loop {
        if std::mem::take(&mut start)
            && let Some(address) = left.next()
        {
            attempts.push(Box::pin(TcpStream::connect(address)));
        }
        if attempts.is_empty() {
            return Err(failure);
        }
        let mut pause = pin!(tokio::time::sleep(NEXT_ADDRESS));
        let step = poll_fn(|cx| {
            for at in 0..attempts.len() {
                if let Some(Poll::Ready(result)) = attempts.get_mut(at).map(|attempt| attempt.as_mut().poll(cx)) {
                    drop(attempts.swap_remove(at));
                    return Poll::Ready(Some(result));
                }
            }
            if left.len() > 0 { pause.as_mut().poll(cx).map(|()| None) } else { Poll::Pending }
        });
        match step.await {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => failure = error,
            None => {}
        }
        start = true;
    }
}

/// A fault of connecting: nothing was sent.
pub(super) fn connect_fault(kind: Kind) -> Fault {
    Fault::new(Stage::Upstream, Side::Upstream, kind).with_retry(Retry::Anywhere)
}

fn io_fault(error: &io::Error) -> Fault {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    match error.kind() {
        TimedOut => connect_fault(Kind::ConnectionTimeout),
        HostUnreachable | NetworkUnreachable => connect_fault(Kind::DestinationUnavailable),
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) => {
            Fault::internal(Stage::Upstream, Side::Gateway).with_retry(Retry::Anywhere)
        }
        _ => connect_fault(Kind::ConnectionRefused),
    }
}

fn tls_fault(error: &io::Error) -> Fault {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            connect_fault(Kind::TlsCertificateError)
        }
        _ => connect_fault(Kind::TlsProtocolError),
    }
}
