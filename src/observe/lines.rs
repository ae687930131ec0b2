//! The way of every log and access line out of the process: a bounded buffer and the one thread that empties it.
//!
//! Called by [`super::log`] and [`super::access`]. Owns the buffer and the output; never blocks a caller on I/O. When
//! the reader of the log is slower than the requests, lines are dropped and counted, requests are not delayed.
//!
//! The writer thread lingers before it takes what has gathered: waking a thread on another core costs several times
//! what a line costs, so it is woken once per 50 ms at most, however many lines there are.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// How long lines may gather before they are written.
const LINGER: Duration = Duration::from_millis(50);

/// Default bound of the buffer, bytes. A second buffer of the same size is being written at the same time.
pub const BUFFER_MAX: usize = 4 << 20;

/// Who writes a line, hence how much of the buffer it may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The log: all of the buffer.
    Log,
    /// The access log: three quarters, so that a flood of requests never silences the log.
    Access,
}

/// Lines lost, and writes that failed.
#[derive(Clone, Debug, Default)]
pub struct LineMetrics {
    /// Log lines dropped because the buffer was full.
    pub log_dropped: Counter,
    /// Access lines dropped because the buffer was full.
    pub access_dropped: Counter,
    /// Writes that the output refused (reader gone, disk full); the lines in them are lost.
    pub write_errors: Counter,
}

impl LineMetrics {
    fn dropped(&self, source: Source) -> &Counter {
        match source {
            Source::Log => &self.log_dropped,
            Source::Access => &self.access_dropped,
        }
    }
}

/// A handle to the buffer; cheap to clone.
#[derive(Clone)]
pub struct Lines {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Tells the writer that there is something to do.
    work: Condvar,
    /// Tells who waits for a flush that everything is written.
    idle: Condvar,
    max: usize,
    metrics: LineMetrics,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    writing: bool,
    /// Someone waits: do not linger.
    hurry: bool,
    closed: bool,
}

impl Lines {
    /// Starts the writer thread on `output`; at most `max` bytes wait. Fails when no thread can be started.
    pub fn start(output: impl Write + Send + 'static, max: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            max,
            metrics: LineMetrics::default(),
        });
        let writer = shared.clone();
        thread::Builder::new().name("lines".into()).spawn(move || writer.run(output))?;
        Ok(Self { shared })
    }

    /// Queues a line, which must end in a newline. Drops and counts it when its share of the buffer is full or the
    /// buffer is closed.
    pub fn push(&self, line: &[u8], source: Source) {
        let max = match source {
            Source::Log => self.shared.max,
            Source::Access => self.shared.max / 4 * 3,
        };
        let mut state = self.shared.state.lock();
        if state.closed || state.buffer.len().saturating_add(line.len()) > max {
            drop(state);
            self.shared.metrics.dropped(source).inc();
            return;
        }
        let was_empty = state.buffer.is_empty();
        state.buffer.extend_from_slice(line);
        // A buffer half full does not linger either.
        let was_calm = !state.hurry;
        state.hurry |= state.buffer.len() > self.shared.max / 2;
        let wake = was_empty || (state.hurry && was_calm);
        drop(state);
        if wake {
            self.shared.work.notify_one();
        }
    }

    /// Waits until what was queued so far is written, `timeout` at most. Returns whether it is. Blocks: for the end of
    /// the process, for panics and for tests.
    pub fn flush(&self, timeout: Duration) -> bool {
        let mut state = self.shared.state.lock();
        state.hurry = true;
        self.shared.work.notify_one();
        let result =
            self.shared.idle.wait_while_for(&mut state, |state| state.writing || !state.buffer.is_empty(), timeout);
        !result.timed_out()
    }

    /// Writes what is queued, waiting `timeout` at most, and ends the writer thread. Later lines are dropped.
    pub fn close(&self, timeout: Duration) -> bool {
        let flushed = self.flush(timeout);
        self.shared.state.lock().closed = true;
        self.shared.work.notify_one();
        flushed
    }

    /// The counters of this buffer.
    pub fn metrics(&self) -> &LineMetrics {
        &self.shared.metrics
    }

    /// Makes the counters visible on `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        let metrics = &self.shared.metrics;
        for (name, help, counter) in [
            ("trunkline_log_dropped_lines", "Log lines dropped: buffer full", &metrics.log_dropped),
            ("trunkline_access_dropped_lines", "Access lines dropped: buffer full", &metrics.access_dropped),
            ("trunkline_log_write_errors", "Writes of log and access lines that failed", &metrics.write_errors),
        ] {
            registry.register(name, help, counter.clone());
        }
    }
}

impl Shared {
    /// The writer thread: takes all that has gathered, writes it, again until closed.
    fn run(&self, mut output: impl Write) {
        let mut taken = Vec::new();
        while self.take(&mut taken) {
            if output.write_all(&taken).and_then(|()| output.flush()).is_err() {
                self.metrics.write_errors.inc();
            }
            taken.clear();
        }
    }

    /// Waits for lines and swaps them into `taken`; false when closed and empty.
    fn take(&self, taken: &mut Vec<u8>) -> bool {
        let mut state = self.state.lock();
        state.writing = false;
        if state.buffer.is_empty() {
            state.hurry = false;
            self.idle.notify_all();
        }
        self.work.wait_while(&mut state, |state| state.buffer.is_empty() && !state.closed);
        self.work.wait_while_for(&mut state, |state| !state.hurry && !state.closed, LINGER);
        std::mem::swap(&mut state.buffer, taken);
        state.writing = !taken.is_empty();
        state.hurry = false;
        state.writing
    }
}

#[cfg(test)]
pub(super) mod tests;
