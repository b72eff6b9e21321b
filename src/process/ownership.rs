//! Whether this process may use the files in `state_dir`: a first run as root leaves files that the
//! tracker cannot write to when it runs as another user.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Gid, Group, Uid, User, access, getegid, geteuid};

/// Files of hayate in `state_dir` that are read, and replaced as a whole.
const READ: [&str; 2] = ["hayate-cache.bin", "udp.key"];
/// Files that are written into.
const WRITTEN: [&str; 8] = [
    "hayate.lock",
    "hayate.db",
    "hayate.db-wal",
    "hayate.db-shm",
    "hayate.db.lock",
    "hayate-cache.bin.draft",
    "dead-letter.jsonl",
    "spill",
];
/// Most files that an error names.
const NAMED_MAX: usize = 10;

/// A file that this process cannot use, its owner, and how to repair that.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UnusableFiles(String);

/// Checks the folder and every file of hayate in it.
///
/// # Errors
/// Fails when this process may not use some of them as it must.
pub(crate) fn check_ownership(folder: &Path) -> Result<(), UnusableFiles> {
    let refused = |path: &PathBuf, wanted| {
        let way = if path.is_dir() { AccessFlags::X_OK } else { AccessFlags::empty() };
        // A missing file can be made, or the folder refuses.
        matches!(access(path, wanted | way), Err(nix::Error::EACCES | nix::Error::EPERM))
    };
    let both = AccessFlags::R_OK | AccessFlags::W_OK;
    let spill = folder.join("spill");
    // A folder that cannot be listed is refused already.
    let spilled = spill.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let written = WRITTEN.iter().map(|name| folder.join(name)).chain(spilled);
    let mut paths: Vec<_> = std::iter::once(folder.to_owned()).chain(written).collect();
    paths.retain(|path| refused(path, both));
    paths.extend(READ.iter().map(|name| folder.join(name)).filter(|path| refused(path, AccessFlags::R_OK)));
    if paths.is_empty() { Ok(()) } else { Err(UnusableFiles::describe(&paths)) }
}

impl UnusableFiles {
    fn describe(paths: &[PathBuf]) -> Self {
        let shown = |path: &PathBuf| path.display().to_string();
        let known = paths.first().and_then(|path| path.metadata().ok());
        let owner =
            known.as_ref().map_or_else(|| "somebody".into(), |known| user_name(Uid::from_raw(known.uid())));
        let mode = known.map_or(0, |known| known.mode() & 0o777);
        let first = paths.first().map(shown).unwrap_or_default();
        let mut all: Vec<_> = paths.iter().take(NAMED_MAX).map(shown).collect();
        if paths.len() > NAMED_MAX {
            all.push(format!("and {} more", paths.len() - NAMED_MAX));
        }
        let (user, group, all) = (user_name(geteuid()), group_name(getegid()), all.join(" "));
        Self(format!(
            "{first} belongs to {owner} (mode {mode:03o}), and this process, user {user}, may not use it; as \
             root: chown {user}:{group} {all}"
        ))
    }
}

fn user_name(id: Uid) -> String {
    User::from_uid(id).ok().flatten().map_or_else(|| id.to_string(), |user| user.name)
}

fn group_name(id: Gid) -> String {
    Group::from_gid(id).ok().flatten().map_or_else(|| id.to_string(), |group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_folder::TestFolder;

    #[test]
    fn what_may_be_used_is_passed_and_what_is_not_there_is_for_others_to_refuse() {
        let folder = TestFolder::new();
        folder.write("hayate.db", "");
        std::fs::create_dir(folder.path("spill")).unwrap();
        folder.write("spill/users-1.spill", "");
        check_ownership(&folder.path("")).unwrap();
        check_ownership(&folder.path("nowhere")).unwrap();
    }

    #[test]
    fn a_refusal_names_the_file_its_owner_and_the_command() {
        let folder = TestFolder::new();
        let path = folder.write("hayate.lock", "");
        let text = UnusableFiles::describe(&[path.clone(), folder.path("spill")]).to_string();
        let (me, mine) = (user_name(geteuid()), group_name(getegid()));
        assert!(text.starts_with(&format!("{} belongs to {me} (mode 6", path.display())), "{text}");
        let command = format!("as root: chown {me}:{mine} {} ", path.display());
        assert!(text.contains(&command) && text.ends_with("/spill"), "{text}");
    }
}
