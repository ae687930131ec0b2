//! qlog of one connection, for interop/ alone. Called by both of its roles; only with the feature `interop`.

use std::fs::File;
use std::path::Path;

use quinn::{QlogConfig, QlogStream};

/// A stream into `NAME.sqlog` in `folder`, or none if that cannot be written: a test without its trace is still a test.
/// Events are written as they happen, so that a process that is killed leaves them.
pub fn qlog(folder: &Path, name: &str) -> Option<QlogStream> {
    let path = folder.join(format!("{name}.sqlog"));
    let file =
        File::create(&path).inspect_err(|error| tracing::warn!(%error, path = %path.display(), "no qlog")).ok()?;
    let mut config = QlogConfig::default();
    config.writer(Box::new(file)).title(Some(name.to_owned()));
    config.into_stream()
}
