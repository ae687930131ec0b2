//! Early data and preferred addresses: what passes between a client and a server is looked at, sent again, sent elsewhere.

use super::*;

/// Connects until there is a ticket that allows early data, and begins a connection with it.
async fn connect_early(
    client: &Endpoint,
    config: &ClientConfig,
    address: SocketAddr,
) -> (Connection, quinn::ZeroRttAccepted) {
    loop {
        match client.connect_with(config.clone(), address, "a.example").unwrap().into_0rtt() {
            Ok(early) => return early,
            Err(connecting) => round_trip(&connecting.await.unwrap(), b"late").await,
        }
    }
}

#[tokio::test]
async fn a_returning_client_is_served_before_its_handshake_is_complete() {
    let site = Site::new();
    let any = "127.0.0.1:0".parse().unwrap();
    let limits = Limits { retry_threshold: 1, ..Limits::default() };
    let server = Server::start_with(&site, any, 1, &limits, true);
    let client = client();
    let (connection, accepted) = in_time(connect_early(&client, &site.early_client(), server.address)).await;
    in_time(round_trip(&connection, b"early")).await;
    assert!(in_time(accepted).await);
    in_time(async {
        while server.listener.admission.wants_retry() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(server.listener.metrics.handshakes_failed.get(), 0);

    let server = Server::start(&site, any, 1, &Limits::default());
    let config = site.early_client();
    let connecting = client.connect_with(config.clone(), server.address, "a.example").unwrap();
    in_time(round_trip(&in_time(connecting).await.unwrap(), b"late")).await;
    let again = client.connect_with(config, server.address, "a.example").unwrap();
    assert!(again.into_0rtt().is_err(), "without early data no ticket allows it");
}

#[tokio::test]
async fn an_early_request_that_a_stranger_sends_again_is_not_served_again() {
    let site = Site::new();
    let server = Server::start_with(&site, "127.0.0.1:0".parse().unwrap(), 1, &Limits::default(), true);
    let tap = Tap::start(server.address, &server.listener.tasks).await;
    let (client, config) = (client(), site.early_client());
    // Leaves a second ticket.
    in_time(connect_early(&client, &config, server.address)).await;
    let connecting = client.connect_with(config, tap.address, "a.example").unwrap();
    let Ok((connection, accepted)) = connecting.into_0rtt() else { panic!("no ticket") };
    in_time(round_trip(&connection, b"early")).await;
    assert!(in_time(accepted).await);
    client.close(0_u32.into(), b"");
    in_time(client.wait_idle()).await;

    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (packets, mut answer) = (tap.seen.lock().clone(), [0; 2048]);
    let replayed = async {
        // Until the server has forgotten the first connection and takes the packets for a new one.
        loop {
            for packet in &packets {
                stranger.send_to(packet, server.address).await.unwrap();
            }
            let answered = tokio::time::timeout(Duration::from_millis(50), stranger.recv(&mut answer)).await;
            if answered.is_ok() {
                break;
            }
        }
    };
    in_time(replayed).await;
    // What came on the socket before this was looked at before this.
    let client = self::client();
    let connection = in_time(client.connect_with(site.client(), server.address, "a.example").unwrap()).await.unwrap();
    in_time(round_trip(&connection, b"later")).await;
    let stranger = stranger.local_addr().unwrap();
    assert!(server.log.lock().iter().all(|(_, peer)| *peer != stranger), "the replay was served");
}

#[tokio::test]
async fn a_client_that_goes_on_at_the_preferred_address_is_answered_from_there() {
    let site = Site::new();
    let preferred = Preferred { v4: Some([127, 0, 0, 2].into()), v6: None };
    let any = "0.0.0.0:0".parse().unwrap();
    let server = Server::start_preferring(&site, any, 2, &Limits::default(), false, preferred);
    let at = |last: u8| SocketAddr::from(([127, 0, 0, last], server.address.port()));
    let tap = Tap::start(at(1), &server.listener.tasks).await;
    let client = client();
    let connection = in_time(client.connect_with(site.client(), tap.address, "a.example").unwrap()).await.unwrap();
    for address in [at(1), at(2), at(1), at(2)] {
        *tap.server.lock() = address;
        // The client's socket stays what it is; only the server's address changes.
        in_time(round_trip(&connection, b"hello")).await;
        assert_eq!(*tap.answered_from.lock(), Some(address));
    }
}

/// Between one client and a server; keeps what the client sent.
struct Tap {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Where the client's packets go.
    server: Arc<Mutex<SocketAddr>>,
    /// Where the last packet to the client came from.
    answered_from: Arc<Mutex<Option<SocketAddr>>>,
}

impl Tap {
    async fn start(server: SocketAddr, tasks: &Tasks) -> Self {
        let near = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let far = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let tap = Self {
            address: near.local_addr().unwrap(),
            seen: Arc::default(),
            server: Arc::new(Mutex::new(server)),
            answered_from: Arc::default(),
        };
        let (seen, target, answered_from) = (tap.seen.clone(), tap.server.clone(), tap.answered_from.clone());
        tasks.spawn(async move {
            let (mut client, mut up, mut down) = (server, [0; 2048], [0; 2048]);
            loop {
                tokio::select! {
                    got = near.recv_from(&mut up) => {
                        let (length, from) = got.unwrap();
                        client = from;
                        seen.lock().push(up[..length].to_vec());
                        let target = *target.lock();
                        far.send_to(&up[..length], target).await.unwrap();
                    }
                    got = far.recv_from(&mut down) => {
                        let (length, from) = got.unwrap();
                        *answered_from.lock() = Some(from);
                        near.send_to(&down[..length], client).await.unwrap();
                    }
                }
            }
        });
        tap
    }
}
