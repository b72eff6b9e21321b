//! Whether a file is still where it was opened. One that was deleted or replaced can be written to as before,
//! and nobody will ever read what is written.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The place of an open file.
#[derive(Debug)]
pub(super) struct FileIdentity {
    path: PathBuf,
    /// Device and number of the file that was opened.
    device_and_inode: Option<(u64, u64)>,
}

impl FileIdentity {
    /// The file has just been opened there.
    pub(super) fn of_opened(path: &Path) -> Self {
        let device_and_inode = path.metadata().ok().map(|known| (known.dev(), known.ino()));
        Self { path: path.to_owned(), device_and_inode }
    }

    /// Is another file there now, or none? Not where that cannot be told.
    pub(super) fn is_replaced(&self) -> bool {
        match self.path.metadata() {
            Ok(known) => self.device_and_inode.is_some_and(|file| file != (known.dev(), known.ino())),
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }
}
