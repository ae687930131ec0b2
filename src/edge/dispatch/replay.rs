//! May a request be sent again? (sans-IO) The one place that decides it.
//!
//! Invariant: a request of a method that is not idempotent is sent again only if it provably never reached an upstream.

use http::Method;

use crate::fault::{Fault, Kind, Retry, Side};

/// Replays of one request at most.
pub const REPLAYS_MAX: u64 = 2;

/// Hedges of one request at most.
pub const HEDGES_MAX: u32 = 1;

/// What is known of a request that was sent and waits for its head, on a link in doubt.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// All of it was sent and can be sent again.
    pub repeatable: bool,
    /// Hedges before this one.
    pub hedges: u32,
}

/// Whether the request may go to another gateway as well: it will be executed twice if the first is only slow.
pub fn may_hedge(waiting: Waiting<'_>) -> bool {
    waiting.method.is_idempotent() && waiting.repeatable && waiting.hedges < HEDGES_MAX
}

/// What is known of an attempt that failed.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The gateway said that it hands the request to an upstream; it says so before it does, for methods that are not
    /// idempotent.
    pub accepted: bool,
    /// The body can be sent again from its first byte.
    pub repeatable: bool,
    /// Replays before this one.
    pub replays: u64,
}

/// Why a replay is safe; the label of its metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The other end said that nothing was started.
    NotStarted,
    /// The gateway's process is known to be dead and had not accepted it.
    NotAccepted,
    /// The method is idempotent (RFC 9110 section 9.2.2).
    Idempotent,
}

/// Why the failed attempt may be followed by another, or `None`.
pub fn decide(attempt: Attempt<'_>, fault: &Fault) -> Option<Class> {
    if !attempt.repeatable || attempt.replays >= REPLAYS_MAX || attempt.method == Method::CONNECT && attempt.accepted {
        return None;
    }
    match fault.retry {
        Retry::Never => None,
        // The client has waited as long as it should, and an upstream that is too slow needs no second copy.
        _ if fault.kind == Kind::ResponseTimeout => None,
        Retry::Anywhere => Some(Class::NotStarted),
        Retry::Idempotent if attempt.method.is_idempotent() => Some(Class::Idempotent),
        // A path that went silent proves nothing: the request may have arrived, and its ACCEPTED be lost on the way
        // back. A dead process sent ACCEPTED before it handed the request on.
        Retry::Idempotent if is_death(fault) && !attempt.accepted => Some(Class::NotAccepted),
        Retry::Idempotent => None,
    }
}

fn is_death(fault: &Fault) -> bool {
    fault.side == Side::Gateway && fault.kind == Kind::ConnectionTerminated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Stage;

    fn fault(side: Side, retry: Retry) -> Fault {
        Fault::new(Stage::Tunnel, side, Kind::ConnectionTerminated).with_retry(retry)
    }

    fn attempt(method: &Method, accepted: bool) -> Attempt<'_> {
        Attempt { method, accepted, repeatable: true, replays: 0 }
    }

    #[test]
    fn the_table_of_replays_holds() {
        use Retry::{Anywhere, Idempotent, Never};
        let (get, post) = (&Method::GET, &Method::POST);
        for (method, accepted, side, retry, expected) in [
            (get, false, Side::Tunnel, Idempotent, Some(Class::Idempotent)),
            (get, true, Side::Gateway, Idempotent, Some(Class::Idempotent)),
            (get, false, Side::Upstream, Never, None),
            (post, false, Side::Gateway, Anywhere, Some(Class::NotStarted)),
            (post, true, Side::Upstream, Anywhere, Some(Class::NotStarted)),
            (post, false, Side::Gateway, Idempotent, Some(Class::NotAccepted)),
            (post, true, Side::Gateway, Idempotent, None),
            (post, false, Side::Tunnel, Idempotent, None),
            (post, false, Side::Upstream, Idempotent, None),
        ] {
            let got = decide(attempt(method, accepted), &fault(side, retry));
            assert_eq!(got, expected, "{method} accepted={accepted} {side:?} {retry:?}");
        }
    }

    #[test]
    fn only_what_may_run_twice_is_hedged_and_once() {
        let hedged = |method: &Method, repeatable, hedges| may_hedge(Waiting { method, repeatable, hedges });
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE] {
            assert!(hedged(&method, true, 0), "{method}");
            assert!(!hedged(&method, false, 0) && !hedged(&method, true, HEDGES_MAX), "{method}");
        }
        for method in [Method::POST, Method::PATCH, Method::CONNECT] {
            assert!(!hedged(&method, true, 0), "{method}");
        }
    }

    #[test]
    fn what_took_too_long_is_not_asked_for_again() {
        let late = Fault::new(Stage::Upstream, Side::Upstream, Kind::ResponseTimeout).with_retry(Retry::Idempotent);
        assert_eq!(decide(attempt(&Method::GET, true), &late), None);
    }

    #[test]
    fn a_body_that_is_gone_or_a_third_replay_is_refused() {
        let lost = fault(Side::Tunnel, Retry::Anywhere);
        let gone = Attempt { repeatable: false, ..attempt(&Method::GET, false) };
        assert_eq!(decide(gone, &lost), None);
        let third = Attempt { replays: REPLAYS_MAX, ..attempt(&Method::GET, false) };
        assert_eq!(decide(third, &lost), None);
    }
}
