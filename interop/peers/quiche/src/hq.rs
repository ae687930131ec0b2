//! HTTP/0.9 on QUIC: each file has a stream, whose one side is a line and whose other is the file.

use std::collections::{BTreeMap, VecDeque};

use quiche::{Connection, Error, Shutdown};

use crate::contract::{LINE_MAX, Outcome, Url, answer, line, store};
use crate::conversation::Exchange;

/// What is still to be written to streams, until their ends.
#[derive(Default)]
struct Outbox(BTreeMap<u64, Vec<u8>>);

impl Outbox {
    /// Writes as much as there is room for.
    fn step(&mut self, quic: &mut Connection) -> Outcome<()> {
        for (id, bytes) in &mut self.0 {
            match quic.stream_send(*id, bytes, true) {
                Ok(written) => drop(bytes.drain(..written)),
                Err(Error::Done) => break,
                Err(Error::StreamStopped(_)) => bytes.clear(),
                Err(error) => return Err(error.into()),
            }
        }
        self.0.retain(|_, bytes| !bytes.is_empty());
        Ok(())
    }
}

/// What has come on streams.
#[derive(Default)]
struct Inbox(BTreeMap<u64, Vec<u8>>);

impl Inbox {
    /// Reads all there is; the streams that have ended, with everything that came on them.
    fn step(&mut self, quic: &mut Connection) -> Outcome<Vec<(u64, Vec<u8>)>> {
        let (mut ended, mut buffer) = (Vec::new(), vec![0; 65_536]);
        for id in quic.readable() {
            loop {
                match quic.stream_recv(id, &mut buffer) {
                    Ok((length, end)) => {
                        self.0.entry(id).or_default().extend_from_slice(&buffer[..length]);
                        if end {
                            ended.extend(self.0.remove_entry(&id));
                            break;
                        }
                    }
                    Err(Error::Done) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(ended)
    }
}

pub struct Client {
    wanted: VecDeque<Url>,
    asked: BTreeMap<u64, Url>,
    next: u64,
    inbox: Inbox,
    outbox: Outbox,
}

impl Client {
    pub fn new(urls: Vec<Url>) -> Self {
        let (asked, inbox, outbox) = Default::default();
        Self { wanted: urls.into(), asked, next: 0, inbox, outbox }
    }
}

impl Exchange for Client {
    fn step(&mut self, quic: &mut Connection) -> Outcome<bool> {
        for (id, body) in self.inbox.step(quic)? {
            store(&self.asked.remove(&id).ok_or("nobody asked for it")?, &body)?;
        }
        while quic.peer_streams_left_bidi() > 0
            && let Some(url) = self.wanted.pop_front()
        {
            // Opens the stream, also if there is no room for anything on it yet.
            quic.stream_send(self.next, b"", false)?;
            self.outbox.0.insert(self.next, line(&url));
            self.asked.insert(self.next, url);
            self.next += 4;
        }
        self.outbox.step(quic)?;
        Ok(self.wanted.is_empty() && self.asked.is_empty())
    }
}

#[derive(Default)]
pub struct Server {
    inbox: Inbox,
    outbox: Outbox,
}

impl Exchange for Server {
    fn step(&mut self, quic: &mut Connection) -> Outcome<bool> {
        for (id, request) in self.inbox.step(quic)? {
            match answer(&request) {
                Ok(body) => drop(self.outbox.0.insert(id, body)),
                Err(error) => {
                    eprintln!("quiche server: {error}");
                    quic.stream_shutdown(id, Shutdown::Write, 1)?;
                }
            }
        }
        if self.inbox.0.values().any(|request| request.len() > LINE_MAX) {
            return Err("a long request".into());
        }
        self.outbox.step(quic)?;
        Ok(false)
    }
}
