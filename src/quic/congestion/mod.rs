//! Congestion control of every connection, to clients and between edge and origin: CUBIC (RFC 9438), and under it a floor
//! that losses without congestion do not break through.
//!
//! CUBIC takes every lost packet for a full queue. On a path that loses half a percent for other reasons it carries a tenth
//! of what the path could. So the path is measured too ([`path`]): how much it delivers, in which round-trip time, and
//! how much of what is sent is lost anyway. The window is the larger of CUBIC's and what the path was seen to carry. A loss
//! is congestion, and lowers both, when round trips have become longer, when more is lost than usual, or when the
//! network says so (ECN).
//!
//! Built by the transport settings of the edge's HTTP/3 listener and of links; called by quinn, once for each
//! acknowledgement and loss. Owns no clock: time is what quinn says.

mod cubic;
mod path;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use self::cubic::Cubic;
use self::path::Path;

/// Before anything is known of a path (RFC 9002 section 7.2), packets.
const INITIAL_PACKETS: u32 = 10;
/// Never less (RFC 9002 section 7.2), packets.
const MINIMUM_PACKETS: u32 = 2;

/// Makes the control of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Congestion;

impl ControllerFactory for Congestion {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Control::new(now, mtu))
    }
}

/// The control of one connection.
#[derive(Clone, Debug)]
struct Control {
    mtu: u16,
    cubic: Cubic,
    path: Path,
    smoothed: Duration,
    /// The window, as it was when something last changed it: quinn asks several times for each packet.
    window: u64,
    /// What quinn takes for the round-trip time before it was measured: it tells of losses in the first acknowledgement
    /// before it measures.
    assumed: Option<Duration>,
}

impl Control {
    fn new(now: Instant, mtu: u16) -> Self {
        let initial = f64::from(mtu) * f64::from(INITIAL_PACKETS);
        let (cubic, path) = (Cubic::new(initial), Path::new(now, initial));
        let mut control = Self { mtu, cubic, path, smoothed: Duration::ZERO, window: 0, assumed: None };
        control.window = control.bytes();
        control
    }

    fn minimum(&self) -> f64 {
        f64::from(self.mtu) * f64::from(MINIMUM_PACKETS)
    }

    fn handle_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, smoothed: Duration) {
        let measured = *self.assumed.get_or_insert(smoothed) != smoothed;
        self.smoothed = if measured { smoothed } else { now.saturating_duration_since(sent) };
        let starting = self.path.is_starting();
        self.path.handle_ack(now, sent, bytes, app_limited);
        if starting && !self.path.is_starting() {
            self.cubic.end_slow_start();
        }
        self.cubic.handle_ack(now, sent, bytes, app_limited, self.smoothed, f64::from(self.mtu));
    }

    fn handle_loss(&mut self, now: Instant, sent: Instant, persistent: bool, bytes: u64) {
        let minimum = self.minimum();
        if persistent {
            self.path.restart(now, minimum);
            self.cubic.handle_loss(now, sent, minimum);
            self.cubic.collapse(minimum);
            return;
        }
        self.path.handle_loss(now, sent, bytes, f64::from(self.mtu), self.smoothed);
        self.cubic.handle_loss(now, sent, minimum);
    }

    fn bytes(&self) -> u64 {
        let path = self.path.window(f64::from(self.mtu));
        let window = if self.path.is_looking() { path } else { path.max(self.cubic.window()) };
        window.max(self.minimum()) as u64
    }
}

impl Controller for Control {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.handle_ack(now, sent, bytes, app_limited, rtt.get());
    }

    fn on_end_acks(&mut self, _now: Instant, _in_flight: u64, _app_limited: bool, _largest: Option<u64>) {
        self.window = self.bytes();
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.handle_loss(now, sent, is_persistent_congestion, lost_bytes);
        self.window = self.bytes();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.window = self.bytes();
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window;
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        u64::from(self.mtu) * u64::from(INITIAL_PACKETS)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
