//! The three layers over real QUIC connections on loopback: an edge's side and a gateway's side in one process.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, StatusCode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::control::{Control, Hello};
use super::endpoint::{Credentials, transport};
use super::exchange::{Event, ExchangeReader, ExchangeWriter, credit};
use super::link::{self, Link, LinkState, Owner};
use super::message::{self, Meta, RequestHead, ResponseHead};
use super::metrics::TunnelMetrics;
use super::peer::{Peers, Settings};
use crate::config::{TunnelIdentity, TunnelLimits};
use crate::observe::event::{Events, What};
use crate::quic::{self, Endpoint, QuicKeys, bind_udp};
use crate::task::{Shutdown, Tasks};

const SERVER_NAME: &str = "pop.trunkline.internal";

/// Writes a CA and a certificate that serves both ends into `dir`.
fn credentials(dir: &std::path::Path) -> Credentials {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![SERVER_NAME.into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let identity = TunnelIdentity { cert: dir.join("leaf.pem"), key: dir.join("leaf.key"), ca: dir.join("ca.pem") };
    std::fs::write(&identity.ca, ca_cert.pem()).unwrap();
    std::fs::write(&identity.cert, leaf.pem()).unwrap();
    std::fs::write(&identity.key, key.serialize_pem()).unwrap();
    Credentials::load(&identity).unwrap()
}

/// Answers every exchange: echoes the request body after a head, with a trailer that counts it.
struct Echo {
    tasks: Tasks,
}

impl Owner for Echo {
    fn handle_control(&self, _link: &Arc<Link>, _frame: Control) {}
    fn handle_state(&self, _link: &Arc<Link>) {}
    fn handle_exchange(&self, _link: &Arc<Link>, mut writer: ExchangeWriter, mut reader: ExchangeReader) {
        self.tasks.spawn(async move {
            let Ok(Event::Head(_)) = reader.next().await else { panic!("no head") };
            writer.accepted();
            writer.response(&ResponseHead { status: StatusCode::OK, headers: HeaderMap::new() });
            let mut count = 0usize;
            loop {
                match reader.next().await.unwrap() {
                    Event::Body(data) => {
                        count += data.len();
                        writer.body(data);
                        writer.flush().await.unwrap();
                    }
                    Event::End(_) => break,
                    other => panic!("unexpected {other:?}"),
                }
            }
            writer.end(Some(&HeaderMap::from_iter([(http::header::ETAG, count.into())])));
            writer.flush().await.unwrap();
        });
    }
}

struct Idle;
impl Owner for Idle {
    fn handle_control(&self, _link: &Arc<Link>, _frame: Control) {}
    fn handle_state(&self, _link: &Arc<Link>) {}
    fn handle_exchange(&self, _: &Arc<Link>, _: ExchangeWriter, _: ExchangeReader) {}
}

/// An edge's side and a gateway's side that can be joined by any number of links.
struct Pair {
    edge: (Endpoint, Arc<Peers>),
    origin: (Endpoint, Arc<Peers>),
    client: quinn::ClientConfig,
    tasks: Tasks,
    _dir: tempfile::TempDir,
}

impl Pair {
    fn new(limits: TunnelLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let credentials = credentials(dir.path());
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let transport = Arc::new(transport(&limits));
        let token_key = QuicKeys::load(None).unwrap().token_key();
        let server = credentials.server_config(transport.clone(), token_key).unwrap();
        let endpoint = |server| {
            let socket = bind_udp(any, 1).unwrap().remove(0);
            quic::endpoint(quinn::EndpointConfig::default(), server, socket, None).unwrap()
        };
        let (edge, origin) = (endpoint(Some(server)), endpoint(None));
        let client = credentials.client_config(transport).unwrap();
        let tasks = Tasks::new(Shutdown::default());
        let peers = || {
            let settings = Arc::new(Settings::new(&limits));
            Arc::new(Peers::new(settings, tasks.clone(), TunnelMetrics::default(), Events::default()))
        };
        Self { edge: (edge, peers()), origin: (origin, peers()), client, tasks, _dir: dir }
    }

    /// A fresh link; its edge end.
    async fn link(&self) -> Arc<Link> {
        let hello = |node: &str, sends| Hello {
            node: node.into(),
            instance: 7,
            sends,
            serves: !sends,
            window: self.edge.1.settings().window,
            ..Hello::default()
        };
        let address = self.edge.0.local_addr().unwrap();
        let dial = async {
            let connection =
                self.origin.0.connect_with(self.client.clone(), address, SERVER_NAME).unwrap().await.unwrap();
            link::handshake(connection, &self.origin.1, hello("gw", false), true, 0, |_| Ok(())).await.unwrap()
        };
        let accept = async {
            let connection = self.edge.0.accept().await.unwrap().accept().unwrap().await.unwrap();
            link::handshake(connection, &self.edge.1, hello("pop", true), false, 0, |_| Ok(())).await.unwrap()
        };
        let ((dialled, dialled_control), (accepted, accepted_control)) = tokio::join!(dial, accept);
        for link in [&dialled, &accepted] {
            link.set_state(LinkState::Ready);
        }
        self.run(dialled, dialled_control, Arc::new(Echo { tasks: self.tasks.clone() }));
        self.run(accepted.clone(), accepted_control, Arc::new(Idle));
        accepted
    }

    fn run(&self, link: Arc<Link>, control: link::ControlStream, owner: Arc<dyn Owner>) {
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            link::run(link, control, owner, &tasks).await;
        });
    }

    fn resumed(&self) -> u64 {
        self.edge.1.events().count(What::Resume)
    }
}

fn head() -> RequestHead {
    RequestHead {
        method: Method::POST,
        authority: Authority::from_static("example.org"),
        path: PathAndQuery::from_static("/"),
        protocol: None,
        headers: HeaderMap::new(),
    }
}

fn byte(offset: usize) -> u8 {
    (offset % 251) as u8
}

async fn send_body(mut writer: ExchangeWriter, length: usize, piece: usize) {
    let mut sent = 0;
    while sent < length {
        let size = piece.min(length - sent);
        writer.body((sent..sent + size).map(byte).collect::<Vec<_>>().into());
        writer.flush().await.unwrap();
        sent += size;
    }
    writer.end(None);
    writer.flush().await.unwrap();
}

/// Reads the echo, checks every byte, and calls `at` with the count after each piece.
async fn check_echo(mut reader: ExchangeReader, length: usize, mut at: impl FnMut(usize)) {
    let mut received = 0;
    loop {
        match reader.next().await.unwrap() {
            Event::Accepted => {}
            Event::Head(payload) => assert_eq!(message::get_response(payload).unwrap().status, 200),
            Event::Body(data) => {
                assert!(data.iter().enumerate().all(|(i, b)| *b == byte(received + i)), "wrong byte");
                received += data.len();
                at(received);
            }
            Event::End(trailers) => {
                assert_eq!(trailers.unwrap()[http::header::ETAG], length.to_string());
                return assert_eq!(received, length);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

async fn echo(link: &Arc<Link>, length: usize, piece: usize, at: impl FnMut(usize)) {
    let (mut writer, reader) = link.open(&Arc::default()).unwrap();
    writer.request(&head(), &Meta::default());
    tokio::join!(send_body(writer, length, piece), check_echo(reader, length, at));
}

#[tokio::test]
async fn bodies_of_any_size_come_back_byte_exact() {
    let pair = Pair::new(TunnelLimits::default());
    let link = pair.link().await;
    for (length, piece) in [(0, 1), (1, 1), (1000, 7), (100_000, 2048), (3_000_000, 100_000), (10_000_000, 16_384)] {
        echo(&link, length, piece, |_| {}).await;
    }
    assert_eq!(link.in_flight(), 0);
}

#[tokio::test]
async fn many_exchanges_share_a_link_and_leave_nothing_behind() {
    let pair = Pair::new(TunnelLimits::default());
    let link = pair.link().await;
    for _ in 0..20 {
        let all = (0..50).map(|i| echo(&link, i * 700, 1500, |_| {}));
        let mut all: Vec<_> = all.map(Box::pin).collect();
        std::future::poll_fn(|cx| {
            all.retain_mut(|echo| std::future::Future::poll(echo.as_mut(), cx).is_pending());
            if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
    // What the gateway sent is acknowledged with the next heartbeat.
    let gateway = pair.origin.1.all().pop().unwrap();
    tokio::time::timeout(Duration::from_secs(5), async {
        while gateway.exchanges() > 0 || pair.origin.1.settings().budget.used() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("exchanges or retained bytes left behind");
    assert_eq!(pair.edge.1.all().pop().unwrap().exchanges(), 0);
    assert_eq!(pair.edge.1.settings().budget.used(), 0);
}

#[tokio::test]
async fn an_exchange_goes_on_byte_exact_when_its_link_is_cut_five_times() {
    let pair = Pair::new(TunnelLimits::default());
    let mut links = vec![];
    for _ in 0..6 {
        links.push(pair.link().await);
    }
    const LENGTH: usize = 24_000_000;
    let mut next_cut = LENGTH / 6;
    let first = links[0].clone();
    echo(&first, LENGTH, 60_000, |received| {
        if received >= next_cut {
            next_cut += LENGTH / 6;
            if let Some(used) = links.iter().find(|link| link.in_flight() > 0) {
                used.connection().close(9u32.into(), b"cut");
            }
        }
    })
    .await;
    // More where the machine stalls both ends for so long that a link is suspected.
    assert!(pair.resumed() >= 5, "{}", pair.resumed());
}

#[tokio::test]
async fn an_exchange_waits_for_a_new_link_when_its_only_one_is_cut() {
    let pair = Pair::new(TunnelLimits::default());
    let first = pair.link().await;
    let cut = tokio::sync::Notify::new();
    let transfer = echo(&first, 3_000_000, 60_000, |received| {
        if received > 1_000_000 && pair.resumed() == 0 {
            first.connection().close(9u32.into(), b"cut");
            cut.notify_one();
        }
    });
    let relink = async {
        cut.notified().await;
        pair.link().await
    };
    tokio::join!(transfer, relink);
    assert!(pair.resumed() >= 1);
}

#[tokio::test]
async fn a_reader_that_stops_holds_the_writer_within_its_credit() {
    let pair = Pair::new(TunnelLimits { exchange_window_max: 300 << 10, ..TunnelLimits::default() });
    let link = pair.link().await;
    let (mut writer, reader) = link.open(&Arc::default()).unwrap();
    writer.request(&head(), &Meta::default());
    let mut sent = 0usize;
    let pump = async {
        loop {
            writer.body(Bytes::from(vec![0; 10_000]));
            writer.flush().await.unwrap();
            sent += 10_000;
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(400), pump).await.is_err());
    // At most two windows of 300 KiB, to the gateway and back, and one piece in hand.
    assert!((300_000..700_000).contains(&sent), "{sent}");
    drop(reader);
}

#[tokio::test]
async fn dropping_a_reader_cancels_the_other_end() {
    let pair = Pair::new(TunnelLimits::default());
    let link = pair.link().await;
    let (mut writer, reader) = link.open(&Arc::default()).unwrap();
    writer.request(&head(), &Meta::default());
    writer.flush().await.unwrap();
    drop(reader);
    assert!(writer.flush().await.is_err());
    drop(writer);
    let gateway = pair.origin.1.all().pop().unwrap();
    tokio::time::timeout(Duration::from_secs(5), async {
        while gateway.exchanges() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the gateway still holds the exchange");
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect(what);
}

#[tokio::test]
async fn an_exchange_survives_that_either_end_leaves_its_link_in_suspicion() {
    let pair = Pair::new(TunnelLimits::default());
    let link = pair.link().await;
    let gateway = pair.origin.1.all().pop().unwrap();
    let mut left = 0;
    echo(&link, 6_000_000, 60_000, |received| {
        if left < 1 && received > 2_000_000 {
            left = 1;
            gateway.links().iter().for_each(|link| gateway.evacuate(link));
        }
        if left < 2 && received > 4_000_000 {
            left = 2;
            link.peer().evacuate(&link);
        }
    })
    .await;
    assert_eq!(left, 2);
    assert!(pair.resumed() >= 2, "{}", pair.resumed());
}

#[tokio::test]
async fn an_exchange_whose_edge_left_waits_at_the_gateway_for_its_resume() {
    let pair = Pair::new(TunnelLimits::default());
    let link = pair.link().await;
    let mut left = false;
    let transfer = echo(&link, 3_000_000, 60_000, |received| {
        if !left && received > 1_000_000 {
            left = true;
            link.set_state(LinkState::Draining);
            link.peer().evacuate(&link);
        }
    });
    let allow = async {
        until("the gateway sees that the edge left", || pair.origin.1.metrics().detached.get() == 1).await;
        link.set_state(LinkState::Ready);
    };
    tokio::join!(transfer, allow);
    assert_eq!(pair.resumed(), 1);
}

#[tokio::test]
async fn a_resume_whose_answer_was_lost_is_followed_by_another() {
    let pair = Pair::new(TunnelLimits::default());
    let link = pair.link().await;
    let mut left = false;
    let transfer = echo(&link, 3_000_000, 60_000, |received| {
        if !left && received > 1_000_000 {
            left = true;
            link.set_state(LinkState::Draining);
            link.peer().evacuate(&link);
        }
    });
    let lose = async {
        until("the gateway sees that the edge left", || pair.origin.1.metrics().detached.get() == 1).await;
        let exchange = link.peer().find(0).unwrap();
        let (_, preamble) = exchange.resume_point().unwrap();
        let (mut send, mut recv) = link.connection().open_bi().await.unwrap();
        let mut out = bytes::BytesMut::new();
        preamble.encode(&mut out);
        send.write_chunk(out.freeze()).await.unwrap();
        // RESUMED came back, but the edge never sees it.
        assert!(recv.read_chunk(1, true).await.unwrap().is_some());
        super::resume::refuse(&mut send, &mut recv, super::code::ResetCode::Stale);
        link.set_state(LinkState::Ready);
    };
    tokio::join!(transfer, lose);
    assert_eq!(pair.resumed(), 1);
}

#[tokio::test]
async fn readers_that_stall_do_not_block_their_neighbours_on_a_link() {
    let limits = TunnelLimits { retention_max: 1 << 20, exchange_window_max: 256 << 10, ..TunnelLimits::default() };
    let pair = Pair::new(limits);
    let link = pair.link().await;
    let mut stalled = Vec::new();
    // More unread than any window that QUIC would give a connection by default.
    for _ in 0..400 {
        let (mut writer, reader) = link.open(&Arc::default()).unwrap();
        writer.request(&head(), &Meta::default());
        writer.body(Bytes::from(vec![0; 100 << 10]));
        writer.flush().await.unwrap();
        stalled.push((writer, reader));
    }
    tokio::time::timeout(Duration::from_secs(20), echo(&link, 1_000_000, 60_000, |_| {})).await.expect("blocked");
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_no_more_than_its_connections_credit_at_either_end() {
    let pair = Pair::new(TunnelLimits { exchange_window_max: 64 << 10, ..TunnelLimits::default() });
    let link = pair.link().await;
    let credit = Arc::default();
    let mut unread: Vec<_> = (0..20).map(|_| link.open(&credit).unwrap()).collect();
    // Each asks for more than it is given, and the gateway keeps what the edge does not acknowledge.
    let asking = unread.iter_mut().map(|(writer, _)| async {
        writer.request(&head(), &Meta::default());
        writer.body(Bytes::from(vec![0; 100 << 10]));
        writer.flush().await
    });
    let kept = || pair.origin.1.settings().budget.used();
    let given = (3 * (64 << 10)) + (32 << 10) + 16 * credit::WINDOW_MIN;
    assert!(given <= credit::START + 20 * credit::WINDOW_MIN);
    let all_is_sent = async {
        tokio::join!(futures_util::future::join_all(asking), std::future::pending::<()>());
    };
    tokio::select! {
        () = all_is_sent => {}
        () = until("the gateway sends what it may", || kept() == given) => {}
    }
}

#[tokio::test]
async fn any_number_of_acknowledgements_goes_out_in_frames_that_the_other_end_takes() {
    let pair = Pair::new(TunnelLimits::default());
    let link = pair.link().await;
    for exchange in 0..20_000 {
        let ack = super::control::Ack { exchange: 1 << 60 | exchange, offset: 1 << 60, window: 1 << 60 };
        link.ack(ack, false);
    }
    echo(&link, 100_000, 60_000, |_| {}).await;
    assert!(link.is_usable());
}

#[tokio::test]
async fn a_counter_that_is_taken_leaves_the_exchange_that_has_it_alone() {
    let pair = Pair::new(TunnelLimits::default());
    let link = pair.link().await;
    let (mut writer, reader) = link.open(&Arc::default()).unwrap();
    writer.request(&head(), &Meta::default());
    writer.flush().await.unwrap();
    let gateway = pair.origin.1.all().pop().unwrap();
    until("the exchange is taken", || gateway.find(0).is_some()).await;
    let (mut send, mut recv) = link.connection().open_bi().await.unwrap();
    send.write_all(&[0x01, 0x00, 0x00]).await.unwrap();
    let refused = recv.read_chunk(1, true).await.unwrap_err();
    assert_eq!(refused, quinn::ReadError::Reset(super::code::ResetCode::Stale.varint()));
    tokio::join!(send_body(writer, 2_000_000, 60_000), check_echo(reader, 2_000_000, |_| {}));
}
