//! The lock on `state_dir`: one tracker at a time writes there.
//!
//! One file, two locks of the kernel:
//! - `flock` belongs to the open file. A successor gets it with the file, so that the folder is never free
//!   while one process takes over from the other.
//! - The record lock (`fcntl`) belongs to the process that serves. It lets the kernel say which process that
//!   is, so that nobody has to trust a number in a file. It is lost as soon as its process closes the file by
//!   any descriptor, so the file is opened once and never duplicated.
//!
//! The file itself holds a record: why the tracker last refused to be replaced.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The name of the file, in `state_dir`.
const FILE: &str = "hayate.lock";
/// Mode of the file: only its owner may open it, and so hold the lock.
const MODE: u32 = 0o600;
/// Length of the record, in octets.
const RECORD_LEN: usize = 512;
/// Longest refusal in the record, in octets.
const REFUSAL_LEN: usize = 440;
/// Most checks of a lock that no serving process holds: it is being handed over, or another process checks
/// whether it is free.
const CHECKS_MAX: u32 = 40;
/// Time between two of these checks.
const CHECK_PAUSE: Duration = Duration::from_millis(50);

/// Why the lock cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("state_dir {} is used by another hayate, {holder}", folder.display())]
    Taken { folder: PathBuf, holder: Holder },
    #[error("{}: {source}; set state_dir to a folder that can be written to", path.display())]
    Unusable { path: PathBuf, source: io::Error },
    #[error(
        "{}: it belongs to user {owner}, and this process is user {user}; run `chown -R {user} {}`",
        path.display(), folder.display()
    )]
    Foreign { path: PathBuf, folder: PathBuf, owner: u32, user: u32 },
}

/// The lock. It is released when the process and its successor, if it has one, have ended.
#[derive(Debug)]
pub(crate) struct StateLock {
    file: File,
    /// The number of the last record.
    number: AtomicU64,
}

impl StateLock {
    /// Takes the lock for this process.
    ///
    /// # Errors
    /// Fails when another tracker holds it, or the file cannot be made.
    pub(crate) fn acquire(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(FILE);
        let unusable = |source| LockError::Unusable { path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        let file =
            file.map_err(|error| foreign_file(folder, &path, &error).unwrap_or_else(|| unusable(error)))?;
        let found = file.metadata().map_err(unusable)?;
        if !found.is_file() {
            return Err(unusable(io::Error::other("it is not a regular file")));
        }
        if found.mode() & 0o777 != MODE {
            // Whoever may read the file may hold a lock on it.
            file.set_permissions(Permissions::from_mode(MODE)).map_err(unusable)?;
        }
        lock_file(&file, folder)?;
        file.set_len(RECORD_LEN as u64).map_err(unusable)?;
        let lock = Self { file, number: AtomicU64::new(0) };
        lock.mark_serving().and_then(|()| lock.record_refusal("")).map_err(unusable)?;
        Ok(lock)
    }

    /// Takes over the lock of a predecessor, which still holds it. [`mark_serving`](Self::mark_serving)
    /// follows when this process serves.
    pub(crate) fn inherit(file: File) -> Self {
        let number = LockRecord::load(&file).map_or(0, |record| record.number);
        Self { file, number: AtomicU64::new(number) }
    }

    /// Returns the file, for a successor: the lock goes with it.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Lets the kernel say that this is the process that serves.
    ///
    /// # Errors
    /// Fails when another process serves, or the system refuses.
    pub(crate) fn mark_serving(&self) -> io::Result<()> {
        self.record_lock(libc::F_WRLCK)
    }

    /// Lets a successor say that it serves.
    ///
    /// # Errors
    /// Fails when the system refuses.
    pub(crate) fn unmark_serving(&self) -> io::Result<()> {
        self.record_lock(libc::F_UNLCK)
    }

    /// Records why an upgrade was refused; empty if none was.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub(crate) fn record_refusal(&self, refusal: &str) -> io::Result<()> {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let record = LockRecord { number, refusal: refusal.to_owned() };
        self.file.write_all_at(&record.octets(), 0)
    }

    fn record_lock(&self, kind: i32) -> io::Result<()> {
        fcntl(&self.file, FcntlArg::F_SETLK(&whole_file(kind)))?;
        Ok(())
    }
}

/// Takes the lock that successors inherit.
fn lock_file(file: &File, folder: &Path) -> Result<(), LockError> {
    let unusable = |source| LockError::Unusable { path: folder.join(FILE), source };
    for check in 1.. {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let holder = Holder::find(file).map_err(unusable)?;
        if holder != Holder::Nobody || check >= CHECKS_MAX {
            return Err(LockError::Taken { folder: folder.to_owned(), holder });
        }
        std::thread::sleep(CHECK_PAUSE);
    }
    Ok(())
}

/// Returns the error for a file that this process may not open because it belongs to another user.
fn foreign_file(folder: &Path, path: &Path, error: &io::Error) -> Option<LockError> {
    if error.kind() != ErrorKind::PermissionDenied {
        return None;
    }
    let owner = std::fs::symlink_metadata(path).ok()?.uid();
    let user = nix::unistd::geteuid().as_raw();
    let (path, folder) = (path.to_owned(), folder.to_owned());
    (owner != user).then_some(LockError::Foreign { path, folder, owner, user })
}

#[expect(clippy::cast_possible_truncation, reason = "constants of the system, made for these fields")]
fn whole_file(kind: i32) -> libc::flock {
    let (l_type, l_whence) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
    libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 }
}

/// The holder of a lock, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// No process serves.
    Nobody,
    /// This process.
    Process(i32),
    /// A process that this one cannot see, for example in another container.
    Hidden,
}

impl Holder {
    fn find(file: &File) -> io::Result<Self> {
        let mut lock = whole_file(libc::F_WRLCK);
        fcntl(file, FcntlArg::F_GETLK(&mut lock))?;
        Ok(match (i32::from(lock.l_type), lock.l_pid) {
            (libc::F_UNLCK, _) => Self::Nobody,
            // Never 0 or below: a signal to that would reach many processes.
            (_, pid) if pid > 0 => Self::Process(pid),
            _ => Self::Hidden,
        })
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Nobody | Self::Hidden => f.write_str("a process that cannot be seen from here"),
        }
    }
}

/// The lock of a tracker, seen from another process.
#[derive(Debug)]
pub(crate) struct LockView(File);

impl LockView {
    /// Opens the lock in a folder. Returns `None` if there never was one.
    ///
    /// # Errors
    /// Fails when the file cannot be opened, or is not one that a tracker makes.
    pub(crate) fn open(folder: &Path) -> io::Result<Option<Self>> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(folder.join(FILE)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(Some(Self(file)))
    }

    /// Returns the tracker that serves, or `None` if none runs. Waits a little while one takes over from
    /// another.
    ///
    /// # Errors
    /// Fails when the system refuses.
    pub(crate) fn holder(&self) -> io::Result<Option<Holder>> {
        for _ in 0..CHECKS_MAX {
            let holder = Holder::find(&self.0)?;
            if holder != Holder::Nobody {
                return Ok(Some(holder));
            }
            match self.0.try_lock_shared() {
                Ok(()) => {
                    self.0.unlock()?;
                    return Ok(None);
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            std::thread::sleep(CHECK_PAUSE);
        }
        Ok(Some(Holder::Hidden))
    }

    /// Asks the process to hand over to a new one, if it is the one that holds the lock.
    ///
    /// # Errors
    /// Fails when the process does not hold the lock any more, or this user may not send it signals.
    pub(crate) fn request_upgrade(&self, pid: i32) -> io::Result<()> {
        let gone = || io::Error::other("it does not hold the lock any more");
        let process = pidfd_open(rustix::process::Pid::from_raw(pid).ok_or_else(gone)?, PidfdFlags::empty())?;
        // The number might belong to another process by now. What the descriptor means does not change: if
        // the lock is still held by that number, it is held by that process.
        if Holder::find(&self.0)? != Holder::Process(pid) {
            return Err(gone());
        }
        Ok(pidfd_send_signal(process, Signal::USR2)?)
    }

    /// Returns the last record of the tracker, or `None` if it cannot be read.
    pub(crate) fn record(&self) -> Option<LockRecord> {
        // It may be half written at this moment.
        (0..CHECKS_MAX).find_map(|_| LockRecord::load(&self.0))
    }
}

/// The record in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockRecord {
    /// Number of the record, one more than that of the record before.
    pub(crate) number: u64,
    /// Why an upgrade was refused; empty if none was.
    pub(crate) refusal: String,
}

impl LockRecord {
    /// Returns the record, always of the same length, with the number at both ends, so that a reader
    /// recognizes one that is half written.
    fn octets(&self) -> Vec<u8> {
        let one_line = self.refusal.replace(['\n', '\r'], " ");
        let refusal = one_line.get(..one_line.floor_char_boundary(REFUSAL_LEN)).unwrap_or_default();
        let head = format!("{}\n{:020}\n{refusal}", std::process::id(), self.number);
        let tail = format!("\n{:020}\n", self.number);
        let mut octets = head.into_bytes();
        octets.resize(RECORD_LEN - tail.len(), b' ');
        octets.extend(tail.as_bytes());
        octets
    }

    fn load(file: &File) -> Option<Self> {
        let mut octets = [0; RECORD_LEN];
        file.read_exact_at(&mut octets, 0).ok()?;
        Self::parse(&octets)
    }

    fn parse(octets: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(octets).ok()?.lines().skip(1);
        let (number, refusal, number_at_end) = (lines.next()?, lines.next()?, lines.next()?);
        let number = (number == number_at_end).then(|| number.parse().ok()).flatten()?;
        Some(Self { number, refusal: refusal.trim_end().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_folder::TestFolder;

    #[test]
    fn a_record_is_read_whole_or_not_at_all() {
        for refusal in ["", "no memory", "two\nlines", &"ä".repeat(400)] {
            let octets = LockRecord { number: 7, refusal: refusal.to_owned() }.octets();
            assert_eq!(octets.len(), RECORD_LEN);
            let read = LockRecord::parse(&octets).unwrap();
            assert_eq!(read.number, 7);
            let expected: String = refusal.replace('\n', " ").chars().take(220).collect();
            assert!(read.refusal.starts_with(&expected), "{read:?}");
            let after = LockRecord { number: 8, refusal: "other".to_owned() }.octets();
            let torn: Vec<u8> = after.iter().take(300).chain(octets.iter().skip(300)).copied().collect();
            assert_eq!(LockRecord::parse(&torn), None);
        }
        assert_eq!(LockRecord::parse(&[b' '; RECORD_LEN]), None);
    }

    #[test]
    fn an_equal_refusal_is_another_record() {
        let folder = TestFolder::new();
        let lock = StateLock::acquire(&folder.path("")).unwrap();
        let view = LockView::open(&folder.path("")).unwrap().unwrap();
        lock.record_refusal("no memory").unwrap();
        let first = view.record().unwrap();
        lock.record_refusal("no memory").unwrap();
        let second = view.record().unwrap();
        assert_eq!((first.refusal.as_str(), second.refusal.as_str()), ("no memory", "no memory"));
        assert!(second.number > first.number);
    }

    #[test]
    fn only_its_owner_may_open_the_lock_also_one_of_an_earlier_version() {
        let folder = TestFolder::new();
        let path = folder.write(FILE, "77\n");
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let lock = StateLock::acquire(&folder.path("")).unwrap();
        assert_eq!(lock.file().metadata().unwrap().mode() & 0o777, 0o600);
        drop(lock);
        std::fs::remove_file(&path).unwrap();
        let lock = StateLock::acquire(&folder.path("")).unwrap();
        assert_eq!(lock.file().metadata().unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_lock_goes_to_a_successor_and_is_free_after_both() {
        let folder = TestFolder::new();
        let place = folder.path("");
        assert!(LockView::open(&place).unwrap().is_none());
        let lock = StateLock::acquire(&place).unwrap();
        let successor = StateLock::inherit(lock.file().try_clone().unwrap());
        drop(lock);
        let reopened = File::open(folder.path(FILE)).unwrap();
        assert!(matches!(reopened.try_lock(), Err(TryLockError::WouldBlock)), "the successor has it");
        drop(successor);
        assert!(StateLock::acquire(&place).is_ok());
    }

    #[test]
    fn neither_a_link_nor_a_pipe_is_taken_for_the_lock() {
        let folder = TestFolder::new();
        let victim = folder.write("victim", "precious");
        std::os::unix::fs::symlink(&victim, folder.path(FILE)).unwrap();
        assert!(StateLock::acquire(&folder.path("")).is_err());
        assert!(LockView::open(&folder.path("")).is_err());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        std::fs::remove_file(folder.path(FILE)).unwrap();
        nix::unistd::mkfifo(&folder.path(FILE), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let error = StateLock::acquire(&folder.path("")).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
        assert!(LockView::open(&folder.path("")).is_err());
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = StateLock::acquire(&TestFolder::new().path("nowhere")).unwrap_err().to_string();
        assert!(error.contains("nowhere/hayate.lock") && error.contains("set state_dir"), "{error}");
    }
}
