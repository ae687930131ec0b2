//! From signals to the process's two ends: the first SIGTERM or SIGINT drains, the second forces, and so does the drain's
//! deadline. Called by both binaries when everything runs; owns the process's signal handlers.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::clock;
use crate::observe::event::{Event, What};
use crate::task::Shutdown;

/// How long force may take before the process ends without its tasks.
const FORCE_TIMEOUT: Duration = Duration::from_secs(2);

/// How a process ended; the binaries make their exit code of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything in flight finished.
    Drained,
    /// The drain's deadline passed; what was left was cut.
    Deadline,
    /// A second signal came; what was left was cut.
    Forced,
}

impl Ended {
    /// The event that tells of the end of `process`, whose drain began at `begun`.
    pub fn event(self, process: &str, begun: Instant) -> Event<'_> {
        let why = match self {
            Self::Drained => "everything finished",
            Self::Deadline => "the drain's time is over",
            Self::Forced => "asked to end at once",
        };
        let took = clock::now().saturating_duration_since(begun);
        Event { from: process, took, why, ..Event::new(What::Drained) }
    }
}

/// What the process is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    End,
    Reload,
}

/// The process's signals, caught from now on. Make it before the ready line: what starts the process may end it at once.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Installs the handlers. Must be called within a runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Runs until the process is to end. `drained` resolves when nothing is in flight any more after drain or force began.
    /// A drain begun elsewhere (admin listener) has the same deadline.
    pub async fn supervise(
        mut self,
        shutdown: &Shutdown,
        timeout: Duration,
        drained: impl Future<Output = ()>,
    ) -> Ended {
        supervise(&mut self, shutdown, timeout, drained).await
    }
}

/// Where asks come from: the system, or a test.
trait Asks {
    async fn next(&mut self) -> Ask;
}

impl Asks for Signals {
    async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.terminate.recv() => Ask::End,
            _ = self.interrupt.recv() => Ask::End,
            _ = self.hangup.recv() => Ask::Reload,
        }
    }
}

async fn supervise<A: Asks>(
    asks: &mut A,
    shutdown: &Shutdown,
    timeout: Duration,
    drained: impl Future<Output = ()>,
) -> Ended {
    tokio::select! {
        () = asked_to_end(asks) => {}
        () = shutdown.draining() => {}
    }
    tracing::info!(timeout_s = timeout.as_secs(), "draining");
    shutdown.start_drain();
    let mut drained = pin!(drained);
    let ended = tokio::select! {
        biased;
        () = &mut drained => return Ended::Drained,
        () = shutdown.forced() => Ended::Forced,
        () = asked_to_end(asks) => Ended::Forced,
        () = tokio::time::sleep(timeout) => Ended::Deadline,
    };
    tracing::warn!(?ended, "ending by force");
    shutdown.start_force();
    if tokio::time::timeout(FORCE_TIMEOUT, drained).await.is_err() {
        tracing::error!("tasks still run after force");
    }
    ended
}

/// Resolves when the end is asked for. A reload is none.
async fn asked_to_end(asks: &mut impl Asks) {
    while asks.next().await != Ask::End {
        tracing::warn!("SIGHUP ignored: configuration is read at the start only");
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    impl Asks for mpsc::Receiver<Ask> {
        async fn next(&mut self) -> Ask {
            match self.recv().await {
                Some(ask) => ask,
                None => pending().await,
            }
        }
    }

    async fn ended(asks: &[Ask], timeout: Duration, shutdown: &Shutdown, drained: impl Future<Output = ()>) -> Ended {
        let (send, mut receive) = mpsc::channel(8);
        for ask in asks {
            send.send(*ask).await.unwrap();
        }
        supervise(&mut receive, shutdown, timeout, drained).await
    }

    #[tokio::test]
    async fn one_signal_drains_without_force() {
        let shutdown = Shutdown::default();
        let drained = shutdown.draining();
        assert_eq!(ended(&[Ask::End], LONG, &shutdown, drained).await, Ended::Drained);
        assert!(shutdown.is_draining() && !shutdown.is_forced());
    }

    #[tokio::test]
    async fn a_second_signal_forces_at_once() {
        let shutdown = Shutdown::default();
        let drained = shutdown.forced();
        assert_eq!(ended(&[Ask::End, Ask::End], LONG, &shutdown, drained).await, Ended::Forced);
    }

    #[tokio::test]
    async fn the_deadline_forces() {
        let shutdown = Shutdown::default();
        let drained = shutdown.forced();
        assert_eq!(ended(&[Ask::End], Duration::from_millis(1), &shutdown, drained).await, Ended::Deadline);
        assert!(shutdown.is_forced());
    }

    #[tokio::test]
    async fn a_drain_begun_elsewhere_has_the_same_end() {
        let shutdown = Shutdown::default();
        shutdown.start_drain();
        assert_eq!(ended(&[], LONG, &shutdown, ready(())).await, Ended::Drained);
        assert_eq!(ended(&[], Duration::from_millis(1), &shutdown, shutdown.forced()).await, Ended::Deadline);
    }

    #[tokio::test]
    async fn a_hangup_neither_drains_nor_forces() {
        let shutdown = Shutdown::default();
        let drained = async {
            shutdown.draining().await;
            assert!(!shutdown.is_forced());
        };
        assert_eq!(ended(&[Ask::Reload, Ask::End, Ask::Reload], LONG, &shutdown, drained).await, Ended::Drained);
    }
}
