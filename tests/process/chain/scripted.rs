//! An upstream that sends bytes as they are written down, right or wrong.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A path and what is sent for it.
pub type Script = (&'static str, &'static str);

/// In a script: what follows waits for [`Scripted::go_on`].
pub const PAUSE: &str = "<pause>";

/// Runs as long as it is held.
pub struct Scripted {
    addr: SocketAddr,
    paused: Arc<Semaphore>,
    _tasks: JoinSet<()>,
}

/// What is sent for paths that no script has, such as the probe's.
const OTHER: &str = "HTTP/1.1 204 No Content\r\n\r\n";

impl Scripted {
    /// Answers each request with the bytes that belong to its path, then ends the connection.
    pub async fn start(scripts: &[Script]) -> Self {
        Self::with(scripts, false).await
    }

    /// The same, but connections stay open for more requests.
    pub async fn keeping(scripts: &[Script]) -> Self {
        Self::with(scripts, true).await
    }

    async fn with(scripts: &[Script], keep: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("address");
        let scripts = scripts.to_vec();
        let paused = Arc::new(Semaphore::new(0));
        let waiting = paused.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(play(stream, scripts.clone(), keep, waiting.clone()));
            }
        });
        Self { addr, paused, _tasks: tasks }
    }

    /// Lets one paused script go on.
    pub fn go_on(&self) {
        self.paused.add_permits(1);
    }

    /// `http://…`
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

async fn play(mut stream: TcpStream, scripts: Vec<Script>, keep: bool, waiting: Arc<Semaphore>) {
    while let Some(head) = read_head(&mut stream).await {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let script = scripts.iter().find(|(known, _)| *known == path).map_or(OTHER, |(_, bytes)| bytes);
        for (nth, part) in script.split(PAUSE).enumerate() {
            if nth > 0 {
                waiting.acquire().await.expect("never closed").forget();
            }
            // A peer that is gone is seen when the next head is read.
            let _ = stream.write_all(part.as_bytes()).await;
        }
        if !keep {
            break;
        }
    }
    // An orderly end, not a reset that could overtake the bytes.
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// A request head up to its empty line; none at the end of the connection.
pub async fn read_head(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}
