//! Whether a file is still where it was opened. A file that was deleted or replaced can be written to as
//! before, but what is written will never be read.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::file_identity::FileIdentity;

/// A file that was opened, and the path at which it should still be found.
#[derive(Debug)]
pub(super) struct OpenedFile {
    path: PathBuf,
    identity: Option<FileIdentity>,
}

impl OpenedFile {
    /// Notes the identity of a file that was just opened at `path`.
    pub(super) fn at(path: &Path) -> Self {
        let identity = path.metadata().ok().map(|metadata| FileIdentity::of(&metadata));
        Self { path: path.to_owned(), identity }
    }

    /// Whether another file or none is at the path now; false if that cannot be determined.
    pub(super) fn is_replaced(&self) -> bool {
        match self.path.metadata() {
            Ok(metadata) => self.identity.is_some_and(|opened| opened != FileIdentity::of(&metadata)),
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }
}
