//! Files that are there whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use http::Uri;

use crate::Failure;

/// The folder for downloads.
pub struct Downloads {
    folder: PathBuf,
}

impl Downloads {
    /// Into `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Begins the file of `url`, named by its path's last segment.
    pub fn begin(&self, url: &Uri) -> Result<Download, Failure> {
        let name = url.path().rsplit('/').next().filter(|name| !name.is_empty() && *name != "." && *name != "..");
        let path = self.folder.join(name.ok_or_else(|| format!("{url} names no file"))?);
        let file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Download { path, file, whole: false })
    }
}

/// A file under way; removed when dropped before [`Download::finish`].
pub struct Download {
    path: PathBuf,
    file: File,
    whole: bool,
}

impl Download {
    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.file.write_all(bytes)?)
    }

    /// It is whole.
    pub fn finish(mut self) {
        self.whole = true;
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if !self.whole {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
