//! The server: one socket, all connections; ends with its process.

use std::collections::HashMap;
use std::net::SocketAddr;

use quiche::{Config, ConnectionId, Header, RecvInfo, Type};

use crate::contract::{Outcome, cert, listen};
use crate::conversation::{Conversation, Exchange, ID_LENGTH};
use crate::link::{Link, random};
use crate::{DATAGRAM_MAX, config, h3, hq};

/// What a client's first datagram has at least (RFC 9000 section 14.1).
const INITIAL_MIN: usize = 1_200;

/// Who was sent a Retry with a token: the id that it came for, and the one it was told to use.
struct Asked {
    client: SocketAddr,
    first: ConnectionId<'static>,
    told: ConnectionId<'static>,
}

struct Server {
    link: Link,
    config: Config,
    case: String,
    /// With the ids that clients chose for them.
    conversations: Vec<(ConnectionId<'static>, Conversation)>,
    asked: HashMap<Vec<u8>, Asked>,
}

pub fn serve(case: &str) -> Outcome<()> {
    let mut config = config(case)?;
    config.load_cert_chain_from_pem_file(cert("cert.pem").to_str().ok_or("CERTS")?)?;
    config.load_priv_key_from_pem_file(cert("priv.key").to_str().ok_or("CERTS")?)?;
    let (conversations, asked) = (Vec::new(), HashMap::new());
    let mut server = Server { link: Link::bind(listen())?, config, case: case.to_owned(), conversations, asked };
    let mut buffer = vec![0; 65_536];
    loop {
        let due = server.conversations.iter().filter_map(|(_, conversation)| conversation.due()).min();
        server.link.wait(due)?;
        while let Some((datagram, info)) = server.link.receive(&mut buffer)? {
            server.handle_datagram(datagram, info)?;
        }
        for (_, conversation) in &mut server.conversations {
            conversation.handle_time();
            if let Err(error) = conversation.step() {
                eprintln!("quiche server: {error}");
                // It may be closed already.
                let _ = conversation.quic.close(true, 1, b"");
            }
            conversation.send(&server.link)?;
        }
        server.conversations.retain(|(_, conversation)| !conversation.quic.is_closed());
    }
}

impl Server {
    fn handle_datagram(&mut self, datagram: &mut [u8], info: RecvInfo) -> Outcome<()> {
        let Ok(header) = Header::from_slice(datagram, ID_LENGTH) else { return Ok(()) };
        let mut known = self.conversations.iter_mut();
        let known = known.find(|(first, conversation)| {
            *first == header.dcid || conversation.quic.source_ids().any(|id| *id == header.dcid)
        });
        if let Some((_, conversation)) = known {
            conversation.handle_datagram(datagram, info);
            return Ok(());
        }
        if header.ty != Type::Initial || datagram.len() < INITIAL_MIN {
            return Ok(());
        }
        if !quiche::version_is_supported(header.version) {
            let mut answer = [0; DATAGRAM_MAX];
            let length = quiche::negotiate_version(&header.scid, &header.dcid, &mut answer)?;
            return self.link.send(&answer[..length], info.from).map(drop);
        }
        let Some(mut conversation) = self.accept(&header, info)? else { return Ok(()) };
        conversation.handle_datagram(datagram, info);
        self.conversations.push((header.dcid.into_owned(), conversation));
        Ok(())
    }

    /// A new connection, unless the client has to prove its address first.
    fn accept(&mut self, header: &Header<'_>, info: RecvInfo) -> Outcome<Option<Conversation>> {
        let new = ConnectionId::from_vec(random::<ID_LENGTH>()?.to_vec());
        let token = header.token.as_deref().unwrap_or_default();
        let (id, first) = match self.asked.get(token) {
            _ if self.case != "retry" => (&new, None),
            Some(asked) if asked.client == info.from && asked.told == header.dcid => (&asked.told, Some(&asked.first)),
            Some(_) => return Ok(None),
            None => return self.retry(header, info, new).map(|()| None),
        };
        let quic = quiche::accept(id, first, self.link.own, info.from, &mut self.config)?;
        let exchange: Box<dyn Exchange> = match self.case.as_str() {
            "http3" => Box::new(h3::Server::default()),
            _ => Box::new(hq::Server::default()),
        };
        let name = format!("{}_server", quic.trace_id());
        Conversation::new(quic, exchange, &name).map(Some)
    }

    fn retry(&mut self, header: &Header<'_>, info: RecvInfo, told: ConnectionId<'static>) -> Outcome<()> {
        let (token, mut packet) = (random::<32>()?, [0; DATAGRAM_MAX]);
        let length = quiche::retry(&header.scid, &header.dcid, &told, &token, header.version, &mut packet)?;
        let first = header.dcid.clone().into_owned();
        self.asked.insert(token.to_vec(), Asked { client: info.from, first, told });
        self.link.send(&packet[..length], info.from).map(drop)
    }
}
