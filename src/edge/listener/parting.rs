//! Stage 1, when a client connection is told that this PoP drains: each at a moment of its own in the first part of the
//! drain, so that thousands of clients do not shake hands with the next PoP in one second. Called by the driver of each
//! connection of every protocol; decides the moment and nothing else.

use std::time::Duration;

use super::admission::Admission;
use crate::task::Tasks;

/// What a connection adds to the time over which all are told: about what its handshake and its first request cost a core
/// of the next PoP.
const PER_CONNECTION: Duration = Duration::from_millis(1);
/// The part of the drain's time that may pass before the last one is told.
const PART: u32 = 3;

/// See the module. The default tells all at once.
#[derive(Clone, Default)]
pub struct Parting {
    admission: Option<Admission>,
    window: Duration,
}

impl Parting {
    /// For the connections that `admission` let in, within the first part of `timeout`.
    pub fn new(admission: &Admission, timeout: Duration) -> Self {
        Self { admission: Some(admission.clone()), window: timeout / PART }
    }

    /// Resolves when one connection is to be told.
    pub async fn due(&self, tasks: &Tasks) {
        tasks.draining().await;
        let spread = self.spread(self.admission.as_ref().map_or(0, Admission::connections));
        if !spread.is_zero() {
            tokio::time::sleep(spread.mul_f64(fastrand::f64())).await;
        }
    }

    /// The time over which so many connections are told.
    fn spread(&self, connections: usize) -> Duration {
        let connections = u32::try_from(connections).unwrap_or(u32::MAX);
        PER_CONNECTION.saturating_mul(connections).min(self.window)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use futures_util::stream::FuturesUnordered;

    use super::*;
    use crate::clock;
    use crate::edge::listener::admission::tests::crowded;
    use crate::task::Shutdown;

    #[test]
    fn few_clients_are_told_at_once_and_many_over_a_third_of_the_drain() {
        let parting = Parting { admission: None, window: Duration::from_secs(30) / PART };
        assert_eq!(parting.spread(1), Duration::from_millis(1));
        assert_eq!(parting.spread(5_000), Duration::from_secs(5));
        assert_eq!(parting.spread(1_000_000), Duration::from_secs(10));
        assert_eq!(Parting::default().spread(5_000), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_told_before_the_drain_and_then_not_all_together() {
        let (admission, _connections) = crowded(1_000);
        let parting = Parting::new(&admission, Duration::from_secs(30));
        let tasks = Tasks::new(Shutdown::default());
        let mut told: FuturesUnordered<_> = (0..1_000).map(|_| parting.due(&tasks)).collect();
        assert!(tokio::time::timeout(Duration::from_secs(60), told.next()).await.is_err());
        tasks.shutdown().start_drain();
        let (begun, mut moments) = (clock::now(), Vec::new());
        while told.next().await.is_some() {
            moments.push(clock::now() - begun);
        }
        assert!(moments.iter().all(|moment| *moment <= Duration::from_millis(1_001)), "{moments:?}");
        let early = moments.iter().filter(|moment| **moment < Duration::from_millis(500)).count();
        assert!((300..700).contains(&early), "{early} of 1,000 in the first half");
    }
}
