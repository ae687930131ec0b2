//! Server-sent events arrive when they are sent.

use std::time::{Duration, SystemTime};

use crate::chain::Chain;
use crate::client::{ALL, Client};

/// For the median event: far below the interval, far above what a chain on loopback takes.
const DELAY_MAX: Duration = Duration::from_millis(40);

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("before the year 500 million")
}

#[tokio::test]
async fn events_are_not_held_back() {
    let chain = Chain::start().await;
    for protocol in ALL {
        let mut client = Client::connect(&chain, protocol).await;
        let request = client.request("GET", "/sse?interval=100&count=21");
        let response = client.stream(request).await.expect("head");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut body = response.into_body();
        let mut delays = Vec::new();
        while let Some(frame) = body.frame().await {
            let event = frame.expect("no error").into_data().expect("data");
            if event.is_empty() {
                // HTTP/2 ends a stream with an empty DATA frame when the end comes after the last event.
                continue;
            }
            let event = std::str::from_utf8(&event).expect("text");
            // One event a piece: two in one would mean that the first had waited.
            assert_eq!(event.matches("\n\n").count(), 1, "{protocol:?}: {event:?}");
            let sent = event.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
            delays.push(now().saturating_sub(sent.parse().expect("milliseconds")));
        }
        assert_eq!(delays.len(), 21, "{protocol:?}");
        delays.sort_unstable();
        println!("{protocol:?}: median {} ms, most {} ms", delays[10], delays[20]);
        assert!(delays[10] <= u64::try_from(DELAY_MAX.as_millis()).expect("short"), "{protocol:?}: {delays:?}");
    }
}
