//! The process's log: `tracing` events as text or JSON lines on stderr. Called once, first thing, by both binaries.
//!
//! Lines go through [`super::lines`], so neither a slow nor a vanished reader of stderr stops a worker. stdout carries
//! the ready line and nothing else.

use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use super::lines::{BUFFER_MAX, Lines, Source};
use crate::config;

/// How long the end of the process waits for the last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a thread that panics waits for its line to be written.
const PANIC_FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.level` is not a filter.
    #[error("log.level: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The writer thread could not be started.
    #[error("the log's thread: {0}")]
    Thread(#[from] io::Error),
    /// There is one already.
    #[error("{0}")]
    Already(#[from] tracing_subscriber::util::TryInitError),
}

/// The form of log and access lines, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log while it works. Dropping it writes what is queued: keep it until the end of `main`, and drop it before
/// `std::process::exit`.
pub struct Log {
    lines: Lines,
    form: Form,
}

impl Log {
    /// Where access lines go too.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// The form of lines.
    pub fn form(&self) -> Form {
        self.form
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines.close(FLUSH_TIMEOUT);
    }
}

/// Starts the log. Panics of the process become log lines from here on.
pub fn init(config: &config::Log) -> Result<Log, LogError> {
    let filter = EnvFilter::try_new(&config.level)?;
    let terminal = io::stderr().is_terminal();
    let form = form(config.format, terminal);
    let lines = Lines::start(io::stderr(), BUFFER_MAX)?;
    subscriber(filter, form, terminal, LineWriter(lines.clone())).try_init()?;
    let out = lines.clone();
    std::panic::set_hook(Box::new(move |info| {
        log_panic(info);
        // A panic within a panic ends the process before the writer's next turn.
        out.flush(PANIC_FLUSH_TIMEOUT);
    }));
    Ok(Log { lines, form })
}

fn form(wanted: config::LogFormat, terminal: bool) -> Form {
    match wanted {
        config::LogFormat::Text => Form::Text,
        config::LogFormat::Json => Form::Json,
        config::LogFormat::Auto if terminal => Form::Text,
        config::LogFormat::Auto => Form::Json,
    }
}

fn subscriber(
    filter: EnvFilter,
    form: Form,
    colour: bool,
    writer: LineWriter,
) -> Box<dyn tracing::Subscriber + Send + Sync> {
    // Internal errors would go through eprintln!, which panics when stderr is gone.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    match form {
        Form::Text => Box::new(builder.with_ansi(colour).finish()),
        Form::Json => Box::new(builder.json().flatten_event(true).finish()),
    }
}

/// A task's panic is caught by its runtime; without this it would be seen only as bare text between JSON lines.
fn log_panic(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = std::backtrace::Backtrace::capture();
    let thread = std::thread::current();
    tracing::error!(
        location,
        thread = thread.name().unwrap_or("unnamed"),
        backtrace = %backtrace,
        "panic: {}",
        info.payload_as_str().unwrap_or("not text")
    );
}

#[derive(Clone)]
struct LineWriter(Lines);

impl Write for LineWriter {
    /// `tracing-subscriber` writes each event whole, with its newline.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line, Source::Log);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::tests::Captured;
    use super::*;

    fn logged(form: Form, level: &str, events: impl FnOnce()) -> String {
        let output = Captured::default();
        let lines = Lines::start(output.clone(), 1 << 16).unwrap();
        let filter = EnvFilter::try_new(level).unwrap();
        tracing::subscriber::with_default(subscriber(filter, form, false, LineWriter(lines.clone())), events);
        assert!(lines.close(Duration::from_secs(10)));
        output.text()
    }

    #[test]
    fn json_lines_have_message_and_fields_at_the_top() {
        let text = logged(Form::Json, "info", || tracing::info!(pop = "pop-a", "tunnel ready"));
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "tunnel ready");
        assert_eq!(line["pop"], "pop-a");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn text_lines_have_no_colours_off_a_terminal_and_no_control_sequences() {
        let text = logged(Form::Text, "info", || tracing::info!(sni = "\x1b[2Jx\nINFO forged", "hand\x1b[1mshake"));
        assert!(text.contains("shake"), "{text:?}");
        assert!(!text.contains('\x1b'), "{text:?}");
        assert_eq!(text.lines().count(), 1, "{text:?}");
    }

    #[test]
    fn the_filter_decides_what_is_logged() {
        let text = logged(Form::Json, "warn", || {
            tracing::info!("unwanted");
            tracing::warn!("wanted");
        });
        assert!(text.contains("\"wanted\"") && !text.contains("unwanted"), "{text}");
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        let config = config::Log { level: "trunkline=loud".into(), format: config::LogFormat::Json, access: false };
        assert!(matches!(init(&config), Err(LogError::Filter(_))));
    }

    #[test]
    fn auto_means_text_for_people_only() {
        assert_eq!(form(config::LogFormat::Auto, true), Form::Text);
        assert_eq!(form(config::LogFormat::Auto, false), Form::Json);
        assert_eq!(form(config::LogFormat::Json, true), Form::Json);
        assert_eq!(form(config::LogFormat::Text, false), Form::Text);
    }
}
