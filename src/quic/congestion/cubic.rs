//! The window of CUBIC (RFC 9438), in bytes. Sans-IO; called by [`super`] for each acknowledgement and loss.

use std::time::{Duration, Instant};

/// What is left of a window after a loss (RFC 9438 section 4.6).
const BETA: f64 = 0.7;
/// Packets per second cubed (section 5.1).
const C: f64 = 0.4;
/// Packets that the window of a flow like Reno's grows by in a round trip, so that both get the same (section 4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// The window of one connection.
#[derive(Clone, Debug)]
pub(super) struct Cubic {
    window: f64,
    /// Below it the window doubles each round trip.
    threshold: f64,
    /// The window at the last loss.
    summit: f64,
    /// What is acknowledged and was sent before says nothing of the window now.
    recovering_from: Option<Instant>,
    /// Since when it grows, if it does.
    epoch: Option<Epoch>,
}

/// One growth from a loss to the next one.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    began: Instant,
    /// Seconds until the summit is reached again.
    climb: f64,
    /// The window of a flow like Reno's.
    reno: f64,
}

impl Cubic {
    pub(super) fn new(initial: f64) -> Self {
        Self { window: initial, threshold: f64::INFINITY, summit: 0.0, recovering_from: None, epoch: None }
    }

    pub(super) fn window(&self) -> f64 {
        self.window
    }

    /// `smoothed`: round-trip time, `mtu`: bytes of a packet.
    pub(super) fn handle_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        smoothed: Duration,
        mtu: f64,
    ) {
        if app_limited {
            // Time in which the window was not used is none in which it may grow (section 5.8).
            self.epoch = None;
            return;
        }
        if self.recovering_from.is_some_and(|from| sent <= from) {
            return;
        }
        let bytes = bytes as f64;
        if self.window < self.threshold {
            self.window += bytes;
            return;
        }
        let mut epoch = self.epoch.unwrap_or_else(|| self.begin(now, mtu));
        let ahead = (now.saturating_duration_since(epoch.began) + smoothed).as_secs_f64() - epoch.climb;
        let target = (self.summit + C * ahead.powi(3) * mtu).clamp(self.window, 1.5 * self.window);
        let alpha = if epoch.reno < self.summit { ALPHA } else { 1.0 };
        epoch.reno += alpha * mtu * bytes / self.window;
        self.epoch = Some(epoch);
        self.window = (self.window + (target - self.window) * bytes / self.window).max(epoch.reno);
    }

    fn begin(&mut self, now: Instant, mtu: f64) -> Epoch {
        self.summit = self.summit.max(self.window);
        let climb = ((self.summit - self.window) / mtu / C).cbrt();
        Epoch { began: now, climb, reno: self.window }
    }

    /// A packet sent at `sent` was lost. What was sent before the last loss was noticed counts as one loss.
    pub(super) fn handle_loss(&mut self, now: Instant, sent: Instant, minimum: f64) {
        if self.recovering_from.is_some_and(|from| sent <= from) {
            return;
        }
        self.recovering_from = Some(now);
        // Fast convergence (section 4.7): who shrinks makes room for others.
        let shrinks = self.window < self.summit;
        self.summit = if shrinks { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        self.window = (self.window * BETA).max(minimum);
        self.threshold = self.window;
        self.epoch = None;
    }

    /// Persistent congestion (RFC 9002 section 7.6.2): begins again.
    pub(super) fn collapse(&mut self, minimum: f64) {
        self.window = minimum;
        self.recovering_from = None;
        self.epoch = None;
    }

    /// The path is full.
    pub(super) fn end_slow_start(&mut self) {
        self.threshold = self.threshold.min(self.window);
    }
}
