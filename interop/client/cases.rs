//! What each case does: how many connections, with what, and what happens on them.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use http::Uri;
use quinn::Connection;

use crate::Failure;
use crate::contract::{Contract, folder};
use crate::dial::{Dialler, close};
use crate::download::Downloads;
use crate::{h3, hq};

/// Connections at once in `multiconnect`: under heavy loss one after the other takes minutes, and all at once overflow the
/// queue of a link that holds 25 packets.
const CONNECTIONS_MAX: usize = 8;
/// Requests at once on a connection. All that 0-RTT needs, and no more open files than processes may have.
const REQUESTS_MAX: usize = 500;
/// From the end of a handshake until it is confirmed, and between looks whether it is.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(5);
/// In `connectionmigration` the client's case is `transfer`; the server's name, which has addresses of both families, tells.
const MIGRATING_HOST: &str = "server46";

/// Downloads `urls`.
pub async fn run(contract: &Contract, urls: &[Uri]) -> Result<(), Failure> {
    let downloads = Downloads::new(&folder("DOWNLOADS", "/downloads"));
    let Some((first, rest)) = urls.split_first() else { return Ok(()) };
    let dialler = Dialler::new(contract, first).await?;
    match contract.case.as_str() {
        "http3" => {
            let connection = dialler.connect().await?;
            if first.host() == Some(MIGRATING_HOST) {
                confirmed(&connection).await?;
                dialler.migrate();
            }
            h3::get_all(&connection, urls, &downloads).await?;
        }
        "multiconnect" => {
            let each = stream::iter(urls).map(|url| one(&dialler, url, &downloads));
            each.buffer_unordered(CONNECTIONS_MAX).try_collect::<()>().await?;
        }
        "resumption" => {
            first_visit(&dialler, first, &downloads).await?;
            let connection = dialler.connect().await?;
            if dialler.full_handshakes() != 1 {
                return Err("the second connection was not resumed".into());
            }
            get_all(&connection, rest, &downloads).await?;
        }
        "zerortt" => {
            first_visit(&dialler, first, &downloads).await?;
            let (connection, accepted) = dialler.connect_early().await?;
            get_all(&connection, rest, &downloads).await?;
            if !accepted.await {
                return Err("0-RTT was rejected".into());
            }
        }
        "keyupdate" => {
            let connection = dialler.connect().await?;
            hq::get_and(&connection, first, &downloads, update_keys).await?;
            get_all(&connection, rest, &downloads).await?;
        }
        "transfer" if first.host() == Some(MIGRATING_HOST) => {
            let connection = dialler.connect().await?;
            let moved = |connection: &Connection| is_confirmed(connection) && dialler.migrate();
            hq::get_and(&connection, first, &downloads, moved).await?;
            get_all(&connection, rest, &downloads).await?;
        }
        _ => get_all(&dialler.connect().await?, urls, &downloads).await?,
    }
    dialler.end().await;
    Ok(())
}

/// Every file at once on one connection.
async fn get_all(connection: &Connection, urls: &[Uri], downloads: &Downloads) -> Result<(), Failure> {
    let each = stream::iter(urls).map(|url| hq::get(connection, url, downloads));
    each.buffer_unordered(REQUESTS_MAX).try_collect().await
}

/// One file on a connection of its own.
async fn one(dialler: &Dialler, url: &Uri, downloads: &Downloads) -> Result<(), Failure> {
    let connection = dialler.connect().await?;
    hq::get(&connection, url, downloads).await?;
    close(&connection);
    Ok(())
}

/// A connection that leaves a ticket behind.
async fn first_visit(dialler: &Dialler, url: &Uri, downloads: &Downloads) -> Result<(), Failure> {
    let connection = dialler.connect().await?;
    hq::get(&connection, url, downloads).await?;
    dialler.ticket().await?;
    close(&connection);
    Ok(())
}

/// Keys may be updated once the handshake is confirmed (RFC 9001 section 6.1). True when it is done.
fn update_keys(connection: &Connection) -> bool {
    let confirmed = is_confirmed(connection);
    if confirmed {
        connection.force_key_update();
    }
    confirmed
}

/// Waits for that.
async fn confirmed(connection: &Connection) -> Result<(), Failure> {
    let wait = async {
        while !is_confirmed(connection) {
            tokio::time::sleep(TICK).await;
        }
    };
    Ok(tokio::time::timeout(CONFIRM_TIMEOUT, wait).await.map_err(|_| "the handshake is not confirmed")?)
}

/// Whether the server said HANDSHAKE_DONE.
fn is_confirmed(connection: &Connection) -> bool {
    connection.stats().frame_rx.handshake_done > 0
}
