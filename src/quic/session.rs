//! TLS of connections that clients open, as quinn wants it. What quinn's own session does, but for two things:
//! - When the handshake is over and the tickets are written, rustls' connection goes, and with it the ClientHello it keeps, the
//!   keys of a record layer that QUIC does not have, and its state. That is 5 KB of an idle connection. What is left are the secrets
//!   of the next key update, whose keys are made [when it comes](super::update).
//! - What its keys open comes without [padding](super::padding).
//!
//! Made by the edge's listener; called by quinn. Never asks clients for a certificate.

use std::any::Any;
use std::io::Cursor;
use std::sync::Arc;

use quinn::crypto::rustls::{HandshakeData, NoInitialCipherSuite, QuicServerConfig};
use quinn::crypto::{self, ExportKeyingMaterialError, KeyPair, Keys, PacketKey, UnsupportedVersion};
use quinn::{ConnectionId, Side, TransportErrorCode};
use quinn_proto::TransportError;
use quinn_proto::transport_parameters::TransportParameters;
use rustls::AlertDescription;
use rustls::quic::{KeyChange, ServerConnection, Suite, Version};

use super::padding::Unpadded;
use super::update::Updates;

/// What the sessions of a listener have in common.
pub struct ServerTls {
    /// A connection's first packet and Retry, which are before any session.
    before: QuicServerConfig,
    tls: Arc<rustls::ServerConfig>,
    initial: Suite,
}

impl ServerTls {
    /// Sessions with `tls`, whose Initial packets are protected with `initial`.
    ///
    /// # Errors
    /// When `initial` is not the suite of RFC 9001 section 5.2.
    pub fn new(tls: rustls::ServerConfig, initial: Suite) -> Result<Self, NoInitialCipherSuite> {
        let tls = Arc::new(tls);
        Ok(Self { before: QuicServerConfig::with_initial(tls.clone(), initial)?, tls, initial })
    }
}

impl crypto::ServerConfig for ServerTls {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.before.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.before.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn crypto::Session> {
        let mut encoded = Vec::new();
        params.write(&mut encoded);
        let version = salt_of(version);
        // An error means a configuration without TLS 1.3; every handshake fails then.
        let tls = ServerConnection::new(self.tls.clone(), version, encoded).ok().map(Box::new);
        Box::new(Session { tls, hello: None, updates: None, initial: self.initial, version })
    }
}

/// Which constants a version uses: drafts up to 32 have others than RFC 9001.
fn salt_of(version: u32) -> Version {
    match version {
        0xff00_001d..=0xff00_0020 => Version::V1Draft,
        _ => Version::V1,
    }
}

/// One connection's.
struct Session {
    /// Until the handshake is over.
    tls: Option<Box<ServerConnection>>,
    /// From the ClientHello on: the server's name and the protocol agreed on.
    hello: Option<(Option<String>, Option<Vec<u8>>)>,
    /// From the end of the server's flight on.
    updates: Option<Updates>,
    initial: Suite,
    version: Version,
}

impl Session {
    /// rustls says nothing of the ClientHello; that it was read is seen by what came of it.
    fn look_for_hello(&mut self) -> bool {
        let Some(tls) = self.tls.as_deref().filter(|_| self.hello.is_none()) else { return false };
        let (name, protocol) = (tls.server_name(), tls.alpn_protocol());
        if name.is_none() && protocol.is_none() && tls.is_handshaking() {
            return false;
        }
        self.hello = Some((name.map(str::to_owned), protocol.map(<[u8]>::to_vec)));
        true
    }
}

impl crypto::Session for Session {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        let side = if side == Side::Client { rustls::Side::Client } else { rustls::Side::Server };
        boxed(self.initial.keys(dst_cid, side, self.version))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let (server_name, protocol) = self.hello.clone()?;
        Some(Box::new(HandshakeData { protocol, server_name }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn crypto::HeaderKey>, Box<dyn PacketKey>)> {
        let keys = self.tls.as_ref()?.zero_rtt_keys()?;
        Some((Box::new(keys.header), Box::new(Unpadded(keys.packet))))
    }

    /// Clients learn that, servers decide it.
    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// After the handshake clients have nothing more to say: what they could is forbidden (RFC 9001 sections 4.4 and 6).
    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        let Some(tls) = &mut self.tls else {
            return Err(alert(AlertDescription::UnexpectedMessage, "TLS message after the handshake".into()));
        };
        if let Err(error) = tls.read_hs(buf) {
            return Err(match tls.alert() {
                Some(description) => alert(description, error.to_string()),
                None => TransportError {
                    code: TransportErrorCode::PROTOCOL_VIOLATION,
                    frame: None,
                    reason: format!("TLS error: {error}"),
                },
            });
        }
        Ok(self.look_for_hello())
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let encoded = self.tls.as_ref().and_then(|tls| tls.quic_transport_parameters());
        let read = |encoded| TransportParameters::read(Side::Server, &mut Cursor::new(encoded));
        Ok(encoded.map(read).transpose()?)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let (tls, before) = (self.tls.as_mut()?, buf.len());
        match tls.write_hs(buf) {
            Some(KeyChange::Handshake { keys }) => Some(boxed(keys)),
            Some(KeyChange::OneRtt { keys, next }) => {
                self.updates = Some(Updates::new(next));
                Some(boxed(keys))
            }
            None => {
                // quinn asks until nothing is written; then tickets have been, too.
                if buf.len() == before && !tls.is_handshaking() {
                    self.tls = None;
                }
                None
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.updates.as_mut()?.next();
        Some(KeyPair { local: Box::new(keys.local), remote: Box::new(Unpadded(keys.remote)) })
    }

    /// Clients get Retry packets, servers send them.
    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        false
    }

    /// Nobody here asks for any; the secret it is made of goes with the rest.
    fn export_keying_material(&self, _: &mut [u8], _: &[u8], _: &[u8]) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}

fn boxed(keys: rustls::quic::Keys) -> Keys {
    Keys {
        header: KeyPair { local: Box::new(keys.local.header), remote: Box::new(keys.remote.header) },
        packet: KeyPair { local: Box::new(keys.local.packet), remote: Box::new(Unpadded(keys.remote.packet)) },
    }
}

fn alert(description: AlertDescription, reason: String) -> TransportError {
    TransportError { code: TransportErrorCode::crypto(description.into()), frame: None, reason }
}

#[cfg(test)]
pub(super) mod tests {
    use quinn_proto::crypto::{ServerConfig as _, Session as _};
    use rustls::quic::{ClientConnection, Secrets};

    use super::*;
    use crate::tls::{initial_suite, provider};

    const V1: u32 = 1;

    /// What both ends of a session for `localhost` begin with.
    pub(in crate::quic) fn ends() -> (rustls::ServerConfig, rustls::ClientConfig) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (server, client)
    }

    fn server() -> (Arc<ServerTls>, rustls::ClientConfig) {
        let (mut server, mut client) = ends();
        server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        for alpn in [&mut server.alpn_protocols, &mut client.alpn_protocols] {
            alpn.push(b"h3".to_vec());
        }
        (Arc::new(ServerTls::new(server, initial_suite().unwrap()).unwrap()), client)
    }

    fn session(server: &Arc<ServerTls>) -> Session {
        let tls = ServerConnection::new(server.tls.clone(), Version::V1, Vec::new()).unwrap();
        Session { tls: Some(Box::new(tls)), hello: None, updates: None, initial: server.initial, version: Version::V1 }
    }

    /// What the server has to say, as quinn asks for it: a piece for each set of keys, and how many sets came.
    fn said(session: &mut Session) -> (Vec<Vec<u8>>, usize) {
        let (mut pieces, mut keys) = (Vec::new(), 0);
        loop {
            let mut piece = Vec::new();
            let more = session.write_handshake(&mut piece).map(|_| keys += 1).is_some();
            if !more && piece.is_empty() {
                return (pieces, keys);
            }
            pieces.push(piece);
        }
    }

    fn client(config: &rustls::ClientConfig) -> ClientConnection {
        let name = "localhost".try_into().unwrap();
        ClientConnection::new(Arc::new(config.clone()), rustls::quic::Version::V1, name, Vec::new()).unwrap()
    }

    /// Both ends until neither has more to say, and the client's secrets of the next keys.
    fn shake_hands(session: &mut Session, client: &mut ClientConnection) -> Secrets {
        let mut secrets = None;
        for _ in 0..4 {
            let mut flight = Vec::new();
            while let Some(change) = client.write_hs(&mut flight) {
                if let KeyChange::OneRtt { next, .. } = change {
                    secrets = Some(next);
                }
            }
            if !flight.is_empty() {
                session.read_handshake(&flight).unwrap();
            }
            for piece in said(session).0.iter().filter(|piece| !piece.is_empty()) {
                client.read_hs(piece).unwrap();
            }
        }
        secrets.unwrap()
    }

    #[test]
    fn rustls_is_let_go_when_the_handshake_is_over_and_keys_can_still_be_changed() {
        let (server, config) = server();
        let (mut session, mut client) = (session(&server), client(&config));
        let mut next = shake_hands(&mut session, &mut client);
        assert!(!client.is_handshaking() && !session.is_handshaking());
        assert!(client.tls13_tickets_received() > 0, "tickets were written first");
        assert!(session.tls.is_none());
        // quinn holds the next keys while it uses those before them, if it uses them at all.
        let ours: Vec<_> = (0..4).map(|_| session.next_1rtt_keys().unwrap()).collect();
        assert!(!session.updates.as_ref().unwrap().are_derived(), "until a packet needs them");
        let theirs: Vec<_> = (0..4).map(|_| next.next_packet_keys()).collect();
        for number in [1, 0, 3] {
            let (ours, theirs) = (&ours[number], &theirs[number]);
            let number = number as u64;
            let mut packet = *b"HEADpayload-and-a-tag-of-16-bytes";
            ours.local.encrypt(number, &mut packet, 4);
            let (head, sealed) = packet.split_at_mut(4);
            assert_eq!(theirs.remote.decrypt_in_place(number, head, sealed).unwrap(), b"payload-and-a");
        }
        assert!(session.updates.as_ref().unwrap().are_derived());
    }

    #[test]
    fn name_and_protocol_are_known_during_the_handshake_and_after_it() {
        let (server, config) = server();
        let (mut session, mut client) = (session(&server), client(&config));
        assert!(session.handshake_data().is_none());
        let mut hello = Vec::new();
        client.write_hs(&mut hello);
        assert!(session.read_handshake(&hello).unwrap(), "told once");
        let known = |session: &Session| {
            let data = session.handshake_data().unwrap().downcast::<HandshakeData>().unwrap();
            assert_eq!((data.protocol.as_deref(), data.server_name.as_deref()), (Some(&b"h3"[..]), Some("localhost")));
        };
        known(&session);
        let (flight, keys) = said(&mut session);
        assert_eq!(keys, 2, "for the handshake and for what follows");
        flight.iter().filter(|piece| !piece.is_empty()).for_each(|piece| client.read_hs(piece).unwrap());
        let mut finished = Vec::new();
        while client.write_hs(&mut finished).is_some() {}
        assert!(!session.read_handshake(&finished).unwrap(), "and no more");
        said(&mut session);
        assert!(session.tls.is_none());
        known(&session);
    }

    #[test]
    fn what_a_client_says_after_the_handshake_ends_the_connection_with_unexpected_message() {
        let (server, config) = server();
        let (mut session, mut client) = (session(&server), client(&config));
        shake_hands(&mut session, &mut client);
        // KeyUpdate, update_not_requested (RFC 8446 section 4.6.3): QUIC has its own (RFC 9001 section 6).
        let error = session.read_handshake(&[24, 0, 0, 1, 0]).unwrap_err();
        assert_eq!(error.code, TransportErrorCode::crypto(10));
    }

    #[test]
    fn a_session_of_any_version_has_the_initial_keys_that_its_first_packet_was_opened_with() {
        let (server, _) = server();
        let (id, mut sealed) = (ConnectionId::new(&[7; 8]), Vec::new());
        for version in [V1, 0xff00_001d, 0xff00_0020, 0xff00_0021, 0xff00_0022] {
            let params = TransportParameters::read(Side::Client, &mut Cursor::new([])).unwrap();
            let session = server.clone().start_session(version, &params);
            let keys = [server.initial_keys(version, &id).unwrap(), session.initial_keys(&id, Side::Server)];
            let [before, during] = keys.map(|keys| {
                let mut packet = [0; 40];
                keys.packet.local.encrypt(1, &mut packet, 4);
                packet
            });
            assert_eq!(before, during, "{version:x}");
            sealed.push(before);
        }
        assert_ne!(sealed[0], sealed[1], "drafts have other constants");
        assert!(server.initial_keys(0x6b33_43cf, &id).is_err(), "version 2 is not there");
    }
}
