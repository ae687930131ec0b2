//! HTTP/1.1 by hand.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::chain::{Chain, in_time};
use crate::client::tls;

/// Sends `bytes` on a new connection and gives the status of each response until the server closes it. The write side
/// stays open, so that the server alone decides.
pub async fn http1(chain: &Chain, bytes: &[u8]) -> Vec<u16> {
    let mut stream = tls::connect(&chain.site_ca(), chain.http2(0), b"http/1.1").await.expect("connect");
    // A server that refuses early may close before everything is written.
    let _ = stream.write_all(bytes).await;
    let mut read = Vec::new();
    // Closing without close_notify is an error to TLS and no matter here.
    let _ = in_time("the end of a refused connection", stream.read_to_end(&mut read)).await;
    let text = String::from_utf8_lossy(&read);
    let heads = text.split("HTTP/1.1 ").skip(1);
    heads.map(|head| head.get(..3).and_then(|status| status.parse().ok()).expect("a status line")).collect()
}
