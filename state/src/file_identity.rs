//! The identity of a file, by which a process notices that a path leads to another file than before.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// The device and the inode of a file: equal for two paths exactly if they lead to the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    /// Returns the identity of the file that `metadata` describes.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}
