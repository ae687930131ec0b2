//! HTTP/3 with quiche's own h3.

use std::collections::{BTreeMap, VecDeque};

use quiche::Connection;
use quiche::h3::{self, Config, Error, Event, Header, NameValue};

use crate::contract::{Outcome, Url, content, store};
use crate::conversation::Exchange;

/// The layer on a connection, made when it can be.
fn layer<'a>(http: &'a mut Option<h3::Connection>, quic: &mut Connection) -> Outcome<&'a mut h3::Connection> {
    if http.is_none() {
        *http = Some(h3::Connection::with_transport(quic, &Config::new()?)?);
    }
    http.as_mut().ok_or_else(|| "no HTTP/3".into())
}

fn field<'a>(list: &'a [Header], name: &[u8]) -> Outcome<&'a str> {
    let field = list.iter().find(|field| field.name() == name).ok_or("a pseudo-header is missing")?;
    Ok(std::str::from_utf8(field.value())?)
}

pub struct Client {
    http: Option<h3::Connection>,
    wanted: VecDeque<Url>,
    asked: BTreeMap<u64, (Url, Vec<u8>)>,
}

impl Client {
    pub fn new(urls: Vec<Url>) -> Self {
        Self { http: None, wanted: urls.into(), asked: BTreeMap::new() }
    }
}

fn request(url: &Url) -> [Header; 4] {
    let authority = format!("{}:{}", url.host, url.port);
    [(":method", "GET"), (":scheme", "https"), (":authority", &authority), (":path", &url.path)]
        .map(|(name, value)| Header::new(name.as_bytes(), value.as_bytes()))
}

impl Exchange for Client {
    fn step(&mut self, quic: &mut Connection) -> Outcome<bool> {
        let http = layer(&mut self.http, quic)?;
        while let Some(url) = self.wanted.pop_front() {
            match http.send_request(quic, &request(&url), true) {
                Ok(id) => drop(self.asked.insert(id, (url, Vec::new()))),
                Err(Error::StreamBlocked | Error::TransportError(quiche::Error::StreamLimit)) => {
                    self.wanted.push_front(url);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut buffer = vec![0; 65_536];
        loop {
            match http.poll(quic) {
                Ok((_, Event::Headers { list, .. })) => match field(&list, b":status")? {
                    "200" => {}
                    status => return Err(format!("status {status}").into()),
                },
                Ok((id, Event::Data)) => {
                    let (_, body) = self.asked.get_mut(&id).ok_or("nobody asked for it")?;
                    while let Ok(length) = http.recv_body(quic, id, &mut buffer) {
                        body.extend_from_slice(&buffer[..length]);
                    }
                }
                Ok((id, Event::Finished)) => {
                    let (url, body) = self.asked.remove(&id).ok_or("nobody asked for it")?;
                    store(&url, &body)?;
                }
                Ok((_, Event::Reset(code))) => return Err(format!("reset with 0x{code:x}").into()),
                Ok((_, Event::GoAway | Event::PriorityUpdate)) => {}
                Err(Error::Done) => return Ok(self.wanted.is_empty() && self.asked.is_empty()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A response, as far as it is not written.
struct Response {
    head: Option<[Header; 2]>,
    body: Vec<u8>,
}

impl Response {
    fn to(request: &[Header]) -> Outcome<Self> {
        let (status, body) = match content(field(request, b":path")?) {
            Ok(body) => ("200", body),
            Err(error) => ("404", error.to_string().into_bytes()),
        };
        let length = body.len().to_string();
        let head = [(":status", status), ("content-length", &length)];
        Ok(Self { head: Some(head.map(|(name, value)| Header::new(name.as_bytes(), value.as_bytes()))), body })
    }

    /// Writes as much as there is room for; an empty body is a response that nobody reads any more.
    fn step(&mut self, http: &mut h3::Connection, quic: &mut Connection, id: u64) -> Result<(), Error> {
        if let Some(head) = &self.head {
            http.send_response(quic, id, head, self.body.is_empty())?;
            self.head = None;
        }
        if !self.body.is_empty() {
            let written = http.send_body(quic, id, &self.body, true)?;
            self.body.drain(..written);
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Server {
    http: Option<h3::Connection>,
    responses: BTreeMap<u64, Response>,
}

impl Exchange for Server {
    fn step(&mut self, quic: &mut Connection) -> Outcome<bool> {
        let http = layer(&mut self.http, quic)?;
        loop {
            match http.poll(quic) {
                Ok((id, Event::Headers { list, .. })) => drop(self.responses.insert(id, Response::to(&list)?)),
                Ok((id, Event::Reset(_))) => drop(self.responses.remove(&id)),
                Ok(_) => {}
                Err(Error::Done) => break,
                Err(error) => return Err(error.into()),
            }
        }
        for (id, response) in &mut self.responses {
            match response.step(http, quic, *id) {
                Ok(()) | Err(Error::Done | Error::StreamBlocked) => {}
                Err(Error::TransportError(quiche::Error::StreamStopped(_))) => {
                    (response.head, response.body) = (None, Vec::new())
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.responses.retain(|_, response| response.head.is_some() || !response.body.is_empty());
        Ok(false)
    }
}
