//! The lock on `state_dir`: one tracker at a time writes there. The file also says which process that is, and
//! why it last refused to be replaced.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The name of the file, in `state_dir`.
const FILE: &str = "hayate.lock";
/// What is read of it at most, in octets.
const TEXT_MAX: u64 = 4096;

/// Why the lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("state_dir {} is used by another hayate, process {pid}", folder.display())]
    Taken { folder: PathBuf, pid: String },
    #[error("{}: {source}; set state_dir to a folder that can be written to", path.display())]
    Unusable { path: PathBuf, source: io::Error },
}

/// The lock; it is given up when the process and its successor, if it has one, have ended.
#[derive(Debug)]
pub(crate) struct StateLock(File);

impl StateLock {
    /// Takes the lock for this process.
    ///
    /// # Errors
    /// When another tracker has it, or the file cannot be made.
    pub(crate) fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(FILE);
        let unusable = |source| LockError::Unusable { path: path.clone(), source };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = Holder::of(&file).map(|holder| holder.pid).unwrap_or_default();
                return Err(LockError::Taken { folder: folder.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let lock = Self(file);
        lock.sign("").map_err(unusable)?;
        Ok(lock)
    }

    /// Takes the lock over from a predecessor, who has it still. It is signed when this process serves.
    pub(crate) fn inherit(file: File) -> Self {
        Self(file)
    }

    /// The file, for a successor: it has the lock by it.
    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// Writes down whose lock it is, and why an upgrade was refused, if one was.
    pub(crate) fn sign(&self, refusal: &str) -> io::Result<()> {
        let mut file = &self.0;
        file.rewind()?;
        file.set_len(0)?;
        write!(file, "{}\n{}", std::process::id(), refusal)
    }
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// The process.
    pub(crate) pid: String,
    /// Why it last refused to be replaced; empty if it did not.
    pub(crate) refusal: String,
}

impl Holder {
    /// The tracker that runs in this `state_dir`; `None` if none does.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn in_folder(folder: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(folder.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Self::of(&file).map(Some),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn of(mut file: &File) -> io::Result<Self> {
        let mut text = String::new();
        file.rewind()?;
        file.take(TEXT_MAX).read_to_string(&mut text)?;
        let (pid, refusal) = text.split_once('\n').unwrap_or((text.as_str(), ""));
        Ok(Self { pid: pid.to_owned(), refusal: refusal.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::scratch::Scratch;

    #[test]
    fn a_second_tracker_is_told_who_is_there() {
        let folder = Scratch::new();
        let place = folder.path("");
        assert_eq!(Holder::in_folder(&place).unwrap(), None);
        let lock = StateLock::take(&place).unwrap();
        let error = StateLock::take(&place).unwrap_err().to_string();
        assert!(
            error.ends_with(&format!("used by another hayate, process {}", std::process::id())),
            "{error}"
        );
        lock.sign("no memory").unwrap();
        assert_eq!(Holder::in_folder(&place).unwrap().unwrap().refusal, "no memory");
        let heir = StateLock::inherit(lock.file().try_clone().unwrap());
        drop(lock);
        assert!(StateLock::take(&place).is_err(), "the heir has it");
        drop(heir);
        assert!(StateLock::take(&place).is_ok());
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = StateLock::take(&Scratch::new().path("nowhere")).unwrap_err().to_string();
        assert!(error.contains("nowhere/hayate.lock") && error.contains("set state_dir"), "{error}");
    }
}
