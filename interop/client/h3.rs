//! HTTP/3: every file at once on one connection, with a client that is not ours.

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, TryStreamExt, stream};
use h3::client::SendRequest;
use h3_quinn::OpenStreams;
use http::header::CONTENT_LENGTH;
use http::{Request, StatusCode, Uri};
use quinn::{Connection, VarInt};

use crate::Failure;
use crate::download::Downloads;

/// Requests at once.
const REQUESTS_MAX: usize = 100;
/// H3_NO_ERROR.
const NO_ERROR: VarInt = VarInt::from_u32(0x100);

/// Downloads every file.
pub async fn get_all(connection: &Connection, urls: &[Uri], downloads: &Downloads) -> Result<(), Failure> {
    let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(connection.clone())).await?;
    let each = stream::iter(urls).map(|url| get(requests.clone(), url, downloads));
    let all = each.buffer_unordered(REQUESTS_MAX).try_collect::<()>();
    tokio::select! {
        all = all => all?,
        error = std::future::poll_fn(|cx| driver.poll_close(cx)) => return Err(error.into()),
    }
    connection.close(NO_ERROR, b"");
    Ok(())
}

async fn get(mut requests: SendRequest<OpenStreams, Bytes>, url: &Uri, downloads: &Downloads) -> Result<(), Failure> {
    let mut stream = requests.send_request(Request::get(url).body(())?).await?;
    stream.finish().await?;
    let response = stream.recv_response().await?;
    if response.status() != StatusCode::OK {
        return Err(format!("{url}: {}", response.status()).into());
    }
    let mut download = downloads.begin(url)?;
    let mut length = 0;
    while let Some(mut data) = stream.recv_data().await? {
        while data.has_remaining() {
            let piece = data.chunk();
            download.write(piece)?;
            length += piece.len();
            let count = piece.len();
            data.advance(count);
        }
    }
    // The library takes a stream that ends within a frame for a whole one.
    let declared = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|declared| declared != length) {
        return Err(format!("{url}: {length} bytes of {declared:?}").into());
    }
    download.finish();
    Ok(())
}
