//! Stage 1, the announcement of HTTP/3 on HTTP/2 and HTTP/1.1 answers (RFC 7838), one per client address.
//!
//! The QUIC accept loop withdraws it when its socket is lost or drain begins; the TCP side reads it for each answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderValue;

use crate::config::Http3;

/// The `Alt-Svc` value of one address while HTTP/3 is healthy there. Cheap to clone; clones share the state.
#[derive(Clone, Debug, Default)]
pub struct AltSvc {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    value: HeaderValue,
    healthy: AtomicBool,
}

impl AltSvc {
    /// The announcement of the UDP port `port`; nothing when HTTP/3 is off or its `ma` is zero.
    pub fn new(config: &Http3, port: u16) -> Self {
        let age = config.alt_svc_max_age.as_secs();
        if !config.enabled || age == 0 {
            return Self::default();
        }
        let port = config.alt_svc_port.unwrap_or(port);
        let value = HeaderValue::from_maybe_shared(format!("h3=\":{port}\"; ma={age}").into_bytes()).ok();
        Self { shared: value.map(|value| Arc::new(Shared { value, healthy: AtomicBool::new(true) })) }
    }

    /// The field's value, if clients should be told.
    pub fn value(&self) -> Option<&HeaderValue> {
        self.shared.as_ref().filter(|shared| shared.healthy.load(Ordering::Relaxed)).map(|shared| &shared.value)
    }

    /// Stops announcing, for good.
    pub fn withdraw(&self) {
        if let Some(shared) = &self.shared {
            shared.healthy.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_announced_port_is_the_bound_one_unless_configured() {
        let config = Http3::default();
        assert_eq!(AltSvc::new(&config, 443).value().unwrap(), "h3=\":443\"; ma=86400");
        let config = Http3 { alt_svc_port: Some(8443), ..config };
        assert_eq!(AltSvc::new(&config, 443).value().unwrap(), "h3=\":8443\"; ma=86400");
    }

    #[test]
    fn nothing_is_announced_without_http3_or_without_age_or_after_withdrawal() {
        let off = Http3 { enabled: false, ..Http3::default() };
        assert_eq!(AltSvc::new(&off, 443).value(), None);
        let ageless = Http3 { alt_svc_max_age: Duration::ZERO, ..Http3::default() };
        assert_eq!(AltSvc::new(&ageless, 443).value(), None);
        let announced = AltSvc::new(&Http3::default(), 443);
        announced.clone().withdraw();
        assert_eq!(announced.value(), None);
    }
}
