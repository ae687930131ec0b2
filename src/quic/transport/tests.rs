//! Two endpoints on loopback, and sockets that misbehave.

use std::future::{Future, IntoFuture};
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ClientConfig, ConnectError, ConnectionError, EndpointConfig, ReadError, ServerConfig};
use quinn::{TransportErrorCode, UdpPoller, VarInt, WriteError};
use tokio::task::JoinHandle;

use super::*;
use crate::quic::bind_udp;
use crate::quic::datagrams::Datagrams;

const NAME: &str = "localhost";

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

/// A socket that has no room, or fails, when told so.
#[derive(Debug)]
struct Moody {
    inner: Arc<dyn AsyncUdpSocket>,
    /// Sends until it is full; it stays so until [`Moody::empty`].
    room: AtomicU32,
    mood: Mutex<Mood>,
}

#[derive(Debug, Default)]
struct Mood {
    broken: bool,
    waiting: Vec<Waker>,
}

impl Moody {
    fn new(room: u32) -> Arc<Self> {
        let socket = bind_udp((Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap().remove(0);
        let inner = Datagrams::new(socket, None).unwrap();
        Arc::new(Self { inner, room: room.into(), mood: Mutex::default() })
    }

    fn empty(&self, room: u32) {
        self.room.store(room, Ordering::Relaxed);
        self.wake();
    }

    fn fail(&self) {
        self.mood.lock().broken = true;
        self.wake();
    }

    fn wake(&self) {
        self.mood.lock().waiting.drain(..).for_each(Waker::wake);
    }

    fn is_full(&self) -> bool {
        self.room.load(Ordering::Relaxed) == 0
    }
}

impl AsyncUdpSocket for Moody {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1)).is_err() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mood = &mut *self.mood.lock();
        if mood.broken {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        mood.waiting.push(cx.waker().clone());
        self.inner.poll_recv(cx, bufs, metas)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

#[derive(Debug)]
struct Room(Arc<Moody>);

impl UdpPoller for Room {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.is_full() {
            self.0.mood.lock().waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

fn configs() -> (ServerConfig, ClientConfig) {
    let certified = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let root = certified.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let tls13 = &[&rustls::version::TLS13];
    let server = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(tls13)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![root.clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(tls13)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (
        ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).unwrap())),
        ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap())),
    )
}

/// A server and a client, each on a moody socket, and their tasks.
struct Pair {
    server: Endpoint,
    client: Endpoint,
    sockets: [Arc<Moody>; 2],
    tasks: [JoinHandle<()>; 2],
    config: ClientConfig,
}

impl Pair {
    fn new() -> Self {
        let (server_config, config) = configs();
        let sockets = [Moody::new(u32::MAX), Moody::new(u32::MAX)];
        let mut tasks = Vec::new();
        let [server, client] = [(Some(server_config), &sockets[0]), (None, &sockets[1])].map(|(config, socket)| {
            let socket: Arc<Moody> = socket.clone();
            #[expect(clippy::disallowed_methods, reason = "the test waits for its end")]
            Endpoint::new(EndpointConfig::default(), config, socket, |task| tasks.push(tokio::spawn(task))).unwrap()
        });
        let tasks = tasks.try_into().unwrap();
        Self { server, client, sockets, tasks, config }
    }

    fn dial(&self) -> Connecting {
        self.client.connect_with(self.config.clone(), self.server.local_addr().unwrap(), NAME).unwrap()
    }

    /// The server's end and the client's.
    async fn connect(&self) -> (Connection, Connection) {
        let connecting = self.dial();
        let accepted = async { self.server.accept().await.unwrap().accept().unwrap().await };
        let (server, client) = in_time(async { tokio::join!(accepted, connecting) }).await;
        (server.unwrap(), client.unwrap())
    }
}

async fn read_all(stream: &mut RecvStream) -> Result<Vec<u8>, ReadError> {
    let (mut all, mut pieces) = (Vec::new(), vec![Bytes::new(); 8]);
    while let Some(count) = stream.read_chunks(&mut pieces).await? {
        pieces[..count].iter().for_each(|piece| all.extend_from_slice(piece));
    }
    Ok(all)
}

fn code(code: u32) -> VarInt {
    VarInt::from_u32(code)
}

#[tokio::test]
async fn what_finds_no_room_in_the_socket_leaves_when_there_is_some() {
    let pair = Pair::new();
    let (server, client) = pair.connect().await;
    let sent: Vec<u8> = (0..2_000_000_u32).map(|at| (at % 251) as u8).collect();
    pair.sockets[1].empty(3);
    let send = async {
        let mut stream = client.open_uni().await.unwrap();
        stream.write_all(&sent).await.unwrap();
        stream.finish().unwrap();
        stream.stopped().await.unwrap()
    };
    let receive = async { read_all(&mut server.accept_uni().await.unwrap()).await.unwrap() };
    let mut filled = 0;
    let relieve = async {
        loop {
            tokio::task::yield_now().await;
            if pair.sockets[1].is_full() {
                filled += 1;
                pair.sockets[1].empty(3);
            }
        }
    };
    let (stopped, received) = in_time(async {
        tokio::select! {
            both = async { tokio::join!(send, receive) } => both,
            () = relieve => unreachable!("it goes on for ever"),
        }
    })
    .await;
    assert_eq!((stopped, received == sent), (None, true));
    assert!(filled > 10, "full {filled} times");
}

#[tokio::test]
async fn when_the_socket_fails_everyone_who_waits_is_told() {
    let pair = Pair::new();
    let (server, _client) = pair.connect().await;
    let (mut send, mut receive) = server.open_bi().await.unwrap();
    send.write_all(b"1").await.unwrap();
    let stopped = send.stopped();
    let waiting = async {
        let (accepted, opened, read) =
            tokio::join!(pair.server.accept(), server.accept_bi(), receive.read_chunk(1, true));
        let (stopped, closed) = (stopped.await, server.closed().await);
        assert!(accepted.is_none() && stopped.is_err());
        assert!(matches!(opened.err(), Some(ConnectionError::TransportError(error)) if error == *lost(&closed)));
        assert!(matches!(read, Err(ReadError::ConnectionLost(_))));
    };
    let fail = async {
        tokio::task::yield_now().await;
        pair.sockets[0].fail();
    };
    in_time(async { tokio::join!(waiting, fail) }).await;
    assert!(matches!(send.write_all(b"2").await, Err(WriteError::ConnectionLost(_))));
    let dialled = pair.server.connect_with(pair.config.clone(), pair.sockets[1].local_addr().unwrap(), NAME);
    assert!(matches!(dialled.err(), Some(ConnectError::EndpointStopping)));
    in_time(pair.server.wait_idle()).await;
    let [server, _] = pair.tasks;
    in_time(server).await.unwrap();
}

fn lost(error: &ConnectionError) -> &quinn_proto::TransportError {
    match error {
        ConnectionError::TransportError(error) if error.code == TransportErrorCode::INTERNAL_ERROR => error,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_connection_ends_with_its_last_handle_and_an_endpoint_with_its_last_connection() {
    let pair = Pair::new();
    let (server, client) = pair.connect().await;
    let (mut stream, other) = (client.open_uni().await.unwrap(), client.clone());
    drop((client, other));
    in_time(async { stream.write_all(b"still open").await }).await.unwrap();
    let mut received = in_time(server.accept_uni()).await.unwrap();
    assert_eq!(&in_time(received.read_chunk(99, true)).await.unwrap().unwrap().bytes[..], b"still open");
    assert!(server.close_reason().is_none());
    drop(stream);
    let reason = in_time(server.closed()).await;
    assert!(matches!(&reason, ConnectionError::ApplicationClosed(close) if close.error_code == code(0)), "{reason}");
    assert_eq!(server.close_reason(), Some(reason));
    drop((server, received));
    let Pair { server, client, tasks: [first, second], .. } = pair;
    in_time(server.wait_idle()).await;
    in_time(client.wait_idle()).await;
    drop((server, client));
    in_time(async { tokio::join!(first, second) }).await.0.unwrap();
}

#[tokio::test]
async fn streams_end_as_both_sides_say() {
    let pair = Pair::new();
    let (server, client) = pair.connect().await;
    let open = async || {
        let (mut send, receive) = client.open_bi().await.unwrap();
        send.write_chunk(Bytes::from_static(b"hello")).await.unwrap();
        (send, receive, in_time(server.accept_bi()).await.unwrap())
    };
    let (mut send, _back, (_, mut receive)) = open().await;
    send.finish().unwrap();
    assert_eq!(in_time(read_all(&mut receive)).await.unwrap(), b"hello");
    assert_eq!(in_time(read_all(&mut receive)).await.unwrap(), b"", "and stays at its end");
    assert_eq!(in_time(send.stopped()).await.unwrap(), None);

    let (mut send, _back, (_, mut receive)) = open().await;
    send.reset(code(7)).unwrap();
    assert_eq!(in_time(read_all(&mut receive)).await, Err(ReadError::Reset(code(7))));
    assert!(send.finish().is_err() && send.reset(code(8)).is_err());

    let (mut send, _back, (_, mut receive)) = open().await;
    receive.stop(code(9)).unwrap();
    assert_eq!(in_time(send.stopped()).await.unwrap(), Some(code(9)));
    assert_eq!(send.write_all(b"more").await, Err(WriteError::Stopped(code(9))));

    let (send, _back, (_, mut receive)) = open().await;
    let (first, second, third) = (send.stopped(), send.stopped(), send.stopped());
    let stop = async {
        tokio::task::yield_now().await;
        receive.stop(code(3)).unwrap();
    };
    let dropped = async {
        tokio::select! {
            biased;
            _ = third => panic!("nobody stopped it yet"),
            () = std::future::ready(()) => {}
        }
    };
    let told = in_time(async { tokio::join!(first, second, dropped, stop) }).await;
    assert_eq!((told.0.unwrap(), told.1.unwrap()), (Some(code(3)), Some(code(3))), "all who wait are told");

    let (send, _back, (_, receive)) = open().await;
    drop(receive);
    assert_eq!(in_time(send.stopped()).await.unwrap(), Some(code(0)), "dropped before its end");

    let (send, _back, (_, mut receive)) = open().await;
    drop(send);
    assert_eq!(in_time(read_all(&mut receive)).await.unwrap(), b"hello", "dropped before it was reset");
}

#[tokio::test]
async fn what_is_not_accepted_is_refused_and_a_closed_endpoint_takes_nobody() {
    let pair = Pair::new();
    let connecting = pair.dial();
    drop(in_time(pair.server.accept()).await.unwrap());
    let error = in_time(connecting.into_future()).await.unwrap_err();
    let refused = TransportErrorCode::CONNECTION_REFUSED;
    assert!(matches!(&error, ConnectionError::ConnectionClosed(close) if close.error_code == refused), "{error}");

    let (server, client) = pair.connect().await;
    pair.server.close(code(5), b"bye");
    assert_eq!(server.close_reason(), Some(ConnectionError::LocallyClosed));
    let error = in_time(client.closed()).await;
    assert!(matches!(&error, ConnectionError::ApplicationClosed(close) if close.error_code == code(5)), "{error}");
    assert!(in_time(pair.server.accept()).await.is_none());
    let error = in_time(pair.dial().into_future()).await.unwrap_err();
    assert!(matches!(&error, ConnectionError::ConnectionClosed(close) if close.error_code == refused), "{error}");
}

#[tokio::test]
async fn a_peer_that_is_asked_to_prove_its_address_does() {
    let pair = Pair::new();
    let accept = async {
        let first = pair.server.accept().await.unwrap();
        assert!(!first.remote_address_validated());
        first.retry();
        let second = pair.server.accept().await.unwrap();
        assert!(second.remote_address_validated());
        second.accept().unwrap().await
    };
    let (accepted, dialled) = in_time(async { tokio::join!(accept, pair.dial()) }).await;
    assert_eq!(accepted.unwrap().remote_address(), pair.client.local_addr().unwrap());
    dialled.unwrap();
}
