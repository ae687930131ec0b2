//! Stage 1, what answers say of where else to come (RFC 7838): HTTP/3 at this PoP on HTTP/2 and HTTP/1.1 answers, and the
//! next PoP on all answers while this one drains. One per client address.
//!
//! The QUIC accept loop withdraws the first when its socket is lost, the accept loops turn to the second when drain begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderValue;

use crate::config::{Http3, PopAddress};

/// How long clients stay at the next PoP: long enough for a restart, short enough to come back the same day.
const NEXT_MAX_AGE: Duration = Duration::from_secs(300);

/// The `Alt-Svc` value of one address. Cheap to clone; clones share the state.
#[derive(Clone, Debug, Default)]
pub struct AltSvc {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    here: Option<HeaderValue>,
    next: Option<HeaderValue>,
    lost: AtomicBool,
    draining: AtomicBool,
}

impl AltSvc {
    /// The announcement of the UDP port `port`, nothing when HTTP/3 is off or its `ma` is zero; and of HTTP/3 at the `next`
    /// PoPs for when this one drains.
    pub fn new(config: &Http3, port: u16, next: &[PopAddress]) -> Self {
        let age = config.alt_svc_max_age.as_secs();
        let value = |text: String| HeaderValue::from_maybe_shared(text.into_bytes()).ok();
        let port = config.alt_svc_port.unwrap_or(port);
        let here = (config.enabled && age > 0).then(|| value(format!("h3=\":{port}\"; ma={age}"))).flatten();
        let next: Vec<_> = next.iter().map(|pop| format!("h3=\"{pop}\"; ma={}", NEXT_MAX_AGE.as_secs())).collect();
        let next = if next.is_empty() { None } else { value(next.join(", ")) };
        Self { shared: Arc::new(Shared { here, next, ..Shared::default() }) }
    }

    /// The field's value on HTTP/2 and HTTP/1.1 answers, if clients should be told anything.
    pub fn value(&self) -> Option<&HeaderValue> {
        if self.shared.draining.load(Ordering::Relaxed) {
            return self.shared.next.as_ref();
        }
        self.shared.here.as_ref().filter(|_| !self.shared.lost.load(Ordering::Relaxed))
    }

    /// The field's value on HTTP/3 answers: only a drain has something to tell there.
    pub fn next(&self) -> Option<&HeaderValue> {
        self.shared.next.as_ref().filter(|_| self.shared.draining.load(Ordering::Relaxed))
    }

    /// There is no HTTP/3 here any more, for good.
    pub fn withdraw(&self) {
        self.shared.lost.store(true, Ordering::Relaxed);
    }

    /// Drain has begun: nothing here is announced any more, but where to go.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_announced_port_is_the_bound_one_unless_configured() {
        let config = Http3::default();
        assert_eq!(AltSvc::new(&config, 443, &[]).value().unwrap(), "h3=\":443\"; ma=86400");
        let config = Http3 { alt_svc_port: Some(8443), ..config };
        assert_eq!(AltSvc::new(&config, 443, &[]).value().unwrap(), "h3=\":8443\"; ma=86400");
    }

    #[test]
    fn nothing_is_announced_without_http3_or_without_age_or_after_withdrawal() {
        let off = Http3 { enabled: false, ..Http3::default() };
        assert_eq!(AltSvc::new(&off, 443, &[]).value(), None);
        let ageless = Http3 { alt_svc_max_age: Duration::ZERO, ..Http3::default() };
        assert_eq!(AltSvc::new(&ageless, 443, &[]).value(), None);
        let announced = AltSvc::new(&Http3::default(), 443, &[]);
        announced.clone().withdraw();
        assert_eq!(announced.value(), None);
    }

    #[test]
    fn while_it_drains_a_pop_announces_the_next_ones_instead_of_itself() {
        let pop = |host: &str, port| PopAddress { host: host.into(), port };
        let next = [pop("pop-b.example.net", 443), pop("2001:db8::7", 8443)];
        let off = Http3 { enabled: false, ..Http3::default() };
        for config in [Http3::default(), off] {
            let announced = AltSvc::new(&config, 443, &next);
            assert_eq!(announced.next(), None);
            announced.clone().drain();
            let expected = "h3=\"pop-b.example.net:443\"; ma=300, h3=\"[2001:db8::7]:8443\"; ma=300";
            assert_eq!(
                (announced.value().unwrap(), announced.next().unwrap()),
                (&expected.parse().unwrap(), &expected.parse().unwrap())
            );
        }
        let alone = AltSvc::new(&Http3::default(), 443, &[]);
        alone.drain();
        assert_eq!((alone.value(), alone.next()), (None, None));
    }
}
