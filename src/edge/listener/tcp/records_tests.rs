//! A rustls client at the other end of a wire in memory, record by record.

use std::io::Read;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, ServerConfig, SupportedCipherSuite};

use super::*;
use crate::edge::listener::tls;
use crate::tls::provider;

/// The server's transport.
struct Wire {
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// Writes that took something.
    writes: usize,
    /// Bytes it takes before it is full.
    room: usize,
    /// Bytes that one read brings at most.
    read_max: usize,
    ended: bool,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.to_server.is_empty() && !self.ended {
            return Poll::Pending;
        }
        let taken = self.to_server.len().min(buf.remaining()).min(self.read_max);
        buf.put_slice(&self.to_server[..taken]);
        self.to_server.drain(..taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let taken = buf.len().min(self.room);
        if taken == 0 {
            return Poll::Pending;
        }
        self.to_client.extend_from_slice(&buf[..taken]);
        self.room -= taken;
        self.writes += 1;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn cx() -> Context<'static> {
    Context::from_waker(std::task::Waker::noop())
}

/// Both ends, after the handshake.
struct Pair {
    client: ClientConnection,
    server: Records<Wire>,
}

fn configs(suite: SupportedCipherSuite) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let folder = tempfile::tempdir().unwrap();
    let (files, root) = tls::tests::make(folder.path(), &["a.example"]);
    let server = tls::tcp_config(tls::Certificates::load(&[files]).unwrap(), tls::tickets(None).unwrap()).unwrap();
    (client_config(suite, root), server)
}

fn client_config(suite: SupportedCipherSuite, root: CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).unwrap();
    let one = CryptoProvider { cipher_suites: vec![suite], ..CryptoProvider::clone(&provider()) };
    let builder = ClientConfig::builder_with_provider(Arc::new(one)).with_protocol_versions(&[suite.version()]);
    Arc::new(builder.unwrap().with_root_certificates(roots).with_no_client_auth())
}

impl Pair {
    fn new(suite: SupportedCipherSuite) -> Self {
        Self::with_early_bytes(suite, b"")
    }

    /// The client sends `early` together with the end of its handshake.
    fn with_early_bytes(suite: SupportedCipherSuite, early: &[u8]) -> Self {
        let (client, server) = configs(suite);
        let mut client = ClientConnection::new(client, "a.example".try_into().unwrap()).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            if !client.is_handshaking() {
                client.writer().write_all(early).unwrap();
            }
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut wire = wire.as_slice();
            while !wire.is_empty() {
                server.read_tls(&mut wire).unwrap();
                server.process_new_packets().unwrap();
            }
            let mut wire = Vec::new();
            // Tickets, which may still wait in the session then.
            let waits = early.is_empty() && !client.is_handshaking();
            while !waits && server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        let (to_server, to_client) = (Vec::new(), Vec::new());
        let wire = Wire { to_server, to_client, writes: 0, room: usize::MAX, read_max: usize::MAX, ended: false };
        Self { client, server: Records::new(wire, server) }
    }

    fn wire(&mut self) -> &mut Wire {
        &mut self.server.transport
    }

    fn write(&mut self, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.server).poll_write(&mut cx(), data)
    }

    fn flush(&mut self) -> Poll<io::Result<()>> {
        Pin::new(&mut self.server).poll_flush(&mut cx())
    }

    fn shutdown(&mut self) -> Poll<io::Result<()>> {
        Pin::new(&mut self.server).poll_shutdown(&mut cx())
    }

    fn read(&mut self, length: usize) -> Poll<io::Result<Vec<u8>>> {
        let mut bytes = vec![0; length];
        let mut buf = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.server).poll_read(&mut cx(), &mut buf))?;
        let filled = buf.filled().len();
        bytes.truncate(filled);
        Poll::Ready(Ok(bytes))
    }

    /// Reads what there is in parts of `length`.
    fn read_all(&mut self, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while let Poll::Ready(Ok(part)) = self.read(length) {
            if part.is_empty() {
                break;
            }
            all.extend(part);
        }
        all
    }

    /// Writes and flushes all of `data`, in parts of `length`; what the client gets of it. The wire takes `room` bytes at a time.
    fn serve(&mut self, mut data: &[u8], length: usize, room: usize) -> Vec<u8> {
        let mut got = Vec::new();
        self.wire().room = room;
        while !data.is_empty() {
            match self.write(&data[..data.len().min(length)]) {
                Poll::Ready(taken) => data = &data[taken.unwrap()..],
                Poll::Pending => got.extend(self.client_reads(room)),
            }
        }
        while self.flush().map(Result::unwrap).is_pending() {
            got.extend(self.client_reads(room));
        }
        got.extend(self.client_reads(room));
        got
    }

    /// Empties the wire, which takes `room` bytes again.
    fn client_reads(&mut self, room: usize) -> Vec<u8> {
        let wire = std::mem::take(&mut self.wire().to_client);
        self.wire().room = room;
        let (mut wire, mut got) = (wire.as_slice(), Vec::new());
        while !wire.is_empty() {
            self.client.read_tls(&mut wire).unwrap();
            let state = self.client.process_new_packets().unwrap();
            let mut part = vec![0; state.plaintext_bytes_to_read()];
            self.client.reader().read_exact(&mut part).unwrap();
            got.extend(part);
        }
        got
    }

    /// What the client has to send is put on the wire.
    fn client_sends(&mut self, mut data: &[u8]) {
        loop {
            let taken = self.client.writer().write(data).unwrap();
            data = &data[taken..];
            while self.client.wants_write() {
                self.client.write_tls(&mut self.server.transport.to_server).unwrap();
            }
            if data.is_empty() {
                return;
            }
        }
    }

    /// Nothing is held that nobody waits for.
    fn assert_idle(&self) {
        let held = [self.server.open.capacity(), self.server.sealed.capacity(), self.server.received.capacity()];
        assert_eq!(held, [0; 3]);
    }
}

/// The lengths of the records in `wire`.
fn record_lengths(mut wire: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let [kind, 3, 3, high, low, rest @ ..] = wire {
        assert_eq!(*kind, 23, "application data");
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        lengths.push(length);
        wire = &rest[length..];
    }
    assert!(wire.is_empty());
    lengths
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn suites() -> Vec<SupportedCipherSuite> {
    use rustls::CipherSuite::*;
    let rsa = [
        TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    // The certificate is for ECDSA.
    provider().cipher_suites.iter().filter(|suite| !rsa.contains(&suite.suite())).copied().collect()
}

fn aes128() -> SupportedCipherSuite {
    suites()[0]
}

#[test]
fn every_suite_carries_bytes_of_any_number_both_ways_in_parts_of_any_length() {
    for suite in suites() {
        let mut pair = Pair::new(suite);
        for length in [0, 1, 9, 2047, 2048, 16_383, 16_384, 16_385, 16_393, 49_152, 65_536, 70_000] {
            let data = pattern(length);
            for (part, room) in [(usize::MAX, usize::MAX), (16_393, 5000), (1000, 70_000), (16_384, 1 << 14)] {
                assert!(pair.serve(&data, part, room) == data, "{length} down in {part}, room {room}");
                pair.wire().read_max = room;
                pair.client_sends(&data);
                assert!(pair.read_all(part.min(100_000)) == data, "{length} up in {part}, {room} at once");
            }
        }
        assert!(pair.read(1).is_pending());
        pair.assert_idle();
    }
}

#[test]
fn a_wire_of_single_bytes_loses_none() {
    let mut pair = Pair::new(aes128());
    let data = pattern(40_000);
    assert!(pair.serve(&data, 777, 1) == data);
    pair.wire().read_max = 1;
    pair.client_sends(&data);
    assert!(pair.read_all(13) == data);
    pair.assert_idle();
}

#[test]
fn frames_with_headers_fill_records_and_leave_in_one_write() {
    let mut pair = Pair::new(aes128());
    // Tickets.
    assert!(pair.flush().is_ready());
    pair.client_reads(usize::MAX);
    pair.wire().writes = 0;
    let (header, payload) = (pattern(9), pattern(16_384));
    for _ in 0..3 {
        let frame = [IoSlice::new(&header), IoSlice::new(&payload)];
        let taken = Pin::new(&mut pair.server).poll_write_vectored(&mut cx(), &frame);
        assert_eq!(taken.map(Result::unwrap), Poll::Ready(16_393));
    }
    assert_eq!(pair.wire().writes, 0, "nothing leaves before a flush");
    assert!(pair.flush().is_ready());
    assert_eq!(pair.wire().writes, 1);
    // Inner type and tag.
    assert_eq!(record_lengths(&pair.wire().to_client), [16_384 + 17, 16_384 + 17, 16_384 + 17, 27 + 17]);
    pair.assert_idle();
}

#[test]
fn four_records_leave_without_a_flush_and_no_more_is_taken_than_the_wire_takes() {
    let mut pair = Pair::new(aes128());
    pair.wire().room = 0;
    let data = pattern(100_000);
    // Tickets may take the place of a record.
    let taken = pair.write(&data).map(Result::unwrap);
    assert!(matches!(taken, Poll::Ready(49_152..=65_536)), "{taken:?}");
    assert!(pair.write(&data).is_pending());
    assert!(pair.flush().is_pending());
    assert!(pair.server.sealed.len() <= SEALED_MAX);
    pair.wire().room = usize::MAX;
    assert!(pair.write(&data).is_ready());
    assert!(pair.wire().writes > 0);
}

#[test]
fn what_the_client_sends_with_the_end_of_its_handshake_is_there() {
    for suite in suites().into_iter().filter(|suite| suite.tls13().is_some()) {
        let mut pair = Pair::with_early_bytes(suite, b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(pair.read_all(100), b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(pair.serve(b"answer", 6, usize::MAX), b"answer");
    }
}

#[test]
fn keys_change_when_either_end_wants_it() {
    let mut pair = Pair::new(aes128());
    for round in 0..20 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client_sends(b"with new keys");
        assert_eq!(pair.read_all(100), b"with new keys", "round {round}");
        // rustls asks the other end for new keys, too.
        assert_eq!(pair.serve(b"the same", 8, usize::MAX), b"the same", "round {round}");
        pair.server.session.refresh_traffic_keys().unwrap();
        assert_eq!(pair.serve(&pattern(40_000), 16_393, usize::MAX), pattern(40_000), "round {round}");
    }
}

#[test]
fn each_direction_is_closed_by_itself() {
    let mut pair = Pair::new(aes128());
    pair.client_sends(b"last");
    pair.client.send_close_notify();
    pair.client_sends(b"");
    assert_eq!(pair.read(100).map(Result::unwrap), Poll::Ready(b"last".to_vec()));
    assert_eq!(pair.read(100).map(Result::unwrap), Poll::Ready(vec![]));
    assert_eq!(pair.read(100).map(Result::unwrap), Poll::Ready(vec![]), "once more");
    assert!(matches!(pair.write(b"answer"), Poll::Ready(Ok(6))));
    assert!(matches!(pair.shutdown(), Poll::Ready(Ok(()))), "sends what waits");
    assert_eq!(pair.client_reads(usize::MAX), b"answer");
    assert_eq!(pair.client.reader().read(&mut [0]).unwrap(), 0, "a clean end");
}

#[test]
fn an_end_without_close_notify_is_unexpected_and_does_not_hinder_the_answer() {
    let mut pair = Pair::new(aes128());
    pair.client_sends(b"some");
    pair.wire().ended = true;
    assert_eq!(pair.read(100).map(Result::unwrap), Poll::Ready(b"some".to_vec()));
    assert_eq!(pair.serve(b"answer", 6, usize::MAX), b"answer");
    for _ in 0..2 {
        let end = pair.read(100).map(|read| read.unwrap_err().kind());
        assert_eq!(end, Poll::Ready(io::ErrorKind::UnexpectedEof));
    }
}

#[test]
fn a_record_cut_by_the_end_is_unexpected_too() {
    let mut pair = Pair::new(aes128());
    pair.client_sends(b"some");
    pair.wire().to_server.pop();
    pair.wire().ended = true;
    let end = pair.read(100).map(|read| read.unwrap_err().kind());
    assert_eq!(end, Poll::Ready(io::ErrorKind::UnexpectedEof));
}

/// What reading a record that is `spoil`ed says, and the alert that the client gets.
fn answer_to(spoil: impl FnOnce(&mut Vec<u8>)) -> (io::ErrorKind, rustls::Error) {
    let mut pair = Pair::new(aes128());
    pair.client_sends(b"good");
    assert_eq!(pair.read_all(100), b"good");
    pair.client_sends(b"bad");
    spoil(&mut pair.wire().to_server);
    let Poll::Ready(Err(error)) = pair.read(100) else { panic!("spoiled bytes are read") };
    let wire = std::mem::take(&mut pair.wire().to_client);
    let mut wire = wire.as_slice();
    loop {
        assert_ne!(pair.client.read_tls(&mut wire).unwrap(), 0, "an alert");
        if let Err(alert) = pair.client.process_new_packets() {
            return (error.kind(), alert);
        }
    }
}

#[test]
fn what_is_not_authentic_or_too_long_is_answered_with_an_alert() {
    use rustls::AlertDescription::{BadRecordMac, DecodeError};
    use rustls::Error::AlertReceived;
    let changed = answer_to(|wire| *wire.last_mut().unwrap() ^= 1);
    assert_eq!(changed, (io::ErrorKind::InvalidData, AlertReceived(BadRecordMac)));
    let longer = answer_to(|wire| wire[3] = 0xff);
    assert_eq!(longer, (io::ErrorKind::InvalidData, AlertReceived(DecodeError)));
}

#[test]
fn a_failure_is_told_once_to_whoever_acts_next() {
    let mut pair = Pair::new(aes128());
    pair.server.fail(io::ErrorKind::TimedOut.into());
    assert!(matches!(pair.read(1), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::TimedOut));
    assert!(pair.read(1).is_pending());
    pair.server.fail(io::ErrorKind::TimedOut.into());
    assert!(matches!(pair.write(b"x"), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::TimedOut));
}
