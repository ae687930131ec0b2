//! Keys that must survive a restart, so that a restarted endpoint can end the connections it lost with a stateless reset
//! (RFC 9000 section 10.3) and accept the Retry tokens it gave out.
//!
//! Read once at the start by both binaries. Owns one file, `quic.key`, in the state folder; never writes anywhere else.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hkdf, hmac, rand};
use quinn::EndpointConfig;
use quinn::crypto::HandshakeTokenKey;

use super::{CidGenerator, Worker};

const FILE: &str = "quic.key";
const SECRET_LEN: usize = 32;
/// More than this is no key file.
const FILE_LEN_MAX: u64 = 1024;
/// quinn's default of 20 ms per endpoint takes 32 s to tell 1,000 clients of a restart. The keyed MAC in every
/// connection ID, not this interval, is what keeps strangers from drawing resets.
const RESET_INTERVAL_MIN: Duration = Duration::from_micros(100);

/// Why the keys could not be loaded or kept; the message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The folder cannot be made.
    #[error("cannot create state_dir {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read the key.
    #[error("{path} may be read by others (mode {mode:03o}): chmod 600 it, or delete it to get a new one")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{path} is not a key of 64 hexadecimal digits: delete it to get a new one")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The system has no randomness to give.
    #[error("the system's random source failed")]
    Random,
}

/// The keys of one process's QUIC endpoints. Cheap to clone.
#[derive(Clone)]
pub struct QuicKeys {
    reset: hmac::Key,
    cid: hmac::Key,
    token: Arc<dyn HandshakeTokenKey>,
}

impl QuicKeys {
    /// The keys kept in `state_dir`, made on first use (folder 0700, file 0600); fresh ones that die with the process
    /// without a folder.
    ///
    /// # Errors
    /// When the folder or file cannot be used, the file is readable by others or is no key.
    pub fn load(state_dir: Option<&Path>) -> Result<Self, KeysError> {
        let Some(folder) = state_dir else { return Ok(Self::derive(&fresh_secret()?)) };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| KeysError::Folder { path: folder.into(), source })?;
        let path = folder.join(FILE);
        if let Some(secret) = read_secret(&path)? {
            return Ok(Self::derive(&secret));
        }
        write_secret(folder, &path, &fresh_secret()?)?;
        // Another process may have been faster: what is in the file counts.
        let secret = read_secret(&path)?.ok_or(KeysError::Malformed { path })?;
        Ok(Self::derive(&secret))
    }

    /// One secret gives three independent keys, so that one file, written at once, is the whole state.
    fn derive(secret: &[u8; SECRET_LEN]) -> Self {
        let master = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let sub = |label: &[u8]| hmac::sign(&master, label);
        Self {
            reset: hmac::Key::new(hmac::HMAC_SHA256, sub(b"trunkline stateless reset").as_ref()),
            cid: hmac::Key::new(hmac::HMAC_SHA256, sub(b"trunkline connection id").as_ref()),
            token: Arc::new(
                hkdf::Salt::new(hkdf::HKDF_SHA256, b"trunkline token").extract(sub(b"trunkline token").as_ref()),
            ),
        }
    }

    /// The configuration of the endpoint of `worker`: its connection IDs name it, and it answers packets of connections it
    /// lost with a stateless reset.
    pub fn endpoint_config(&self, worker: Worker) -> EndpointConfig {
        let mut config = EndpointConfig::new(Arc::new(self.reset.clone()));
        let generator = CidGenerator::new(self.cid.clone(), worker);
        config.cid_generator(move || Box::new(generator.clone()));
        config.min_reset_interval(RESET_INTERVAL_MIN);
        config
    }

    /// The key of address validation tokens, for [`quinn::ServerConfig::new`].
    pub fn token_key(&self) -> Arc<dyn HandshakeTokenKey> {
        self.token.clone()
    }
}

impl std::fmt::Debug for QuicKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicKeys").finish_non_exhaustive()
    }
}

fn fresh_secret() -> Result<[u8; SECRET_LEN], KeysError> {
    let mut secret = [0; SECRET_LEN];
    rand::fill(&mut secret).map_err(|_| KeysError::Random)?;
    Ok(secret)
}

/// `None` when there is no file yet.
fn read_secret(path: &Path) -> Result<Option<[u8; SECRET_LEN]>, KeysError> {
    let read_error = |source| KeysError::Read { path: path.into(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(read_error(source)),
    };
    let mode = file.metadata().map_err(read_error)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Exposed { path: path.into(), mode });
    }
    let mut text = String::new();
    file.take(FILE_LEN_MAX).read_to_string(&mut text).map_err(read_error)?;
    parse_hex(text.trim()).map(Some).ok_or_else(|| KeysError::Malformed { path: path.into() })
}

/// Writes a temporary file and links it to its name: readers see the whole key or none, and the first writer wins.
fn write_secret(folder: &Path, path: &Path, secret: &[u8; SECRET_LEN]) -> Result<(), KeysError> {
    let write_error = |source| KeysError::Write { path: path.into(), source };
    let temporary = folder.join(format!(".{FILE}.{}.{:016x}", std::process::id(), fastrand::u64(..)));
    let written = write_new(&temporary, secret).and_then(|()| match std::fs::hard_link(&temporary, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    });
    let removed = std::fs::remove_file(&temporary);
    written.and(removed).map_err(write_error)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(write_error)
}

fn write_new(path: &Path, secret: &[u8; SECRET_LEN]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(file, "{hex}")?;
    file.sync_all()
}

fn parse_hex(text: &str) -> Option<[u8; SECRET_LEN]> {
    if text.len() != SECRET_LEN * 2 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut secret = [0; SECRET_LEN];
    for (byte, at) in secret.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn reset_tag(keys: &QuicKeys) -> Vec<u8> {
        hmac::sign(&keys.reset, b"cid").as_ref().to_vec()
    }

    #[test]
    fn keys_stay_the_same_across_restarts_and_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/b");
        let first = QuicKeys::load(Some(&state)).unwrap();
        let second = QuicKeys::load(Some(&state)).unwrap();
        assert_eq!(reset_tag(&first), reset_tag(&second));

        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join(FILE))), (0o700, 0o600));
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn without_a_folder_every_start_has_its_own_keys() {
        assert_ne!(reset_tag(&QuicKeys::load(None).unwrap()), reset_tag(&QuicKeys::load(None).unwrap()));
    }

    #[test]
    fn of_two_writers_the_first_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        write_secret(folder.path(), &path, &[1; 32]).unwrap();
        write_secret(folder.path(), &path, &[2; 32]).unwrap();
        assert_eq!(read_secret(&path).unwrap(), Some([1; 32]));
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        QuicKeys::load(Some(folder.path())).unwrap();
        let path = folder.path().join(FILE);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = QuicKeys::load(Some(folder.path())).unwrap_err().to_string();
        assert!(error.contains("quic.key") && error.contains("mode 640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_damaged_key_is_an_error_not_a_new_key() {
        let folder = tempfile::tempdir().unwrap();
        QuicKeys::load(Some(folder.path())).unwrap();
        std::fs::write(folder.path().join(FILE), "+1".repeat(32)).unwrap();
        assert!(matches!(QuicKeys::load(Some(folder.path())), Err(KeysError::Malformed { .. })));
    }
}
