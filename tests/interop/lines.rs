//! Request lines that `interop-client` would not send.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, ReadError, ReadToEndError};

const DEADLINE: Duration = Duration::from_secs(60);

/// Sends each line on a stream of one connection. Answers what came, or the code of the reset.
pub fn ask(folder: &Path, port: u16, lines: &[&str]) -> Vec<Result<Vec<u8>, u64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let asked = async {
            let connection = connect(folder, port).await;
            let mut answers = Vec::new();
            for line in lines {
                answers.push(answer(&connection, line).await);
            }
            answers
        };
        tokio::time::timeout(DEADLINE, asked).await.expect("answers in time")
    })
}

async fn connect(folder: &Path, port: u16) -> Connection {
    let roots = trunkline::tls::load_roots(&folder.join("certs/ca.pem")).expect("a CA");
    let mut tls = rustls::ClientConfig::builder_with_provider(trunkline::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"hq-interop".to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("a suite")));
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
    let connecting = endpoint.connect_with(config, ([127, 0, 0, 1], port).into(), "localhost");
    connecting.expect("a name").await.expect("connected")
}

async fn answer(connection: &Connection, line: &str) -> Result<Vec<u8>, u64> {
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    // The server may have had enough before it has all.
    if send.write_all(line.as_bytes()).await.is_ok() {
        let _ = send.finish();
    }
    match receive.read_to_end(1 << 20).await {
        Ok(bytes) => Ok(bytes),
        Err(ReadToEndError::Read(ReadError::Reset(code))) => Err(code.into_inner()),
        Err(error) => panic!("{line:?}: {error}"),
    }
}
