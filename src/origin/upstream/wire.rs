//! Stage 8: the head of a request in the form that a connection's protocol wants.
//!
//! Called by [`super`]. A request that came back unsent is taken apart again, to be sent in whichever form the next
//! connection needs.

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};

use super::outgoing::Outgoing;
use crate::config::UpstreamScheme;
use crate::fault::{Fault, Side, Stage};

/// A request that may be sent on any connection.
pub(super) struct Prepared {
    pub(super) method: Method,
    pub(super) authority: Authority,
    pub(super) path: PathAndQuery,
    pub(super) headers: HeaderMap,
    pub(super) body: Outgoing,
}

/// What a connection needs beside the fields, kept to rebuild a request from.
#[derive(Clone)]
pub(super) struct Target {
    method: Method,
    authority: Authority,
    path: PathAndQuery,
}

impl Target {
    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// A request again from one that came back.
    pub(super) fn recover(self, request: Request<Outgoing>) -> Prepared {
        let (parts, body) = request.into_parts();
        let Self { method, authority, path } = self;
        let mut headers = parts.headers;
        headers.remove(HOST);
        headers.remove(CONNECTION);
        Prepared { method, authority, path, headers, body }
    }

    /// A request again from a copy of its fields; for requests without a body.
    pub(super) fn repeat(self, headers: HeaderMap) -> Prepared {
        let Self { method, authority, path } = self;
        Prepared { method, authority, path, headers, body: Outgoing::empty() }
    }
}

impl Prepared {
    pub(super) fn target(&self) -> Target {
        Target { method: self.method.clone(), authority: self.authority.clone(), path: self.path.clone() }
    }

    /// The length that the head announces.
    ///
    /// # Errors
    /// 400 if it is no number; listeners let none such through.
    pub(super) fn length(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
        let Some(value) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
        let length = value.to_str().ok().and_then(|text| text.parse().ok());
        length.map(Some).ok_or(Fault::bad_request(Stage::Upstream, StatusCode::BAD_REQUEST))
    }

    /// Takes `Expect` away for an HTTP/2 upstream, whose interim responses hyper does not pass on: the gateway, being
    /// the server of the tunnel's side (RFC 9110 section 3.7), answers it. True if there was one.
    pub(super) fn take_expect(&mut self) -> bool {
        self.headers.remove(EXPECT).is_some()
    }

    /// The HTTP/1.1 form: origin-form target and Host (RFC 9112 section 3.2.1).
    pub(super) fn into_http1(self) -> Result<Request<Outgoing>, Fault> {
        let Self { method, authority, path, mut headers, body } = self;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| internal())?;
        headers.insert(HOST, host);
        // RFC 9110 section 8.6: some servers answer 411 to a POST that says nothing of its length. hyper leaves it out.
        let expects_content = matches!(method, Method::POST | Method::PUT | Method::PATCH);
        if expects_content && body.is_empty() && !headers.contains_key(CONTENT_LENGTH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if headers.contains_key(TE) {
            // RFC 9110 section 10.1.4: a sender of TE names it in Connection.
            headers.append(CONNECTION, HeaderValue::from_static("te"));
        }
        Ok(request(method, Uri::from(path), headers, body))
    }

    /// The HTTP/2 form: pseudo-fields from an absolute target.
    pub(super) fn into_http2(self, scheme: UpstreamScheme) -> Result<Request<Outgoing>, Fault> {
        let Self { method, authority, path, headers, body } = self;
        let scheme = if scheme == UpstreamScheme::Https { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path);
        let uri = uri.build().map_err(|_| internal())?;
        let mut request = request(method, uri, headers, body);
        *request.version_mut() = Version::HTTP_2;
        Ok(request)
    }
}

fn request(method: Method, uri: Uri, headers: HeaderMap, body: Outgoing) -> Request<Outgoing> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

fn internal() -> Fault {
    Fault::internal(Stage::Upstream, Side::Gateway)
}
