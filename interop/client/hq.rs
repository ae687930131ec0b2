//! HTTP/0.9 on QUIC: a stream for each file.

use http::Uri;
use quinn::Connection;

use crate::Failure;
use crate::download::Downloads;

/// Bytes read at once.
const PIECE: usize = 64 << 10;

/// Downloads one file.
pub async fn get(connection: &Connection, url: &Uri, downloads: &Downloads) -> Result<(), Failure> {
    get_and(connection, url, downloads, |_| true).await
}

/// Downloads one file, and calls `midway` after each piece until it says that it has done what it is for; an error if it
/// never does.
pub async fn get_and(
    connection: &Connection,
    url: &Uri,
    downloads: &Downloads,
    mut midway: impl FnMut(&Connection) -> bool,
) -> Result<(), Failure> {
    let failed = |what: &str| format!("{url}: {what}");
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(format!("GET {}\r\n", url.path()).as_bytes()).await?;
    send.finish()?;
    let mut download = None;
    let mut done = false;
    while let Some(piece) = receive.read_chunk(PIECE, true).await.map_err(|error| failed(&error.to_string()))? {
        if download.is_none() {
            download = Some(downloads.begin(url)?);
        }
        if let Some(download) = &mut download {
            download.write(&piece.bytes)?;
        }
        done = done || midway(connection);
    }
    // An empty file is a file.
    let download = download.map_or_else(|| downloads.begin(url), Ok)?;
    download.finish();
    if done || midway(connection) { Ok(()) } else { Err(failed("ended too early for this case").into()) }
}
