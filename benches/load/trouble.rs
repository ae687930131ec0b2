//! What goes wrong beside healthy requests: a client that stalls, an upstream that does not answer.
//!
//! Started by a shape, on a connection of its own; owns nothing that is measured.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::client::Connection;
use super::plan::{Ask, Trouble};

/// Large answers that the stalled client asks for, each larger than any window.
const STALLED: (usize, Ask) = (16, Ask::Download(100_000_000));
/// Requests that are never answered.
const DEAD: (usize, Ask) = (64, Ask::Never);

/// Begins it: tasks of `work` ask and then hold what they have got, unread.
pub fn begin(trouble: Trouble, connection: Connection, work: &mut JoinSet<()>) {
    let (count, ask) = match trouble {
        Trouble::None => return,
        Trouble::StalledClient => STALLED,
        Trouble::DeadUpstream => DEAD,
    };
    let connection = Arc::new(connection);
    for _ in 0..count {
        let connection = connection.clone();
        work.spawn(async move {
            // A failure, such as that it took too long, is no news to those beside it.
            let _held = connection.ask(ask).await;
            std::future::pending().await
        });
    }
}
