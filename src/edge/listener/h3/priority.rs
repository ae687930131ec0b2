//! Stage 1, HTTP/3: extensible priorities (RFC 9218), from the `priority` field and from PRIORITY_UPDATE frames.
//!
//! Urgency orders streams of one connection in quinn. `i` (incremental) is read and has no effect: quinn serves streams
//! of one urgency in turn.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// quinn's priority for the default urgency.
pub const DEFAULT: i32 = 0;

/// The urgency that a priority value names, as quinn's priority: higher goes first, the default is 0.
///
/// Lenient, as RFC 9218 section 5 asks: what cannot be parsed counts as absent.
pub fn parse(value: &[u8]) -> i32 {
    let mut priority = DEFAULT;
    for member in value.split(|byte| *byte == b',') {
        // Parameters of a member mean nothing here.
        let member = member.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if let [b'u', b'=', urgency @ b'0'..=b'7'] = member {
            priority = 3 - i32::from(urgency - b'0');
        }
    }
    priority
}

/// Priorities that PRIORITY_UPDATE frames named for streams which have not taken them yet; bounded.
#[derive(Debug)]
pub struct Updates {
    /// Counts updates, so that a stream looks at the map only when there is news.
    version: AtomicUsize,
    pending: Mutex<BTreeMap<u64, i32>>,
    max: usize,
}

impl Updates {
    /// Keeps updates of `max` streams; the oldest streams are forgotten first.
    pub fn new(max: usize) -> Self {
        Self { version: AtomicUsize::new(0), pending: Mutex::default(), max }
    }

    /// A frame named a priority for a stream, which may not exist yet.
    pub fn put(&self, stream: u64, priority: i32) {
        let mut pending = self.pending.lock();
        pending.insert(stream, priority);
        if pending.len() > self.max {
            pending.pop_first();
        }
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The newest priority for `stream` if one came since `seen`, which is brought up to date.
    pub fn take(&self, stream: u64, seen: &mut usize) -> Option<i32> {
        let version = self.version.load(Ordering::Acquire);
        if version == *seen {
            return None;
        }
        *seen = version;
        self.pending.lock().remove(&stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgency_is_read_leniently() {
        for (value, priority) in [
            ("u=0", 3),
            ("u=7, i", -4),
            ("i,u=1", 2),
            ("u=5;x=1", -2),
            ("i", 0),
            ("", 0),
            ("u=8", 0),
            ("u=-1", 0),
            ("u=3.5", 0),
            ("x, ,u=2,,", 1),
            ("u=1, u=6", -3),
        ] {
            assert_eq!(parse(value.as_bytes()), priority, "{value:?}");
        }
    }

    #[test]
    fn updates_are_bounded_and_taken_once() {
        let updates = Updates::new(2);
        let mut seen = 0;
        assert_eq!(updates.take(0, &mut seen), None);
        for stream in [0, 4, 8] {
            updates.put(stream, 1);
        }
        assert_eq!(updates.take(0, &mut seen), None);
        seen = 0;
        assert_eq!(updates.take(8, &mut seen), Some(1));
        assert_eq!(updates.take(8, &mut seen), None);
    }
}
