//! Real endpoints on loopback: steering, resets after a restart, Retry, limits, drain.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, Side};
use quinn_proto::transport_parameters::TransportParameters;
use rustls::pki_types::CertificateDer;
use tokio::sync::oneshot;

use super::*;
use crate::config::Http3;
use crate::edge::listener::socket::bind_client;
use crate::edge::listener::{admission, tls};
use crate::quic::{Preferred, Worker, initial_cid, listen};
use crate::task::Shutdown;
use crate::tls::provider;

#[path = "quic_tests/tapped.rs"]
mod tapped;

const DEADLINE: Duration = Duration::from_secs(10);

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// Certificates, keys and everything else that a restarted server keeps.
struct Site {
    _folder: tempfile::TempDir,
    root: CertificateDer<'static>,
    certificates: Arc<tls::Certificates>,
    keys: QuicKeys,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (files, root) = tls::tests::make(folder.path(), &["a.example"]);
        let certificates = tls::Certificates::load(&[files]).unwrap();
        Self { _folder: folder, root, certificates, keys: QuicKeys::load(None).unwrap() }
    }

    fn client(&self) -> ClientConfig {
        let tls = tls::tests::client(std::slice::from_ref(&self.root), &[b"h3"]);
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        ClientConfig::new(Arc::new(tls))
    }

    /// A client that sends before its handshake where it has a ticket that allows it.
    fn early_client(&self) -> ClientConfig {
        let mut tls = tls::tests::client(std::slice::from_ref(&self.root), &[b"h3"]);
        tls.enable_early_data = true;
        ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap()))
    }
}

/// Who was served where: worker index and peer address of each stream.
type Log = Arc<Mutex<Vec<(usize, SocketAddr)>>>;

struct Server {
    address: SocketAddr,
    listener: QuicListener,
    shutdown: Shutdown,
    log: Log,
}

fn listener(limits: &Limits, shutdown: &Shutdown) -> QuicListener {
    QuicListener {
        limits: Arc::new(limits.clone()),
        admission: admission::tests::admission(limits),
        metrics: ListenerMetrics::register(&mut Registry::default()),
        tasks: Tasks::new(shutdown.clone()),
        alt_svc: AltSvc::new(&Http3::default(), 443, &[]),
        early_data: false,
        #[cfg(feature = "interop")]
        qlog: None,
    }
}

/// Echoes every stream and logs which worker did.
async fn echo(connection: crate::quic::Connection, worker: usize, log: Log) {
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        log.lock().push((worker, connection.remote_address()));
        while let Ok(Some(chunk)) = recv.read_chunk(1 << 20, true).await {
            let _ = send.write_chunk(chunk.bytes).await;
        }
        let _ = send.finish();
    }
}

impl Server {
    /// Starts one endpoint per worker on the current runtime.
    fn start(site: &Site, address: SocketAddr, workers: usize, limits: &Limits) -> Self {
        Self::start_with(site, address, workers, limits, false)
    }

    fn start_with(site: &Site, address: SocketAddr, workers: usize, limits: &Limits, early_data: bool) -> Self {
        Self::start_preferring(site, address, workers, limits, early_data, Preferred::default())
    }

    fn start_preferring(
        site: &Site,
        address: SocketAddr,
        workers: usize,
        limits: &Limits,
        early_data: bool,
        preferred: Preferred,
    ) -> Self {
        let sockets = bind_client(address, workers, true).unwrap();
        let shutdown = Shutdown::default();
        let first = QuicListener { early_data, ..listener(limits, &shutdown) };
        let resumption = tls::Resumption::new(early_data, tls::tickets(None).unwrap());
        let log = Log::default();
        for (index, socket) in sockets.udp.into_iter().enumerate() {
            let worker = Worker::new(index, workers).unwrap();
            let tls = tls::quic_tls(provider(), site.certificates.clone(), resumption.clone());
            let tls = tls::quic_config(tls.unwrap()).unwrap();
            let config = server_config(tls, &site.keys, limits);
            let endpoint = listen(site.keys.endpoint_config(worker), config, socket, preferred).unwrap();
            let listener = QuicListener { admission: first.admission.for_worker(), ..first.clone() };
            let log = log.clone();
            first.tasks.spawn(async move {
                let result = serve_quic(endpoint, listener, move |c, _| echo(c, index, log.clone())).await;
                assert_eq!(result, Ok(()));
            });
        }
        Self { address: sockets.address, listener: first, shutdown, log }
    }
}

fn client() -> Endpoint {
    Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap()
}

async fn round_trip(connection: &Connection, text: &[u8]) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(text).await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(1 << 20).await.unwrap(), text);
}

#[tokio::test]
async fn a_connection_stays_at_its_worker_even_when_the_client_changes_its_address() {
    const WORKERS: usize = 3;
    let site = Site::new();
    let server = Server::start(&site, "127.0.0.1:0".parse().unwrap(), WORKERS, &Limits::default());
    for index in (0..WORKERS).cycle().take(9) {
        let mut config = site.client();
        config.initial_dst_cid_provider(Arc::new(move || initial_cid(index as u8)));
        let client = client();
        let connection = in_time(client.connect_with(config, server.address, "a.example").unwrap()).await.unwrap();
        in_time(round_trip(&connection, b"before")).await;
        for _ in 0..3 {
            client.rebind(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
            in_time(round_trip(&connection, b"after")).await;
        }
        let log = std::mem::take(&mut *server.log.lock());
        assert_eq!(log.len(), 4);
        assert!(log.iter().all(|(worker, _)| *worker == index), "dialled {index}, served by {log:?}");
        assert_ne!(log[0].1, log[3].1, "the address has changed");
    }
}

/// A server on a thread of its own that can die without a word.
struct Mortal {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Mortal {
    fn start(site: &Site, address: SocketAddr, workers: usize) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let site = Site {
            _folder: tempfile::tempdir().unwrap(),
            root: site.root.clone(),
            certificates: site.certificates.clone(),
            keys: site.keys.clone(),
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::start(&site, address, workers, &Limits::default());
                tell.send(server.address).unwrap();
                let _ = stopped.await;
            });
        });
        Self { address: told.recv_timeout(DEADLINE).unwrap(), stop, thread }
    }

    /// Drops the runtime with everything on it; no CONNECTION_CLOSE leaves.
    fn kill(self) {
        drop(self.stop);
        self.thread.join().unwrap();
    }
}

#[tokio::test]
async fn the_first_probe_of_a_path_is_of_the_largest_packet_and_mostly_the_only_one() {
    let (site, limits) = (Site::new(), Limits::default());
    let server = Server::start(&site, "127.0.0.1:0".parse().unwrap(), 1, &limits);
    // Discovery is the same at both ends, and here it can be looked into.
    let mut config = site.client();
    config.transport_config(Arc::new(transport_config(&limits)));
    let connection = in_time(client().connect_with(config, server.address, "a.example").unwrap()).await.unwrap();
    let found = in_time(async {
        loop {
            let path = connection.stats().path;
            if path.current_mtu > 1_200 {
                break path;
            }
            round_trip(&connection, b"and an acknowledgement").await;
        }
    });
    let path = found.await;
    assert_eq!((path.current_mtu, path.sent_plpmtud_probes - path.lost_plpmtud_probes), (PACKET_MAX, 1));
}

#[test]
fn packets_of_clients_are_read_without_their_padding() {
    let (site, limits) = (Site::new(), Limits::default());
    let resumption = tls::Resumption::new(false, tls::tickets(None).unwrap());
    let tls = tls::quic_tls(provider(), site.certificates.clone(), resumption).unwrap();
    let config = server_config(tls::quic_config(tls).unwrap(), &site.keys, &limits);
    let params = TransportParameters::read(Side::Server, &mut [].as_slice()).unwrap();
    let session = config.crypto.start_session(1, &params);
    let cid = initial_cid(0);
    let [client, server] = [Side::Client, Side::Server].map(|side| session.initial_keys(&cid, side).packet);
    // PING and PADDING, and room for the tag.
    let mut packet = [vec![0x01], vec![0; 1_000 + client.local.tag_len()]].concat();
    client.local.encrypt(0, &mut packet, 0);
    let mut payload = bytes::BytesMut::from(packet.as_slice());
    server.remote.decrypt(0, &[], &mut payload).unwrap();
    assert_eq!(payload, [0x01, 0x00].as_slice());
}

#[tokio::test]
async fn a_restarted_server_resets_the_connections_it_lost() {
    const WORKERS: usize = 2;
    let site = Site::new();
    let server = Mortal::start(&site, "127.0.0.1:0".parse().unwrap(), WORKERS);
    let address = server.address;
    let client = client();
    let mut connections = Vec::new();
    for index in 0..WORKERS {
        let mut config = site.client();
        config.initial_dst_cid_provider(Arc::new(move || initial_cid(index as u8)));
        let connection = in_time(client.connect_with(config, address, "a.example").unwrap()).await.unwrap();
        in_time(round_trip(&connection, b"hello")).await;
        connections.push(connection);
    }
    server.kill();
    let again = Mortal::start(&site, address, WORKERS);
    for connection in connections {
        // Whatever the client sends next is answered with a reset; it may have sent something already.
        if let Ok(mut stream) = connection.open_uni().await {
            let _ = stream.write_all(&[0; 100]).await;
        }
        assert_eq!(in_time(connection.closed()).await, ConnectionError::Reset);
    }
    again.kill();
}

#[tokio::test]
async fn a_server_with_other_keys_stays_silent() {
    let site = Site::new();
    let server = Mortal::start(&site, "127.0.0.1:0".parse().unwrap(), 1);
    let address = server.address;
    let connection = in_time(client().connect_with(site.client(), address, "a.example").unwrap()).await.unwrap();
    server.kill();
    let again = Mortal::start(&Site::new(), address, 1);
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&[0; 100]).await.unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(300), connection.closed()).await;
    assert!(silent.is_err(), "{silent:?}");
    again.kill();
}

#[tokio::test]
async fn clients_must_validate_their_address_from_the_threshold_on() {
    let site = Site::new();
    let limits = Limits { retry_threshold: 0, ..Limits::default() };
    let server = Server::start(&site, "127.0.0.1:0".parse().unwrap(), 2, &limits);
    let connection = in_time(client().connect_with(site.client(), server.address, "a.example").unwrap()).await.unwrap();
    in_time(round_trip(&connection, b"hello")).await;
    assert_eq!(server.listener.metrics.retries.get(), 1);
    assert_eq!(server.listener.metrics.http3.open.get(), 1);

    let server = Server::start(&site, "127.0.0.1:0".parse().unwrap(), 2, &Limits::default());
    let connection = in_time(client().connect_with(site.client(), server.address, "a.example").unwrap()).await.unwrap();
    in_time(round_trip(&connection, b"hello")).await;
    assert_eq!(server.listener.metrics.retries.get(), 0, "no Retry below the threshold");
}

#[tokio::test]
async fn connections_over_the_limit_are_refused_at_once_and_fit_again_later() {
    let site = Site::new();
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let server = Server::start(&site, "127.0.0.1:0".parse().unwrap(), 1, &limits);
    let client = client();
    let connect = || in_time(client.connect_with(site.client(), server.address, "a.example").unwrap());
    let first = connect().await.unwrap();
    let error = connect().await.unwrap_err();
    assert!(matches!(error, ConnectionError::ConnectionClosed(_)), "{error}");
    assert_eq!(server.listener.metrics.refused_connections.get(), 1);
    first.close(0_u32.into(), b"");
    in_time(async {
        while connect().await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_stops_half_way_loses_its_place_at_the_deadline() {
    let site = Site::new();
    let limits = Limits { header_timeout: Duration::from_millis(100), ..Limits::default() };
    let server = Server::start(&site, "127.0.0.1:0".parse().unwrap(), 1, &limits);
    // Only the first packet of a client ever arrives.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let initial = first_packet(&site);
    socket.send_to(&initial, server.address).unwrap();
    in_time(async {
        while server.listener.metrics.handshakes_late.get() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(server.listener.metrics.http3.connections.get(), 0);
    assert!(server.listener.admission.admit("127.0.0.1".parse().unwrap()).is_ok());
}

/// The first datagram of a real client.
fn first_packet(site: &Site) -> Vec<u8> {
    let sink = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sink.set_read_timeout(Some(DEADLINE)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (config, address) = (site.client(), sink.local_addr().unwrap());
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut buffer = vec![0; 2048];
            let length = sink.recv(&mut buffer).unwrap();
            buffer.truncate(length);
            buffer
        });
        scope.spawn(move || {
            runtime.block_on(async {
                let client = client();
                let connecting = client.connect_with(config, address, "a.example").unwrap();
                let _ = tokio::time::timeout(Duration::from_millis(50), connecting).await;
            });
        });
        receiver.join().unwrap()
    })
}

#[tokio::test]
async fn drain_refuses_newcomers_finishes_the_rest_and_withdraws_the_announcement() {
    let site = Site::new();
    let server = Server::start(&site, "127.0.0.1:0".parse().unwrap(), 1, &Limits::default());
    let client = client();
    let connect = || in_time(client.connect_with(site.client(), server.address, "a.example").unwrap());
    let connection = connect().await.unwrap();
    assert!(server.listener.alt_svc.value().is_some());
    server.shutdown.start_drain();
    in_time(async {
        while server.listener.alt_svc.value().is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(connect().await.is_err());
    assert_eq!(server.listener.metrics.refused_draining.get(), 1);
    in_time(round_trip(&connection, b"still served")).await;

    assert!(!server.listener.tasks.is_empty());
    connection.close(0_u32.into(), b"");
    in_time(server.listener.tasks.wait()).await;
}

#[tokio::test]
async fn the_hybrid_group_is_negotiated_over_quic_and_plain_x25519_still_works() {
    let site = Site::new();
    let server = Server::start(&site, "127.0.0.1:0".parse().unwrap(), 1, &Limits::default());
    for groups in [
        vec![rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768],
        vec![rustls::crypto::aws_lc_rs::kx_group::X25519],
        vec![rustls::crypto::aws_lc_rs::kx_group::SECP256R1],
    ] {
        // A client that offers one group only can connect only with that group.
        let only = rustls::crypto::CryptoProvider { kx_groups: groups, ..crate::tls::provider().as_ref().clone() };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(site.root.clone()).unwrap();
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(only))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let config = ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap()));
        let connection = in_time(client().connect_with(config, server.address, "a.example").unwrap()).await.unwrap();
        in_time(round_trip(&connection, b"hello")).await;
    }
}
