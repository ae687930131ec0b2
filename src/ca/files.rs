//! Where certificates and keys are kept.
//!
//! Called by the CA. A key is born 0600 and no file is ever overwritten: both by O_EXCL, so also against a race.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{CaError, Issued};

/// Creates `dir` and its parents where they are missing, for the owner alone.
pub(super) fn folder(dir: &Path) -> Result<(), CaError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| file_error(dir, source))
}

/// Writes `NAME.key` and `NAME.pem`, both or none.
pub(super) fn write_pair(dir: &Path, name: &str, cert_pem: &str, key_pem: &str) -> Result<Issued, CaError> {
    let issued = Issued { cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
    // Said first for both, so that a new key does not appear beside an old certificate even for a moment.
    for path in [&issued.cert, &issued.key] {
        if fs::symlink_metadata(path).is_ok() {
            return Err(CaError::Exists(path.clone()));
        }
    }
    create(&issued.key, key_pem, 0o600)?;
    match create(&issued.cert, cert_pem, 0o644) {
        Ok(()) => Ok(issued),
        Err(error) => {
            let _ = fs::remove_file(&issued.key);
            Err(error)
        }
    }
}

fn create(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CaError::Exists(path.to_owned()),
        _ => file_error(path, source),
    })?;
    fill(&mut file, text).map_err(|source| {
        let _ = fs::remove_file(path);
        file_error(path, source)
    })
}

fn fill(file: &mut File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Reads a file of a CA; none if it is not there.
pub(super) fn read(path: &Path) -> Result<Option<String>, CaError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(file_error(path, source)),
    }
}

fn file_error(path: &Path, source: io::Error) -> CaError {
    CaError::File { path: PathBuf::from(path), source }
}
