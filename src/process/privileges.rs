//! Becoming another user once the sockets are open.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::O_NONBLOCK;
use nix::unistd::{Gid, Group, Uid, User};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::config::document::Privileges;

/// A user and a group to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    user: Uid,
    group: Gid,
    /// Name of the user, if there is one: its further groups are taken over.
    name: Option<CString>,
}

/// Why a user or group cannot be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("{name:?}: there is no such user; a name or number from /etc/passwd is allowed")]
    UnknownUser { name: String },
    #[error("{name:?}: there is no such group; a name or number from /etc/group is allowed")]
    UnknownGroup { name: String },
    #[error("{name:?}: a number without a name in /etc/passwd needs privileges.group too")]
    GroupNeeded { name: String },
}

impl IdentityError {
    /// Returns the key of the configuration that is wrong.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::UnknownUser { .. } => "privileges.user",
            Self::UnknownGroup { .. } | Self::GroupNeeded { .. } => "privileges.group",
        }
    }
}

/// Why the process could not change its user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DropError {
    #[error("privileges: only root can become user {user}, this process is user {current}")]
    NotRoot { user: Uid, current: Uid },
    #[error("privileges: {step}: {source}")]
    Refused { step: &'static str, source: nix::Error },
    #[error("privileges: the capabilities of later programs cannot be taken away: {source}")]
    NotSealed { source: Errno },
    #[error("privileges: the process could still become root after it dropped them")]
    StillRoot,
}

/// Capabilities that the kernel can have.
const CAPABILITIES_MAX: u32 = 64;

/// Takes from this thread and all that it starts what might restore privileges after they were dropped: the
/// bounding set of capabilities, and the effect of set-user-id programs. The present privileges stay. Does
/// nothing if the process will not become another user.
///
/// # Errors
/// Fails when the system refuses.
pub(crate) fn seal_privileges(names: &Privileges) -> Result<(), DropError> {
    // Errors about the names are reported when the configuration is read.
    let Ok(identity) = Identity::find(&names.user, &names.group) else { return Ok(()) };
    if names.user.is_empty() || identity.is_current() || !Uid::effective().is_root() {
        return Ok(());
    }
    let not_sealed = |source| DropError::NotSealed { source };
    for number in 0..CAPABILITIES_MAX {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // The kernel has no more of them.
            Err(Errno::INVAL) => break,
            other => other.map_err(not_sealed)?,
        }
    }
    set_no_new_privs(true).map_err(not_sealed)
}

impl Identity {
    /// Looks up a user and a group by name or number; an empty group means the user's own.
    ///
    /// # Errors
    /// Fails when there is no such user or group.
    pub(crate) fn find(user: &str, group: &str) -> Result<Self, IdentityError> {
        let no_user = || IdentityError::UnknownUser { name: user.to_owned() };
        let (uid, entry) = match User::from_name(user).ok().flatten() {
            Some(entry) => (entry.uid, Some(entry)),
            None => {
                let uid = Uid::from_raw(user.parse().map_err(|_| no_user())?);
                (uid, User::from_uid(uid).ok().flatten())
            }
        };
        let gid = match (group.is_empty(), &entry) {
            (true, Some(entry)) => entry.gid,
            (true, None) => return Err(IdentityError::GroupNeeded { name: user.to_owned() }),
            (false, _) => find_group(group)?,
        };
        Ok(Self { user: uid, group: gid, name: entry.and_then(|entry| CString::new(entry.name).ok()) })
    }

    /// Whether the process is this user already.
    pub(crate) fn is_current(&self) -> bool {
        Uid::effective() == self.user && Uid::current() == self.user && Gid::effective() == self.group
    }

    /// Becomes the user for good, and proves that there is no way back.
    ///
    /// # Errors
    /// Fails when the system refuses, or the way back is open.
    pub(crate) fn become_user(&self) -> Result<(), DropError> {
        if self.is_current() {
            return Ok(());
        }
        if !Uid::effective().is_root() {
            return Err(DropError::NotRoot { user: self.user, current: Uid::effective() });
        }
        let refused = |step| move |source| DropError::Refused { step, source };
        nix::unistd::setgroups(&self.groups()).map_err(refused("setting the groups"))?;
        nix::unistd::setgid(self.group).map_err(refused("changing the group"))?;
        nix::unistd::setuid(self.user).map_err(refused("changing the user"))?;
        let changed = self.is_current() && Gid::current() == self.group;
        let way_back = !self.user.is_root() && nix::unistd::setuid(Uid::from_raw(0)).is_ok();
        if changed && !way_back { Ok(()) } else { Err(DropError::StillRoot) }
    }

    /// Tries to open files as this user would, in a thread that becomes it for the trial. Returns for each
    /// why that failed. Only root can try.
    ///
    /// # Errors
    /// Fails when the thread cannot be started or cannot become the user.
    pub(crate) fn try_files(&self, files: &[PathBuf]) -> io::Result<Vec<Option<io::Error>>> {
        let become_user = || -> Result<(), Errno> {
            let gid = rustix::process::Gid::from_raw(self.group.as_raw());
            let uid = rustix::process::Uid::from_raw(self.user.as_raw());
            let groups: Vec<_> = self
                .groups()
                .into_iter()
                .map(|group| rustix::process::Gid::from_raw(group.as_raw()))
                .collect();
            set_thread_groups(&groups)?;
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)
        };
        let open = |path: &PathBuf| OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).err();
        std::thread::scope(|scope| {
            let trial = std::thread::Builder::new().name("trial".into()).spawn_scoped(scope, || {
                become_user()?;
                Ok(files.iter().map(open).collect())
            })?;
            trial.join().unwrap_or_else(|_| Err(io::Error::other("the trial has panicked")))
        })
    }

    /// Commands after which the user can read a file, as far as modes tell.
    pub(crate) fn remedy(&self, path: &Path) -> String {
        let mut paths = BTreeSet::new();
        for path in [std::path::absolute(path).ok(), path.canonicalize().ok()].into_iter().flatten() {
            paths.extend(path.ancestors().skip(1).map(Path::to_owned));
        }
        let closed = |path: &PathBuf, bit| path.metadata().is_ok_and(|found| !self.may_access(&found, bit));
        paths.retain(|folder| closed(folder, 1));
        let mut commands: Vec<String> =
            paths.iter().map(|folder| format!("setfacl -m u:{}:x {}", self.user, folder.display())).collect();
        if commands.is_empty() || closed(&path.to_owned(), 4) {
            commands.push(format!("setfacl -m u:{}:r {}", self.user, path.display()));
        }
        commands.join(" && ")
    }

    /// Whether the mode of a file grants the user this bit.
    fn may_access(&self, found: &Metadata, bit: u32) -> bool {
        let shift = if found.uid() == self.user.as_raw() {
            6
        } else if self.groups().iter().any(|group| group.as_raw() == found.gid()) {
            3
        } else {
            0
        };
        found.mode() >> shift & bit != 0
    }

    /// The group itself, and the further groups of a user with a name.
    fn groups(&self) -> Vec<Gid> {
        let further = self.name.as_ref().and_then(|name| nix::unistd::getgrouplist(name, self.group).ok());
        further.unwrap_or_else(|| vec![self.group])
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "user {}, group {}", self.user, self.group)
    }
}

/// Looks up a group by name or number.
///
/// # Errors
/// Fails when there is no such group.
pub(crate) fn find_group(name: &str) -> Result<Gid, IdentityError> {
    let no_group = |_| IdentityError::UnknownGroup { name: name.to_owned() };
    match Group::from_name(name).ok().flatten() {
        Some(entry) => Ok(entry.gid),
        None => name.parse().map(Gid::from_raw).map_err(no_group),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        let root = Identity::find("root", "").unwrap();
        assert_eq!((root.user, root.group), (Uid::from_raw(0), Gid::from_raw(0)));
        let numbers = Identity::find("40007", "40011").unwrap();
        assert_eq!((numbers.user, numbers.group), (Uid::from_raw(40007), Gid::from_raw(40011)));
        assert_eq!(numbers.groups(), [Gid::from_raw(40011)]);
    }

    #[test]
    fn an_unknown_name_is_an_error_with_its_key() {
        for (user, group, key) in [
            ("no-such-user-here", "", "privileges.user"),
            ("root", "no-such-group-here", "privileges.group"),
            ("40007", "", "privileges.group"),
        ] {
            let error = Identity::find(user, group).unwrap_err();
            assert_eq!(error.key(), key);
            assert!(error.to_string().contains("no-such") || error.to_string().contains("40007"), "{error}");
        }
    }

    #[test]
    fn a_file_of_roots_alone_is_found_out_with_the_command_that_opens_it() {
        if !Uid::effective().is_root() {
            println!("skipped: only root can try as another user");
            return;
        }
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        let folder = crate::config::test_folder::TestFolder::new();
        let closed = folder.path("closed");
        std::fs::create_dir(&closed).unwrap();
        let files = [
            folder.write("open.pem", "7"),
            folder.write("key.pem", "11"),
            folder.write("closed/key.pem", "13"),
            folder.path("missing"),
        ];
        mode(&folder.path(""), 0o755);
        mode(&closed, 0o700);
        for (path, bits) in files.iter().zip([0o644, 0o600, 0o644]) {
            mode(path, bits);
        }
        let nobody = Identity::find("65534", "65534").unwrap();
        let kinds: Vec<_> = nobody.try_files(&files).unwrap();
        let kinds: Vec<_> = kinds.iter().map(|error| error.as_ref().map(io::Error::kind)).collect();
        let denied = Some(io::ErrorKind::PermissionDenied);
        assert_eq!(kinds, [None, denied, denied, Some(io::ErrorKind::NotFound)]);
        assert!(std::fs::read(&files[1]).is_ok(), "this thread is still root");
        let [_, key, hidden, _] = &files;
        assert_eq!(nobody.remedy(key), format!("setfacl -m u:65534:r {}", key.display()));
        assert_eq!(nobody.remedy(hidden), format!("setfacl -m u:65534:x {}", closed.display()));
    }

    #[test]
    fn becoming_oneself_is_no_change() {
        let group = Gid::effective();
        let identity = Identity { user: Uid::effective(), group, name: None };
        assert!(identity.is_current());
        identity.become_user().unwrap();
    }
}
