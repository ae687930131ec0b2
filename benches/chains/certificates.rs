//! The certificates of a run, made by `edge ca` and used by every contestant.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::HOST;
use crate::Outcome;

/// A folder of certificates.
#[derive(Clone)]
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// Makes a tunnel CA, one PoP, one gateway and a site certificate in `dir`/certs.
    pub fn make(dir: &Path) -> Outcome<Self> {
        let certificates = Self { dir: dir.join("certs") };
        match std::env::var_os("BENCH_CERTS") {
            Some(ready) => copy(Path::new(&ready), &certificates.dir)?,
            None => certificates.issue()?,
        }
        for name in ["pop-a", "gw-1", "site"] {
            certificates.combine(name)?;
        }
        Ok(certificates)
    }

    fn issue(&self) -> Outcome<()> {
        self.ca(&["init"], &[])?;
        self.ca(&["issue"], &["--pop", "pop-a"])?;
        self.ca(&["issue"], &["--gateway", "gw-1", "--service", "web"])?;
        self.ca(&["issue"], &["--site", HOST])
    }

    /// `edge ca WORDS DIR OPTIONS`
    fn ca(&self, words: &[&str], options: &[&str]) -> Outcome<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge"));
        let output = command.arg("ca").args(words).arg(&self.dir).args(options).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("edge ca {words:?} {options:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
    }

    /// The file `name` of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// HAProxy wants certificate and key in one file.
    fn combine(&self, name: &str) -> Outcome<()> {
        let mut both = fs::read(self.path(&format!("{name}.pem")))?;
        both.extend(fs::read(self.path(&format!("{name}.key")))?);
        Ok(fs::write(self.path(&format!("{name}.both.pem")), both)?)
    }
}

fn copy(from: &Path, to: &Path) -> Outcome<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
