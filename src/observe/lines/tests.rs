//! Lines under slow, refusing and closed outputs. `Captured` is for the tests of the log too.

use std::sync::mpsc;

use super::*;

/// An output that tests can read.
#[derive(Clone, Default)]
pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).expect("lines are UTF-8")
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An output that says when it was entered and then waits to be let go.
struct Stuck {
    entered: mpsc::Sender<()>,
    release: mpsc::Receiver<()>,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.entered.send(()).ok();
        self.release.recv().ok();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Refusing;

impl Write for Refusing {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_come_out_whole_and_in_order() {
    let output = Captured::default();
    let lines = Lines::start(output.clone(), 1 << 20).unwrap();
    for n in 0..1000 {
        lines.push(format!("line {n}\n").as_bytes(), Source::Access);
    }
    assert!(lines.flush(Duration::from_secs(10)));
    let expected: String = (0..1000).map(|n| format!("line {n}\n")).collect();
    assert_eq!(output.text(), expected);
}

#[test]
fn a_stuck_reader_costs_lines_and_never_time() {
    let (entered, was_entered) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let lines = Lines::start(Stuck { entered, release: released }, 100).unwrap();
    lines.push(b"first\n", Source::Log);
    was_entered.recv_timeout(Duration::from_secs(10)).unwrap();
    for _ in 0..100 {
        lines.push(b"0123456789\n", Source::Access);
    }
    assert_eq!(lines.metrics().access_dropped.get(), 100 - 6, "75 of 100 bytes are for access lines");
    lines.push(b"0123456789\n", Source::Log);
    assert_eq!(lines.metrics().log_dropped.get(), 0, "the log has room that access lines cannot take");
    assert!(!lines.flush(Duration::from_millis(1)), "a flush gives up at its timeout");
    drop(release);
    assert!(lines.flush(Duration::from_secs(10)));
}

#[test]
fn a_refusing_output_is_counted_and_the_thread_goes_on() {
    let lines = Lines::start(Refusing, 100).unwrap();
    lines.push(b"lost\n", Source::Log);
    assert!(lines.flush(Duration::from_secs(10)));
    lines.push(b"lost too\n", Source::Log);
    assert!(lines.flush(Duration::from_secs(10)));
    assert_eq!(lines.metrics().write_errors.get(), 2);
}

#[test]
fn closing_writes_what_is_queued_and_refuses_the_rest() {
    let output = Captured::default();
    let lines = Lines::start(output.clone(), 100).unwrap();
    lines.push(b"before\n", Source::Log);
    assert!(lines.close(Duration::from_secs(10)));
    lines.push(b"after\n", Source::Log);
    assert_eq!(output.text(), "before\n");
    assert_eq!(lines.metrics().log_dropped.get(), 1);
}
