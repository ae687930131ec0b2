//! Stage 1, switched connections: WebSocket over HTTP/1.1 (101) and extended CONNECT over HTTP/2 become two byte streams,
//! the request's body and the response's. Each direction ends by itself; what breaks is cut, never ended cleanly.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::stream::Phase;
use crate::fault::{Fault, Stage};

/// What one read may bring.
const READ_LEN: usize = 16 << 10;

enum Piece {
    Data(Bytes),
    End,
}

/// The bytes from the client after the switch, as a request body. Ends cleanly only if the client ended it so.
pub(super) struct SwitchedBody {
    pieces: mpsc::Receiver<Piece>,
    ended: bool,
}

/// The end that [`pump`] feeds.
pub(super) struct Feed(mpsc::Sender<Piece>);

/// A body that waits for the switch. It is cut if the [`Feed`] is dropped, as when the spine refuses the switch.
pub(super) fn body() -> (Feed, SwitchedBody) {
    let (feed, pieces) = mpsc::channel(1);
    (Feed(feed), SwitchedBody { pieces, ended: false })
}

impl Body for SwitchedBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.pieces.poll_recv(cx));
        if let Some(Piece::Data(data)) = piece {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        self.ended = true;
        Poll::Ready(match piece {
            Some(_) => None,
            None => Some(Err(Fault::client_gone(Stage::Listener))),
        })
    }
}

/// One direction broke: both are cut.
struct Broken;

impl Broken {
    /// Cuts before the caller lets go of the stream, whose sending half would otherwise end cleanly.
    fn cut(phase: Option<&Phase>) -> Self {
        if let Some(phase) = phase {
            phase.cut();
        }
        Self
    }
}

/// A switch that hyper will make once the answer is written.
pub(super) struct Pump<B> {
    pub(super) upgrade: OnUpgrade,
    pub(super) feed: Feed,
    pub(super) body: B,
    /// The stream's phase; none on HTTP/1.1, where dropping the connection without close_notify is the cut.
    pub(super) phase: Option<Phase>,
    pub(super) switch_timeout: Duration,
    pub(super) write_timeout: Duration,
}

impl<B: Body<Data = Bytes, Error = Fault> + Unpin> Pump<B> {
    /// Waits for the switch and copies both directions until both have ended or one breaks.
    pub(super) async fn run(self) {
        let Ok(Ok(upgraded)) = timeout(self.switch_timeout, self.upgrade).await else { return };
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        let ended = AtomicBool::new(false);
        let phase = self.phase.as_ref();
        let _both = tokio::try_join!(
            from_client(read, self.feed, phase, &ended),
            to_client(write, self.body, phase, self.write_timeout, &ended),
        );
    }
}

async fn from_client(
    mut read: ReadHalf<TokioIo<Upgraded>>,
    Feed(feed): Feed,
    phase: Option<&Phase>,
    write_ended: &AtomicBool,
) -> Result<(), Broken> {
    let mut buffer = BytesMut::new();
    loop {
        // A spine that wants no more input leaves the other direction alone.
        let Ok(place) = feed.reserve().await else { return Ok(()) };
        buffer.reserve(READ_LEN);
        match read.read_buf(&mut buffer).await {
            Ok(0) if was_reset(phase, write_ended).await => return Err(Broken::cut(phase)),
            Ok(0) => {
                place.send(Piece::End);
                return Ok(());
            }
            Ok(_) => place.send(Piece::Data(buffer.split().freeze())),
            Err(_) => return Err(Broken::cut(phase)),
        }
    }
}

/// hyper reads RST_STREAM(CANCEL) as a clean end. The sending half ends with it, which tells it from a real end once that
/// half's task, woken together with us, has run.
async fn was_reset(phase: Option<&Phase>, write_ended: &AtomicBool) -> bool {
    let Some(phase) = phase else { return false };
    tokio::task::yield_now().await;
    phase.send_ended() && !write_ended.load(Ordering::Relaxed)
}

async fn to_client<B: Body<Data = Bytes, Error = Fault> + Unpin>(
    mut write: WriteHalf<TokioIo<Upgraded>>,
    mut body: B,
    phase: Option<&Phase>,
    write_timeout: Duration,
    ended: &AtomicBool,
) -> Result<(), Broken> {
    // hyper lets go of a stream whose socket has not taken all of the 101.
    let flushed = timeout(write_timeout, write.flush()).await.map_err(|_| Broken::cut(phase))?;
    flushed.map_err(|_| Broken::cut(phase))?;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Broken::cut(phase))?.into_data() else { continue };
        let written = timeout(write_timeout, async {
            write.write_all(&data).await?;
            write.flush().await
        });
        written.await.map_err(|_| Broken::cut(phase))?.map_err(|_| Broken::cut(phase))?;
    }
    ended.store(true, Ordering::Relaxed);
    let shut = timeout(write_timeout, write.shutdown()).await.map_err(|_| Broken::cut(phase))?;
    shut.map_err(|_| Broken::cut(phase))
}
