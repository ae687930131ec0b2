//! Stage 1, the requests of one TCP connection: from hyper's request to the spine and back.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::super::admission::Permit;
use super::super::head::content_length;
use super::super::metrics::Open;
use super::super::{Client, NoInterim, Protocol, RequestBody, Response as SpineResponse, Serve};
use super::TcpListener;
use super::activity::{Active, Activity};
use super::body::{AnswerBody, ClientBody};
use super::request::{Head, Refused, Switch, convert, strip_connection_specific};
use super::stream::Phase;
use super::upgrade::{self, Feed, Pump};
use crate::clock;
use crate::fault::{Fault, Kind, Side, Stage};

/// What the requests of one connection share.
pub(super) struct Connection<S> {
    pub(super) listener: TcpListener,
    pub(super) serve: S,
    pub(super) client: Arc<Client>,
    pub(super) activity: Arc<Activity>,
    /// Held here because a switched connection outlives hyper's.
    pub(super) _place: Permit,
    pub(super) _open: Open,
}

type Answer<S> = Response<AnswerBody<<S as Serve>::Body>>;

impl<S: Serve> Connection<S> {
    /// Answers one request. The request counts from this call on, not from the future's first poll.
    pub(super) fn call(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Answer<S>, Infallible>> + Send + use<S> {
        let this = self.clone();
        let (active, started) = self.activity.request(clock::now(), self.listener.metrics.of(self.client.protocol));
        async move { Ok(this.answer(request, active, started).await) }
    }

    async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        mut active: Active,
        started: Instant,
    ) -> Answer<S> {
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (parts, body) = request.into_parts();
        let is_head = parts.method == Method::HEAD;
        let Head { head, length, switch } = match convert(parts, self.client.sni.as_deref(), &self.listener.limits) {
            Ok(head) => head,
            Err(refused) => {
                active.complete();
                return self.refuse(refused);
            }
        };
        let (feed, body) = self.body(body, length, &switch);
        let request = super::super::Request { head, body, client: self.client.clone(), started };
        let mut response = self.serve.serve(request, &mut NoInterim).await;
        strip_connection_specific(&mut response.head.headers);
        match feed {
            Some(feed) if response.head.status == StatusCode::OK => {
                self.switch(response, switch, feed, on_upgrade, active)
            }
            feed => self.respond(response, is_head, feed.is_some(), active),
        }
    }

    fn body(&self, body: Incoming, length: Option<u64>, switch: &Switch) -> (Option<Feed>, RequestBody) {
        if *switch != Switch::None {
            let (feed, body) = upgrade::body();
            return (Some(feed), RequestBody::Stream(Box::pin(body)));
        }
        let body = ClientBody::new(body, length, self.listener.limits.body_timeout);
        if body.is_end_stream() {
            return (None, RequestBody::Empty);
        }
        (None, RequestBody::Stream(Box::pin(body)))
    }

    fn respond(
        &self,
        response: SpineResponse<S::Body>,
        is_head: bool,
        wanted_switch: bool,
        mut active: Active,
    ) -> Answer<S> {
        let SpineResponse { mut head, body } = response;
        let declared = content_length(&head.headers);
        // hyper takes any 2xx to an extended CONNECT for a switch, but only 200 is one. A final 1xx is none.
        let odd = head.status.is_informational() || (wanted_switch && head.status.is_success());
        let (Ok(declared), false) = (declared, odd) else {
            active.complete();
            return self.fault_page(Fault::new(Stage::Listener, Side::Upstream, Kind::ProtocolError));
        };
        if head.status == StatusCode::NO_CONTENT {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        let bare = is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self.build(head.status, head.headers, AnswerBody::spine(body, declared, bare, active))
    }

    /// Answers 101 or 200 and leaves the rest to a [`Pump`], which hyper feeds once the answer is written.
    fn switch(
        self: &Arc<Self>,
        response: SpineResponse<S::Body>,
        switch: Switch,
        feed: Feed,
        upgrade: OnUpgrade,
        mut active: Active,
    ) -> Answer<S> {
        let limits = &self.listener.limits;
        let pump = Pump {
            upgrade,
            feed,
            body: response.body,
            phase: Phase::current(),
            switch_timeout: limits.header_timeout,
            write_timeout: limits.body_timeout,
        };
        let connection = self.clone();
        self.listener.tasks.spawn(async move {
            pump.run().await;
            active.complete();
            drop((active, connection));
        });
        let mut headers = response.head.headers;
        headers.remove(header::CONTENT_LENGTH);
        let Switch::WebSocket(accept) = switch else {
            return self.build(StatusCode::OK, headers, AnswerBody::own(Bytes::new()));
        };
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        self.build(StatusCode::SWITCHING_PROTOCOLS, headers, AnswerBody::own(Bytes::new()))
    }

    fn refuse(&self, refused: Refused) -> Answer<S> {
        self.listener.metrics.of(self.client.protocol).refused_requests.inc();
        tracing::debug!(address = %self.client.address, reason = refused.reason, "request refused");
        let mut answer = self.fault_page(Fault::bad_request(Stage::Listener, refused.status));
        if refused.status == StatusCode::UPGRADE_REQUIRED {
            let headers = answer.headers_mut();
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        answer
    }

    /// A short answer of the listener's own. On HTTP/1.1 it ends the connection: what follows cannot be trusted.
    fn fault_page(&self, fault: Fault) -> Answer<S> {
        let status = fault.status();
        let mut headers = HeaderMap::new();
        if self.client.protocol == Protocol::Http1 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Ok(value) = HeaderValue::from_maybe_shared(fault.proxy_status(&self.listener.name).into_bytes()) {
            headers.insert("proxy-status", value);
        }
        self.build(status, headers, AnswerBody::own(Bytes::from(format!("{status}\n"))))
    }

    fn build(&self, status: StatusCode, headers: HeaderMap, body: AnswerBody<S::Body>) -> Answer<S> {
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        if let Some(value) = self.listener.alt_svc.value() {
            answer.headers_mut().insert(header::ALT_SVC, value.clone());
        }
        answer
    }
}
