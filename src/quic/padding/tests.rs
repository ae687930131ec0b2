//! Two TLS sessions in memory, of which the server's is ours: what comes out of each key that packets can be opened with.

use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::crypto::{ClientConfig, Keys, ServerConfig, Session};
use quinn::{ConnectionId, Side};
use quinn_proto::transport_parameters::TransportParameters;

use super::*;
use crate::quic::{ServerTls, session};
use crate::tls::initial_suite;

const NAME: &str = "localhost";
const VERSION: u32 = 1;
const HEADER: &[u8] = b"header";

/// PING, and so much padding that it is worth its removal.
fn padded() -> Vec<u8> {
    [vec![0x01], vec![0; 1_000]].concat()
}

/// A client that can resume with early data, and the configuration of a server that lets it.
fn ends() -> (Arc<QuicClientConfig>, Arc<dyn ServerConfig>) {
    let (mut server, mut client) = session::tests::ends();
    client.enable_early_data = true;
    server.max_early_data_size = u32::MAX;
    let server = ServerTls::new(server, initial_suite().unwrap()).unwrap();
    (Arc::new(QuicClientConfig::try_from(client).unwrap()), Arc::new(server))
}

/// What each end's session has: itself, and the keys that it gave out so far.
struct End {
    session: Box<dyn Session>,
    keys: Vec<Keys>,
}

impl End {
    fn tell(&mut self, other: &mut Self) {
        loop {
            let mut bytes = Vec::new();
            let keys = self.session.write_handshake(&mut bytes);
            if keys.is_none() && bytes.is_empty() {
                return;
            }
            self.keys.extend(keys);
            other.session.read_handshake(&bytes).unwrap();
        }
    }
}

fn start(client: &Arc<QuicClientConfig>, server: &Arc<dyn ServerConfig>) -> (End, End) {
    let params = TransportParameters::read(Side::Server, &mut [].as_slice()).unwrap();
    let client = client.clone().start_session(VERSION, NAME, &params).unwrap();
    let server = server.clone().start_session(VERSION, &params);
    (End { session: client, keys: Vec::new() }, End { session: server, keys: Vec::new() })
}

/// Flights to and fro, until both are done and the server has told its tickets.
fn shake_hands(client: &mut End, server: &mut End) {
    while client.session.is_handshaking() || server.session.is_handshaking() {
        client.tell(server);
        server.tell(client);
    }
}

fn dst_cid() -> ConnectionId {
    ConnectionId::new(&[8; 8])
}

/// What the client seals its Initial packets with, and what the server's session opens them with.
fn initial_keys(client: &End, server: &End) -> (Box<dyn PacketKey>, Box<dyn PacketKey>) {
    let seal = client.session.initial_keys(&dst_cid(), Side::Client).packet.local;
    (seal, server.session.initial_keys(&dst_cid(), Side::Server).packet.remote)
}

/// A packet of `payload` that one key has sealed, as the other one opens it.
fn carry(seal: &dyn PacketKey, open: &dyn PacketKey, payload: &[u8]) -> BytesMut {
    let mut packet = [HEADER, payload, &vec![0; seal.tag_len()]].concat();
    seal.encrypt(7, &mut packet, HEADER.len());
    let mut opened = BytesMut::from(&packet[HEADER.len()..]);
    open.decrypt(7, HEADER, &mut opened).unwrap();
    opened
}

#[test]
fn whatever_key_opens_a_packet_it_comes_without_its_padding() {
    let (client_config, server_config) = ends();
    let (mut client, mut server) = start(&client_config, &server_config);
    let (seal, open) = initial_keys(&client, &server);
    assert_eq!(carry(&*seal, &*open, &padded()), [1, 0].as_slice());

    shake_hands(&mut client, &mut server);
    assert_eq!((client.keys.len(), server.keys.len()), (2, 2), "of the handshake, and of what comes after it");
    for (client, server) in client.keys.iter().zip(&server.keys) {
        assert_eq!(carry(&*client.packet.local, &*server.packet.remote, &padded()), [1, 0].as_slice());
        assert_eq!(
            carry(&*server.packet.local, &*client.packet.remote, &padded()),
            padded(),
            "what is sent stays whole"
        );
    }
    for _ in 0..2 {
        let next = [&mut client, &mut server].map(|end| end.session.next_1rtt_keys().unwrap());
        assert_eq!(carry(&*next[0].local, &*next[1].remote, &padded()), [1, 0].as_slice());
    }

    let (mut client, mut server) = start(&client_config, &server_config);
    client.tell(&mut server);
    let early = [&client, &server].map(|end| end.session.early_crypto().unwrap().1);
    assert_eq!(carry(&*early[0], &*early[1], &padded()), [1, 0].as_slice());
}

#[test]
fn the_first_packet_keeps_the_length_that_an_address_is_answered_by() {
    let (client, server) = ends();
    let first = server.initial_keys(VERSION, &dst_cid()).unwrap().packet.remote;
    let (client, server) = start(&client, &server);
    let (seal, _) = initial_keys(&client, &server);
    assert_eq!(carry(&*seal, &*first, &padded()), padded());
}

#[test]
fn what_is_left_of_a_packet_has_memory_of_its_own_and_what_is_whole_stays_where_it_is() {
    let (client, server) = start(&ends().0, &ends().1);
    let (seal, open) = initial_keys(&client, &server);
    let opened = carry(&*seal, &*open, &padded());
    assert_eq!((opened.len(), opened.capacity()), (2, 2));

    let whole = [vec![0x08, 0x00], vec![0; 1_000]].concat();
    let mut packet = [HEADER, &whole, &[0; 16]].concat();
    seal.encrypt(7, &mut packet, HEADER.len());
    let mut opened = BytesMut::from(&packet[HEADER.len()..]);
    let place = opened.as_ptr();
    open.decrypt(7, HEADER, &mut opened).unwrap();
    assert_eq!((opened.as_ptr(), opened), (place, BytesMut::from(whole.as_slice())));
}

#[test]
fn a_packet_that_was_tampered_with_is_refused_as_before() {
    let (client, server) = start(&ends().0, &ends().1);
    let (seal, open) = initial_keys(&client, &server);
    let mut packet = [padded(), vec![0; seal.tag_len()]].concat();
    seal.encrypt(7, &mut packet, 0);
    let mut opened = BytesMut::from(packet.as_slice());
    opened[500] ^= 1;
    assert!(open.decrypt(7, &[], &mut opened).is_err());
}
