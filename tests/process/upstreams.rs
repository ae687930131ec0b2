//! Kinds of upstreams: https with HTTP/2 and HTTP/1.1, and unix sockets.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use trunkline::dev::upstream::Sha256;

use crate::chain::{Chain, Setup};
use crate::client::{ALL, Client};

/// A second way to the built-in upstream.
struct Front {
    url: String,
    _tasks: JoinSet<()>,
}

/// TLS with the site's certificate in front of the built-in upstream, which tells HTTP/2 by its preface.
async fn https(chain: &Chain, alpn: &[&str]) -> Front {
    let chain_of = CertificateDer::pem_file_iter(chain.folder().join("site.pem")).expect("site.pem");
    let key = PrivateKeyDer::from_pem_file(chain.folder().join("site.key")).expect("site.key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_no_client_auth();
    let chain_of = chain_of.collect::<Result<_, _>>().expect("certificates");
    let mut config = builder.with_single_cert(chain_of, key).expect("a pair");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let (acceptor, inner) = (TlsAcceptor::from(Arc::new(config)), chain.upstream.addr());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("https://localhost:{}", listener.local_addr().expect("address").port());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    forward(stream, inner).await;
                }
            });
        }
    });
    Front { url, _tasks: tasks }
}

/// A unix socket in front of the built-in upstream.
fn unix(chain: &Chain) -> Front {
    let (path, inner) = (chain.folder().join("upstream.sock"), chain.upstream.addr());
    let listener = UnixListener::bind(&path).expect("bind");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(forward(stream, inner));
        }
    });
    Front { url: format!("unix:{}", path.display()), _tasks: tasks }
}

async fn forward(mut stream: impl AsyncRead + AsyncWrite + Unpin, inner: std::net::SocketAddr) {
    if let Ok(mut upstream) = TcpStream::connect(inner).await {
        let _ = copy_bidirectional(&mut stream, &mut upstream).await;
    }
}

/// A chain without an origin yet.
async fn edge_only() -> Chain {
    Chain::with(Setup { origin: false, ..Setup::default() }).await
}

async fn start_origin(chain: &mut Chain, url: &str, origin_tables: &'static str) {
    chain.start_origin(&Setup { upstreams: vec![url.to_owned()], origin_tables, ..Setup::default() }).await;
    chain.until_served(0).await;
}

/// Everything that the transport could break, over each protocol.
async fn serves(chain: &Chain, version: &str, scheme_host: &str) {
    for protocol in ALL {
        let mut client = Client::connect(chain, protocol).await;
        let request = client.request("POST", "/echo");
        let echo = client.send(request, "a body").await.expect("answer").json();
        assert_eq!(
            (&echo["version"], &echo["body"]),
            (&version.into(), &"a body".into()),
            "{protocol:?} {scheme_host}"
        );
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let mut sum = Sha256::new();
        sum.update(&sent);
        let request = client.request("PUT", "/hash");
        let hash = client.send(request, sent).await.expect("answer").json();
        assert_eq!(hash["sha256"], sum.finish(), "{protocol:?} {scheme_host}");
        let request = client.request("GET", "/abort?after=5000&length=9000");
        let cut = match client.stream(request).await {
            Ok(response) => crate::client::collect(response).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(cut.is_err(), "{protocol:?} {scheme_host}: a cut body");
    }
}

#[tokio::test]
async fn an_https_upstream_serves_over_http2_where_it_can() {
    let mut chain = edge_only().await;
    let front = https(&chain, &["h2", "http/1.1"]).await;
    start_origin(&mut chain, &front.url, "ca = \"site-ca.pem\"\n").await;
    serves(&chain, "HTTP/2.0", "https").await;
}

#[tokio::test]
async fn an_https_upstream_serves_over_http1_where_it_must() {
    let mut chain = edge_only().await;
    let front = https(&chain, &["http/1.1"]).await;
    start_origin(&mut chain, &front.url, "ca = \"site-ca.pem\"\n").await;
    serves(&chain, "HTTP/1.1", "https").await;
}

#[tokio::test]
async fn a_unix_socket_upstream_serves() {
    let mut chain = edge_only().await;
    let front = unix(&chain);
    start_origin(&mut chain, &front.url, "").await;
    serves(&chain, "HTTP/1.1", "unix").await;
}

#[tokio::test]
async fn an_upstream_certificate_that_is_not_good_is_502_and_nothing_is_sent() {
    for (tables, reason) in [
        // The tunnel's CA did not sign it.
        ("ca = \"tunnel-ca.pem\"\n", "tls_certificate_error"),
        ("ca = \"site-ca.pem\"\ntls_name = \"elsewhere.example\"\n", "tls_certificate_error"),
    ] {
        let mut chain = edge_only().await;
        let front = https(&chain, &["http/1.1"]).await;
        start_origin(&mut chain, &front.url, tables).await;
        for protocol in ALL {
            let answer = Client::connect(&chain, protocol).await.get("/echo").await;
            assert_eq!(answer.status, 502, "{protocol:?} {tables}");
            assert_eq!(answer.field("proxy-status"), format!("\"pop-a\"; error={reason}"), "{protocol:?} {tables}");
        }
        assert!(chain.upstream.log("/echo").await.is_empty(), "{tables}");
    }
}

#[tokio::test]
async fn an_https_upstream_that_speaks_no_tls_is_502() {
    let mut chain = edge_only().await;
    let url = chain.upstream.url().replace("http://", "https://");
    start_origin(&mut chain, &url, "ca = \"site-ca.pem\"\n").await;
    let answer = Client::connect(&chain, ALL[2]).await.get("/echo").await;
    assert_eq!((answer.status, answer.field("proxy-status").as_str()), (502, "\"pop-a\"; error=tls_protocol_error"));
}

#[tokio::test]
async fn a_unix_socket_that_is_not_there_is_502() {
    let mut chain = edge_only().await;
    let url = format!("unix:{}", chain.folder().join("nobody.sock").display());
    start_origin(&mut chain, &url, "").await;
    let answer = Client::connect(&chain, ALL[0]).await.get("/echo").await;
    assert_eq!((answer.status, answer.field("proxy-status").as_str()), (502, "\"pop-a\"; error=connection_refused"));
}
