//! The spine of the edge: filter, route, dispatch, one plain function. Called by every listener through [`Serve`].

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, PROXY_AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use ipnet::IpNet;

use super::body::{ResponseBody, Rest};
use super::dispatch::continuation::Continuation;
use super::dispatch::{Dispatch, Outbound};
use super::filter::{self, FilterState, filter};
use super::listener::{Client, Interim, Protocol, Request, Response, Serve};
use super::route::Routes;
use crate::config::Limits;
use crate::fault::{Fault, Kind, Side, Stage};
use crate::fields::{self, Forwarding, Via};
use crate::observe::record::{Observer, Opening, Record, Wire};
use crate::tunnel::message::{Meta, ResponseHead};

/// Seconds after which a client may ask again for what is unavailable now.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// What all requests of an edge share.
pub struct Edge {
    /// This PoP's name.
    pub name: Arc<str>,
    /// Bounds on clients.
    pub limits: Arc<Limits>,
    /// Peers whose forwarding fields are believed.
    pub trusted: Vec<IpNet>,
    /// Authority to service.
    pub routes: Routes,
    /// Early refusals.
    pub filter: Arc<FilterState>,
    /// Who hears of every request.
    pub observer: Observer,
    /// This hop's `Via`.
    pub via: Via,
}

/// The spine on one worker.
#[derive(Clone)]
pub struct Spine {
    /// What all share.
    pub edge: Arc<Edge>,
    /// Stage 5 on this worker.
    pub dispatch: Arc<Dispatch>,
}

impl Serve for Spine {
    type Body = ResponseBody;

    async fn serve<I: Interim>(&self, mut request: Request, interim: &mut I) -> Response<ResponseBody> {
        let trusted = self.edge.is_trusted(&request.client);
        let id = fields::set_request_id(&mut request.head.headers, trusted);
        // On the heap: it goes through many hands on its way to the end of the body.
        let mut record = Box::new(self.edge.observer.record(opening(&request, &id), request.started));
        let outcome = match self.edge.limits.total_timeout {
            // Pinned here and below: awaited directly, futures of this size are copied twice first.
            None => pin!(self.answer(request, &id, trusted, &mut record, interim)).await,
            Some(timeout) => {
                let late = Fault::new(Stage::Dispatch, Side::Upstream, Kind::ResponseTimeout);
                let left = timeout.saturating_sub(record.age());
                let answer = self.answer(request, &id, trusted, &mut record, interim);
                tokio::time::timeout(left, answer).await.unwrap_or(Err(late))
            }
        };
        let (mut head, body) = outcome.unwrap_or_else(|fault| self.edge.refuse(fault, &mut record));
        record.head(head.status);
        fields::append_server_timing(&mut head.headers, "edge", record.age());
        self.edge.finish_head(&mut head, id);
        Response { head, body: body.recorded(record, self.edge.limits.total_timeout) }
    }
}

impl Spine {
    async fn answer<I: Interim>(
        &self,
        mut request: Request,
        id: &HeaderValue,
        trusted: bool,
        record: &mut Record,
        interim: &mut I,
    ) -> Result<(ResponseHead, ResponseBody), Fault> {
        let permit = filter(&request, &self.edge.filter)?;
        let misdirected = Fault::new(Stage::Route, Side::Client, Kind::DestinationNotFound);
        let service = self.edge.routes.find(&request.head.authority).ok_or(misdirected)?;
        record.routed(service.index);
        self.edge.forward_fields(&mut request, trusted);
        let meta = Meta {
            service: service.name.to_string(),
            request_id: Bytes::copy_from_slice(id.as_bytes()),
            client: Some(request.client.address),
            ..Meta::default()
        };
        let outbound = Outbound {
            head: request.head,
            meta,
            service: service.index,
            credit: request.client.credit.clone(),
            response_timeout: service.response_timeout,
        };
        let answered = pin!(self.dispatch.send(outbound, request.body, record, interim)).await?;
        let continuation = Continuation::of(&answered.outbound.head, &answered.head);
        let rest = continuation.map(|continuation| Rest::new(&self.dispatch, answered.outbound, continuation));
        Ok((answered.head, ResponseBody::exchange(answered.reader, rest, permit)))
    }
}

fn opening(request: &Request, id: &HeaderValue) -> Opening {
    Opening {
        wire: match request.client.protocol {
            Protocol::Http1 => Wire::Http1,
            Protocol::Http2 => Wire::Http2,
            Protocol::Http3 => Wire::Http3,
        },
        client: request.client.address,
        request_id: Some(id.clone()),
        method: request.head.method.clone(),
        authority: request.head.authority.clone(),
        path: request.head.path.clone(),
    }
}

impl Edge {
    fn is_trusted(&self, client: &Client) -> bool {
        let address = client.address.ip().to_canonical();
        self.trusted.iter().any(|net| net.contains(&address))
    }

    /// The fields a proxy adds to a request.
    fn forward_fields(&self, request: &mut Request, trusted: bool) {
        let head = &mut request.head;
        let forwarding = Forwarding {
            peer: request.client.address.ip().to_canonical(),
            proto: "https",
            host: head.authority.as_str(),
            trusted,
        };
        // Credentials for a proxy that asked for them; this one does not (RFC 9110 section 11.7.2).
        head.headers.remove(PROXY_AUTHORIZATION);
        fields::set_forwarded(&mut head.headers, &forwarding);
        self.via.append(&mut head.headers, request.client.protocol.version());
        self.filter.mark(&mut head.headers);
    }

    /// The answer that a fault becomes.
    fn refuse(&self, fault: Fault, record: &mut Record) -> (ResponseHead, ResponseBody) {
        record.fault(&fault);
        let status = fault.status();
        let mut headers = HeaderMap::with_capacity(8);
        fields::append_proxy_status(&mut headers, &self.name, &fault);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static(filter::ALLOW));
        }
        let body = Bytes::from(format!("{status}: {}\n", fault.error_type()));
        headers.insert(CONTENT_LENGTH, body.len().into());
        (ResponseHead { status, headers }, ResponseBody::full(body))
    }

    /// The fields a proxy adds to every response.
    fn finish_head(&self, head: &mut ResponseHead, id: HeaderValue) {
        fields::add_date(&mut head.headers);
        head.headers.insert(fields::REQUEST_ID, id);
        self.via.append(&mut head.headers, "1.1");
    }
}
