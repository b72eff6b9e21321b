//! Changes to the list of torrents, made both to the list in force and to the list's file, so that they
//! survive a reload and a restart.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hayate_state::admission::access::rewrite_list;
use hayate_state::ids::ID_LEN;
use hayate_state::{InfoHash, Policy};
use parking_lot::{Mutex, MutexGuard};

use super::query::AdminQuery;
use super::{AdminContext, Answer, failure};

/// Longest time that an upgrade waits for a change or a reload of the list: a network disk may hang.
const UPGRADE_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest time that a change of the list waits for another one or a reload.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(30);

/// The file of the list, and the lock on changes of the list.
#[derive(Debug, Default)]
pub(crate) struct AccessListFile {
    change_lock: Mutex<()>,
    /// An upgrade is under way: the new process has read the list or will soon, so no changes are accepted.
    closed: AtomicBool,
    path: Mutex<Option<PathBuf>>,
}

impl AccessListFile {
    /// Sets the file of the list.
    pub(crate) fn set_path(&self, path: Option<PathBuf>) {
        *self.path.lock() = path;
    }

    /// Locks changes of the list. A reload holds this lock from reading the file until the list is
    /// published.
    pub(crate) fn lock_changes(&self) -> MutexGuard<'_, ()> {
        self.change_lock.lock()
    }

    /// Refuses changes of the list from now on: a successor would not know of them. Returns false, and keeps
    /// accepting changes, if a change or reload that is under way takes too long.
    pub(crate) fn close_for_upgrade(&self) -> bool {
        let guard = self.change_lock.try_lock_for(UPGRADE_WAIT_MAX);
        if guard.is_some() {
            self.closed.store(true, Ordering::Relaxed);
        }
        guard.is_some()
    }

    /// Accepts changes of the list again.
    pub(crate) fn reopen(&self) {
        self.closed.store(false, Ordering::Relaxed);
    }

    fn path(&self) -> Option<PathBuf> {
        self.path.lock().clone()
    }
}

impl AdminContext {
    /// Adds torrents to the list if they are to be `listed`, or else removes them: all of them, or none if
    /// the file cannot be written.
    pub(super) fn change_list(&self, query: &AdminQuery, listed: bool, source: &str) -> Answer {
        let info_hashes = match query.info_hashes("info_hash") {
            Ok(info_hashes) => info_hashes,
            Err(text) => return failure(400, text),
        };
        let Some(_guard) = self.access_list.change_lock.try_lock_for(CHANGE_WAIT_MAX) else {
            return failure(503, "a reload or another change is under way; try again");
        };
        if self.access_list.closed.load(Ordering::Relaxed) {
            return failure(503, "an upgrade is under way; try again");
        }
        let policy = self.policy.current();
        let Some(list) = policy.access.list() else {
            return failure(400, "access.mode is off: there is no list");
        };
        let Some(path) = self.access_list.path() else {
            return failure(400, "access.path is empty: there is no file to keep the change in");
        };
        let changed_in_file = match rewrite_list(&path, &info_hashes, listed) {
            Ok(changed) => changed,
            Err(error) => {
                return failure(503, format!("{}: {error}; the list in force is unchanged", path.display()));
            }
        };
        let (list, changed_in_force) = list.with_changes(&info_hashes, listed);
        if changed_in_force.contains(&true) {
            self.policy.change(|policy| Policy { access: policy.access.with_list(list), ..policy.clone() });
        }
        let changed = changed_in_file.iter().zip(&changed_in_force).map(|(file, force)| file | force);
        let outcomes: Vec<_> = info_hashes.into_iter().zip(changed).collect();
        log_change(&outcomes, listed, source);
        let registered = policy.registered.as_deref().filter(|_| !listed);
        let line = |&(info_hash, changed): &(InfoHash, bool)| {
            let registered_note = if registered.is_some_and(|registered| registered.contains(&info_hash)) {
                "; it is still registered in the database"
            } else {
                ""
            };
            match (changed, listed) {
                (true, true) => format!("added: {info_hash}\n"),
                (true, false) => format!("removed: {info_hash}{registered_note}\n"),
                (false, true) => format!("unchanged: {info_hash} is on the list\n"),
                (false, false) => format!("unchanged: {info_hash} is not on the list{registered_note}\n"),
            }
        };
        (200, outcomes.iter().map(line).collect())
    }

    /// Returns the list in force, one torrent a line.
    pub(super) fn show_list(&self) -> Answer {
        let policy = self.policy.current();
        let Some(list) = policy.access.list() else {
            return failure(400, "access.mode is off: there is no list");
        };
        let mut all: Vec<_> = list.iter().collect();
        all.sort_unstable();
        let mut text = String::with_capacity((2 * ID_LEN + 1) * all.len());
        for info_hash in all {
            text += &info_hash.to_string();
            text.push('\n');
        }
        (200, text)
    }
}

fn log_change(outcomes: &[(InfoHash, bool)], listed: bool, source: &str) {
    let changed = outcomes.iter().filter(|(_, changed)| *changed).map(|(info_hash, _)| info_hash.to_string());
    let changed: Vec<_> = changed.collect();
    if !changed.is_empty() {
        let word = if listed { "added" } else { "removed" };
        log::info!("access list by {source}: {word} {}", changed.join(", "));
    }
}
