//! The client: connections that fetch files and end.

use std::sync::Mutex;
use std::thread;

use quiche::ConnectionId;

use crate::contract::{CONNECTIONS_MAX, Outcome, Url, cert, own, requests};
use crate::conversation::{Conversation, Exchange, ID_LENGTH};
use crate::link::{Link, random};
use crate::{config, h3, hq};

/// Of HTTP/3: nothing is wrong (RFC 9114 section 8.1).
const H3_NO_ERROR: u64 = 0x100;

pub fn download(case: &str) -> Outcome<()> {
    let mut urls = requests()?;
    match case {
        "multiconnect" => each(case, urls),
        "resumption" | "zerortt" => {
            let rest = urls.split_off(1);
            let ticket = fetch(case, urls, Ticket::Wanted)?.ok_or("no ticket")?;
            fetch(case, rest, Ticket::Used(ticket)).map(drop)
        }
        _ => fetch(case, urls, Ticket::None).map(drop),
    }
}

/// Every file over a connection of its own, some at a time.
fn each(case: &str, urls: Vec<Url>) -> Outcome<()> {
    let urls = Mutex::new(urls);
    let next = || urls.lock().ok().and_then(|mut urls| urls.pop());
    let work = || -> Outcome<()> {
        while let Some(url) = next() {
            fetch(case, vec![url], Ticket::None)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..CONNECTIONS_MAX).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a thread is gone")?)
    })
}

enum Ticket {
    None,
    Wanted,
    Used(Vec<u8>),
}

/// Fetches all over one connection; its ticket, if there was one.
fn fetch(case: &str, urls: Vec<Url>, ticket: Ticket) -> Outcome<Option<Vec<u8>>> {
    let first = urls.first().ok_or("no request")?.clone();
    let peer = first.address()?;
    let mut link = Link::bind(own(peer))?;
    let mut config = config(case)?;
    config.load_verify_locations_from_file(cert("ca.pem").to_str().ok_or("CERTS")?)?;
    config.verify_peer(true);
    let id = random::<ID_LENGTH>()?;
    let mut quic = quiche::connect(Some(&first.host), &ConnectionId::from_ref(&id), link.own, peer, &mut config)?;
    if let Ticket::Used(ticket) = &ticket {
        quic.set_session(ticket)?;
    }
    let (exchange, code): (Box<dyn Exchange>, _) = match case {
        "http3" => (Box::new(h3::Client::new(urls)), H3_NO_ERROR),
        _ => (Box::new(hq::Client::new(urls)), 0),
    };
    let name = format!("{}_client", quic.trace_id());
    let mut conversation = Conversation::new(quic, exchange, &name)?;
    let (mut fetched, mut buffer) = (false, vec![0; 65_536]);
    conversation.send(&link)?;
    while !conversation.quic.is_closed() {
        if !fetched && conversation.step()? {
            // Not before the handshake is over, however early everything came.
            let waits = matches!(ticket, Ticket::Wanted) && conversation.quic.session().is_none();
            fetched = !waits && conversation.quic.is_established();
            if fetched {
                // The end of the handshake, if that is still to be sent: quiche forgets it when it is closed.
                conversation.send(&link)?;
                conversation.quic.close(true, code, b"")?;
            }
        }
        conversation.send(&link)?;
        link.wait(conversation.due())?;
        while let Some((datagram, info)) = link.receive(&mut buffer)? {
            conversation.handle_datagram(datagram, info);
        }
        conversation.handle_time();
    }
    if fetched {
        return Ok(conversation.quic.session().map(<[u8]>::to_vec));
    }
    let quic = &conversation.quic;
    let (here, there) = (quic.local_error(), quic.peer_error());
    Err(format!("closed: {here:?} here, {there:?} there, timed out: {}", quic.is_timed_out()).into())
}
