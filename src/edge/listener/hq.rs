//! Stage 1: HTTP/0.9 on QUIC (`hq-interop`), which quic-interop-runner asks with. Only with the feature `interop`.
//!
//! A stream is `GET /path\r\n` and the bytes of the answer. There are no heads and so no statuses: whatever is not a 200 is
//! a reset. Owns the tasks of one connection's streams; behind it the request is like any other.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use quinn::{ReadError, VarInt};

use super::{Client, NoInterim, Request, RequestBody, Serve, head};
use crate::clock;
use crate::config::Limits;
use crate::quic::{Connection, RecvStream, SendStream};
use crate::task::Tasks;
use crate::tunnel::message::RequestHead;

/// The protocol's ALPN.
pub const ALPN: &[u8] = b"hq-interop";
/// Longest request line, bytes.
const LINE_MAX: usize = 8 << 10;
/// There is no answer, or not all of it. The protocol has no codes.
const ABORTED: VarInt = VarInt::from_u32(1);

/// Nothing, or only a part, of an answer can be given.
struct Aborted;

/// Runs one connection until it is closed or, after a drain has begun, its last request is answered.
pub async fn connection<S: Serve>(quinn: Connection, client: Arc<Client>, serve: S, limits: Arc<Limits>, tasks: Tasks) {
    let requests = tasks.child();
    loop {
        tokio::select! {
            accepted = quinn.accept_bi() => match accepted {
                Ok((send, receive)) => {
                    let (client, serve, limits) = (client.clone(), serve.clone(), limits.clone());
                    requests.spawn(run(send, receive, client, serve, limits));
                }
                Err(_) => break,
            },
            () = tasks.draining() => break,
        }
    }
    requests.wait().await;
    quinn.close(VarInt::from_u32(0), b"");
}

/// Answers the request on one stream and waits until the client has the answer.
async fn run<S: Serve>(
    mut send: SendStream,
    mut receive: RecvStream,
    client: Arc<Client>,
    serve: S,
    limits: Arc<Limits>,
) {
    let mut stopped = pin!(send.stopped());
    let outcome = tokio::select! {
        outcome = answer(&mut send, &mut receive, client, serve, &limits) => outcome,
        _ = &mut stopped => Err(Aborted),
    };
    match outcome {
        Ok(()) => {
            // An error here means that the stream is gone already.
            let _ = send.finish();
            let _ = tokio::time::timeout(limits.idle_timeout, stopped).await;
        }
        Err(Aborted) => {
            let _ = send.reset(ABORTED);
        }
    }
}

async fn answer<S: Serve>(
    send: &mut SendStream,
    receive: &mut RecvStream,
    client: Arc<Client>,
    serve: S,
    limits: &Limits,
) -> Result<(), Aborted> {
    let started = clock::now();
    let line = tokio::time::timeout(limits.header_timeout, read_line(receive)).await.map_err(|_| Aborted)??;
    let mut head = request_head(&line, &client).ok_or(Aborted)?;
    if receive.is_0rtt() {
        head::mark_early(&mut head.headers);
    }
    let request = Request { head, body: RequestBody::Empty, client, started };
    let response = serve.serve(request, &mut NoInterim).await;
    if response.head.status != StatusCode::OK {
        return Err(Aborted);
    }
    let mut body = response.body;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Aborted)?.into_data() else { continue };
        let written = tokio::time::timeout(limits.body_timeout, send.write_chunk(data)).await;
        written.map_err(|_| Aborted)?.map_err(|_| Aborted)?;
    }
    Ok(())
}

/// Reads up to the end of the line, or of the stream.
async fn read_line(receive: &mut RecvStream) -> Result<Vec<u8>, Aborted> {
    let mut line = Vec::with_capacity(64);
    while !line.contains(&b'\n') && line.len() <= LINE_MAX {
        match receive.read_chunk(LINE_MAX, true).await {
            Ok(Some(chunk)) => line.extend_from_slice(&chunk.bytes),
            Ok(None) => break,
            Err(ReadError::Reset(_) | _) => return Err(Aborted),
        }
    }
    if line.len() > LINE_MAX { Err(Aborted) } else { Ok(line) }
}

/// `GET`, one space, a path, and at most the line's end. The authority is the name that TLS was asked for.
fn request_head(line: &[u8], client: &Client) -> Option<RequestHead> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let path = line.strip_prefix(b"GET ")?;
    Some(RequestHead {
        method: Method::GET,
        authority: Authority::try_from(client.sni.as_deref().unwrap_or("localhost")).ok()?,
        path: head::parse_path(Bytes::copy_from_slice(path), &Method::GET).ok()?,
        protocol: None,
        headers: HeaderMap::new(),
    })
}
