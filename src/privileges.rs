//! Who the process is: another user once its sockets are open.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};

/// A user and a group to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    user: Uid,
    group: Gid,
    /// Name of the user, where the number has one: its further groups are taken over.
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
    /// The key of the configuration that is wrong.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::UnknownUser { .. } => "privileges.user",
            Self::UnknownGroup { .. } | Self::GroupNeeded { .. } => "privileges.group",
        }
    }
}

/// Why the process could not change.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DropError {
    #[error("privileges: only root can become user {user}, this process is user {current}")]
    NotRoot { user: Uid, current: Uid },
    #[error("privileges: {step}: {source}")]
    Refused { step: &'static str, source: nix::Error },
    #[error("privileges: giving {} to the user: {source}", path.display())]
    NotGiven { path: PathBuf, source: nix::Error },
    #[error("privileges: the process could still become root after it dropped them")]
    StillRoot,
}

impl Identity {
    /// Looks up a user and a group by name or number; an empty group means the user's own.
    ///
    /// # Errors
    /// When there is no such user or group.
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

    /// Makes the identity the owner of a file or socket that the process keeps.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn own(&self, path: &Path) -> Result<(), DropError> {
        nix::unistd::chown(path, Some(self.user), Some(self.group))
            .map_err(|source| DropError::NotGiven { path: path.to_owned(), source })
    }

    /// Is the process this user already?
    pub(crate) fn is_current(&self) -> bool {
        Uid::effective() == self.user && Uid::current() == self.user && Gid::effective() == self.group
    }

    /// Becomes the user for good, and proves that there is no way back.
    ///
    /// # Errors
    /// When the system refuses, or the way back is open.
    pub(crate) fn assume(&self) -> Result<(), DropError> {
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

fn find_group(name: &str) -> Result<Gid, IdentityError> {
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
    fn becoming_oneself_is_no_change() {
        let group = Gid::effective();
        let identity = Identity { user: Uid::effective(), group, name: None };
        assert!(identity.is_current());
        identity.assume().unwrap();
    }
}
