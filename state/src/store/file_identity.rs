//! Whether a file is still where it was opened. A file that was deleted or replaced can be written to as
//! before, but what is written will never be read.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The identity of an open file at its path.
#[derive(Debug)]
pub(super) struct FileIdentity {
    path: PathBuf,
    /// Device and inode of the opened file.
    device_and_inode: Option<(u64, u64)>,
}

impl FileIdentity {
    /// Returns the identity of a file that was just opened at `path`.
    pub(super) fn of_opened(path: &Path) -> Self {
        let device_and_inode = path.metadata().ok().map(|known| (known.dev(), known.ino()));
        Self { path: path.to_owned(), device_and_inode }
    }

    /// Whether another file or none is at the path now; false if that cannot be determined.
    pub(super) fn is_replaced(&self) -> bool {
        match self.path.metadata() {
            Ok(known) => self.device_and_inode.is_some_and(|file| file != (known.dev(), known.ino())),
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }
}
