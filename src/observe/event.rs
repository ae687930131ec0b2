//! What happens to tunnels and to the requests in them, told once: each event has one name in the log, in
//! `trunkline_tunnel_events_total` and in the last events that `edge tunnels` and `origin status` show.
//!
//! Called by the tunnel, by dispatch and by failover where something happened; decides nothing. Off the usual way of a
//! request: nothing here is called for a request that meets no trouble.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::timestamp;
use crate::clock;

/// Events that are kept to be shown.
const RECENT_MAX: usize = 64;
/// The same event again within this time is shown as one with its count: a cut link moves thousands of exchanges.
const TOGETHER: Duration = Duration::from_secs(1);

macro_rules! whats {
    ($( $(#[$doc:meta])* $name:ident = $text:literal; )*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum What { $( $(#[$doc])* $name, )* }

        impl What {
            /// Every one, in the order of a tunnel's life.
            pub const ALL: &[Self] = &[$( Self::$name, )*];

            /// The one name.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }
        }
    };
}

whats! {
    /// A link was silent, or something hints that it does not carry: no new requests.
    Suspicion = "suspicion";
    /// A suspected link was heard again.
    Recovery = "recovery";
    /// A link loses packets; `why` says which way and how many.
    Loss = "loss";
    /// A link moved to a fresh source port; `to` is the port.
    Rebind = "rebind";
    /// A link was given up for its silence, or the other end does not know it any more.
    Verdict = "verdict";
    /// A link ended otherwise; `why` says how.
    Close = "close";
    /// A link that heartbeats and does not answer gets no requests for a while.
    Ejection = "ejection";
    /// An exchange went on, byte-exact, on another link or stream.
    Resume = "resume";
    /// A request was sent again.
    Replay = "replay";
    /// A waiting request was sent to another link as well.
    Hedge = "hedge";
    /// The rest of a response was asked for through another gateway.
    Continuation = "continuation";
    /// A PoP's role changed for an origin.
    Migration = "migration";
    /// A process began to drain, or heard that its peer does.
    Drain = "drain";
    /// The answer to a drain: others have taken over.
    Handover = "handover";
    /// A drain is over.
    Drained = "drained";
}

/// One event. Fields that do not apply stay as [`Event::new`] has them.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// What happened.
    pub what: What,
    /// The link, peer or PoP that was left; the only one concerned where nothing moved.
    pub from: &'a str,
    /// Where to.
    pub to: &'a str,
    /// How long it took, or how long it had been silent.
    pub took: Duration,
    /// Bytes sent again.
    pub bytes_again: u64,
    /// For people.
    pub why: &'a str,
}

impl Event<'_> {
    /// Nothing but what happened.
    pub const fn new(what: What) -> Self {
        Self { what, from: "", to: "", took: Duration::ZERO, bytes_again: 0, why: "" }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Where events are told. Cheap to clone; one per process.
#[derive(Clone, Debug, Default)]
pub struct Events {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    counters: [Counter; What::ALL.len()],
    recent: Mutex<VecDeque<Kept>>,
}

/// An event that is shown, with those like it that followed at once.
#[derive(Debug)]
struct Kept {
    what: What,
    from: String,
    to: String,
    why: String,
    millis: u64,
    bytes_again: u64,
    times: u64,
    /// The first.
    at: SystemTime,
    /// The last.
    last: Instant,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EventLabel {
    event: &'static str,
}

impl Events {
    /// Registers `trunkline_tunnel_events_total`, with every event there is.
    pub fn register(registry: &mut Registry) -> Self {
        let family = Family::<EventLabel, Counter>::default();
        registry.register("trunkline_tunnel_events", "What happened to tunnels and requests in them", family.clone());
        let counters = std::array::from_fn(|index| {
            let what = What::ALL.get(index).copied().unwrap_or(What::Close);
            family.get_or_create_owned(&EventLabel { event: what.name() })
        });
        Self { shared: Arc::new(Shared { counters, recent: Mutex::default() }) }
    }

    /// Tells of an event: to the log, the counters, and who asks for the last ones.
    pub fn emit(&self, event: &Event<'_>) {
        let Event { what, from, to, bytes_again, why, .. } = event;
        let (name, millis) = (what.name(), event.millis());
        tracing::info!(event = name, from, to, millis, bytes_again, why, "{name}");
        if let Some(counter) = self.shared.counters.get(*what as usize) {
            counter.inc();
        }
        self.keep(event, clock::now());
    }

    fn keep(&self, event: &Event<'_>, now: Instant) {
        let mut recent = self.shared.recent.lock();
        let again = recent.iter_mut().rev().find(|kept| kept.is_like(event) && now < kept.last + TOGETHER);
        if let Some(kept) = again {
            kept.times += 1;
            kept.last = now;
            kept.millis = kept.millis.max(event.millis());
            kept.bytes_again += event.bytes_again;
            return;
        }
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(Kept {
            what: event.what,
            from: event.from.to_owned(),
            to: event.to.to_owned(),
            why: event.why.to_owned(),
            millis: event.millis(),
            bytes_again: event.bytes_again,
            times: 1,
            at: clock::wall(),
            last: now,
        });
    }

    /// How often it happened.
    pub fn count(&self, what: What) -> u64 {
        self.shared.counters.get(what as usize).map_or(0, Counter::get)
    }

    /// The last events for `/status`, the oldest first.
    pub fn status(&self) -> Value {
        self.shared.recent.lock().iter().map(Kept::status).collect()
    }
}

impl Kept {
    fn is_like(&self, event: &Event<'_>) -> bool {
        (self.what, &*self.from, &*self.to, &*self.why) == (event.what, event.from, event.to, event.why)
    }

    fn status(&self) -> Value {
        let mut at = Vec::new();
        timestamp::push(&mut at, self.at);
        json!({
            "at": String::from_utf8_lossy(&at),
            "event": self.what.name(),
            "times": self.times,
            "from": self.from,
            "to": self.to,
            "millis": self.millis,
            "bytes_again": self.bytes_again,
            "why": self.why,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_same_name_in_the_metric_and_in_the_status() {
        let mut registry = Registry::default();
        let events = Events::register(&mut registry);
        for what in What::ALL {
            events.emit(&Event { from: "gw-1#1", ..Event::new(*what) });
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let status = events.status();
        for (what, shown) in What::ALL.iter().zip(status.as_array().unwrap()) {
            let series = format!("trunkline_tunnel_events_total{{event=\"{}\"}} 1", what.name());
            assert!(text.contains(&series), "{series} in {text}");
            assert_eq!(shown["event"], what.name());
            assert_eq!(events.count(*what), 1);
        }
    }

    #[test]
    fn a_thousand_moves_at_once_are_shown_as_one_and_the_oldest_are_forgotten() {
        let (events, start) = (Events::default(), clock::now());
        let moved = Event { to: "gw-1#2", bytes_again: 10, ..Event::new(What::Resume) };
        (0..1_000).for_each(|_| events.keep(&moved, start));
        let status = events.status();
        assert_eq!((&status[0]["times"], &status[0]["bytes_again"]), (&json!(1_000), &json!(10_000)));
        events.keep(&moved, start + TOGETHER);
        assert_eq!(events.status().as_array().unwrap().len(), 2, "a second later it is another event");
        for second in 2..2 * RECENT_MAX {
            events.keep(&moved, start + TOGETHER * u32::try_from(second).unwrap());
        }
        assert_eq!(events.status().as_array().unwrap().len(), RECENT_MAX);
    }
}
