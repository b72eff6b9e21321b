//! Files that are replaced as a whole or not at all.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Replaces the file at `path`, so that no reader sees it half written. If `path` is not a regular file, for
/// example a pipe, it is written to.
///
/// # Errors
/// Fails when the system refuses; then the old file is unchanged.
pub(super) fn replace_file(path: &Path, octets: &[u8], mode: u32) -> std::io::Result<()> {
    // A link stays a link.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if target.metadata().is_ok_and(|found| !found.is_file()) {
        return OpenOptions::new().write(true).open(&target)?.write_all(octets);
    }
    let new = draft_path(&target)?;
    let written = write_file(&new, octets, mode).and_then(|()| std::fs::rename(&new, &target));
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written
}

fn draft_path(target: &Path) -> std::io::Result<PathBuf> {
    let name = target.file_name().ok_or_else(|| std::io::Error::other("not the name of a file"))?;
    Ok(target.with_file_name(format!(".{}.{}.new", name.to_string_lossy(), std::process::id())))
}

fn write_file(path: &Path, octets: &[u8], mode: u32) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(octets)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::config::test_folder::TestFolder;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_links_stay() {
        let folder = TestFolder::new();
        let (path, link) = (folder.write("a", "old"), folder.path("b"));
        symlink(&path, &link).unwrap();
        replace_file(&link, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(link.is_symlink());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        replace_file(Path::new("/dev/null"), b"x", 0o600).unwrap();
        assert!(!Path::new("/dev/null").metadata().unwrap().is_file());
        let folder = TestFolder::new();
        assert!(replace_file(folder.as_ref(), b"x", 0o600).is_err());
        assert!(replace_file(&folder.path("no/such"), b"x", 0o600).is_err());
    }
}
