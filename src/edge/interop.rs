//! What QUIC connections of clients are under quic-interop-runner: HTTP/0.9 beside HTTP/3, on the spine or on files without a
//! chain. Called by `run`; in a build with the feature `interop` it takes the place of `http3.rs`, and does the same where
//! `EdgeConfig::interop` is not set.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::combinators::MapErr;
use quinn::crypto::rustls::HandshakeData;
use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, KeyLogFile, ServerConfig};

use super::body::ResponseBody;
use super::listener::quic::Qlog;
use super::listener::tls::{Certificates, Resumption, quic_tls};
use super::listener::{Client, Interim, Request, RequestBody, Response, Serve, h3, hq};
use super::serve::Spine;
use crate::clock;
use crate::config::EdgeConfig;
use crate::dev::upstream::body::{AnyBody, BodyError, empty};
use crate::dev::upstream::files::Files;
use crate::fault::{Fault, Kind, Side, Stage};
use crate::quic::Connection;
use crate::tls::{TlsError, provider};
use crate::tunnel::message::ResponseHead;

/// From the start, until the chain must be there.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Between looks at whether it is.
const PAUSE: Duration = Duration::from_millis(50);

/// The TLS of clients' QUIC connections.
///
/// # Errors
/// When rustls refuses it.
pub fn tls(
    config: &EdgeConfig,
    certificates: Arc<Certificates>,
    resumption: Resumption,
) -> Result<ServerConfig, TlsError> {
    let Some(interop) = &config.interop else { return quic_tls(provider(), certificates, resumption) };
    let mut suites = CryptoProvider::clone(&provider());
    if interop.chacha20 {
        suites.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    }
    let mut tls = quic_tls(Arc::new(suites), certificates, resumption)?;
    tls.alpn_protocols.push(hq::ALPN.to_vec());
    // Links of tunnels have a configuration of their own and are in no log.
    tls.key_log = Arc::new(KeyLogFile::new());
    Ok(tls)
}

/// A trace of each connection, if they are asked for.
pub fn qlog(config: &EdgeConfig, server: &quinn::ServerConfig) -> Option<Qlog> {
    let folder = config.interop.as_ref()?.qlog.as_deref()?;
    Some(Qlog { folder: folder.into(), server: server.clone() })
}

/// What every connection of a worker gets.
#[derive(Clone)]
pub struct Connections {
    serving: Serving,
    context: Arc<h3::Context>,
}

/// What answers requests.
#[derive(Clone)]
enum Serving {
    /// The chain.
    Spine(Patient),
    /// The edge itself.
    Files(Direct),
}

impl Connections {
    /// Connections whose requests go to `spine`, unless a folder is to be served without it.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn new(config: &EdgeConfig, spine: Spine, context: h3::Context) -> io::Result<Self> {
        let serving = match config.interop.as_ref().and_then(|interop| interop.direct.as_deref()) {
            Some(folder) => Serving::Files(Direct::new(folder)?),
            None => Serving::Spine(Patient { spine, until: clock::now() + START_TIMEOUT }),
        };
        Ok(Self { serving, context: Arc::new(context) })
    }

    /// Runs an established connection until its end.
    pub async fn run(self, quinn: Connection, client: Arc<Client>) {
        match self.serving {
            Serving::Spine(spine) => run(quinn, client, spine, self.context).await,
            Serving::Files(files) => run(quinn, client, files, self.context).await,
        }
    }
}

/// By the protocol that the handshake agreed on.
async fn run<S: Serve>(quinn: Connection, client: Arc<Client>, serve: S, context: Arc<h3::Context>) {
    let handshake = quinn.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    match handshake.and_then(|data| data.protocol).as_deref() {
        Some(hq::ALPN) => hq::connection(quinn, client, serve, context.limits.clone(), context.tasks.clone()).await,
        _ => h3::connection(quinn, client, serve, context).await,
    }
}

/// The chain, whose tunnel may come late: the runner's clients begin as soon as the edge is bound, and on a machine that is
/// busy enough the origin takes longer than the seconds that a PoP gives its gateways.
#[derive(Clone)]
struct Patient {
    spine: Spine,
    until: Instant,
}

impl Serve for Patient {
    type Body = ResponseBody;

    async fn serve<I: Interim>(&self, request: Request, interim: &mut I) -> Response<ResponseBody> {
        if !matches!(request.body, RequestBody::Empty) {
            return self.spine.serve(request, interim).await;
        }
        loop {
            let Request { head, client, started, .. } = &request;
            let (head, client) = (head.clone(), client.clone());
            let request = Request { head, body: RequestBody::Empty, client, started: *started };
            let response = self.spine.serve(request, interim).await;
            if response.head.status != StatusCode::SERVICE_UNAVAILABLE || clock::now() >= self.until {
                return response;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Files of one folder, without tunnels.
#[derive(Clone)]
pub struct Direct(Arc<Files>);

impl Direct {
    fn new(folder: &Path) -> io::Result<Self> {
        Files::new(folder).map(|files| Self(Arc::new(files)))
    }
}

fn cut(_: BodyError) -> Fault {
    Fault::new(Stage::Upstream, Side::Upstream, Kind::ResponseIncomplete)
}

impl Serve for Direct {
    type Body = MapErr<AnyBody, fn(BodyError) -> Fault>;

    async fn serve<I: Interim>(&self, request: Request, _: &mut I) -> Response<Self::Body> {
        let mut asked = http::Request::new(());
        (*asked.method_mut(), *asked.uri_mut()) = (request.head.method, request.head.path.into());
        let found = self.0.answer(&asked).await.unwrap_or_else(|| {
            let mut nothing = http::Response::new(empty());
            *nothing.status_mut() = StatusCode::NOT_FOUND;
            nothing
        });
        let (head, body) = found.into_parts();
        let head = ResponseHead { status: head.status, headers: head.headers };
        Response { head, body: body.map_err(cut as fn(BodyError) -> Fault) }
    }
}
