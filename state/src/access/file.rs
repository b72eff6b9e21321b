//! The file of a list: reading it, and changing it as a whole.

use std::collections::HashSet;
use std::fs::File;
use std::hash::RandomState;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use super::ListError;
use crate::ids::InfoHash;
use crate::snapshot::container::replace;

/// Octets of a line that are looked at; the rest of a longer one is a comment, or it is no good line.
const LINE_MAX: u64 = 4096;
/// Octets of a line that is nothing but an `info_hash`.
const LINE: u64 = 41;
/// Torrents there is room for at once, at most, whatever the size of the file makes believe.
const ROOM_MAX: u64 = 1 << 24;

/// A line, or a part of one that is longer than [`LINE_MAX`].
struct Pieces<R> {
    from: R,
    piece: Vec<u8>,
    /// The next piece is the first of its line.
    begins: bool,
}

impl<R: BufRead> Pieces<R> {
    fn new(from: R) -> Self {
        Self { from, piece: Vec::new(), begins: true }
    }

    /// The next piece with its line end, and whether its line begins with it.
    fn next(&mut self) -> io::Result<Option<(&[u8], bool)>> {
        self.piece.clear();
        if (&mut self.from).take(LINE_MAX).read_until(b'\n', &mut self.piece)? == 0 {
            return Ok(None);
        }
        let begins = std::mem::replace(&mut self.begins, self.piece.ends_with(b"\n"));
        Ok(Some((&self.piece, begins)))
    }
}

/// What a line says; `None` if it is empty or a comment.
fn entry(line: &[u8]) -> Option<Result<InfoHash, ()>> {
    let line = line.trim_ascii_end();
    let word = line.split(|octet| b" \t#\r".contains(octet)).next().unwrap_or_default();
    if word.is_empty() && matches!(line.trim_ascii_start().first(), None | Some(b'#')) {
        return None;
    }
    Some(str::from_utf8(word).ok().and_then(|word| word.parse().ok()).ok_or(()))
}

/// Reads a list.
pub(super) fn read(path: &Path) -> Result<HashSet<InfoHash, RandomState>, ListError> {
    let unreadable = |source| ListError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let octets = file.metadata().map_err(unreadable)?.len();
    let room = usize::try_from((octets / LINE).min(ROOM_MAX)).unwrap_or(0);
    let mut hashes = HashSet::with_capacity_and_hasher(room, RandomState::new());
    let (mut pieces, mut number) = (Pieces::new(BufReader::with_capacity(1 << 16, file)), 0);
    while let Some((line, begins)) = pieces.next().map_err(unreadable)? {
        if !begins {
            continue;
        }
        number += 1;
        match entry(line) {
            None => {}
            Some(Ok(info_hash)) => _ = hashes.insert(info_hash),
            Some(Err(())) => {
                let text = String::from_utf8_lossy(line.trim_ascii_end()).chars().take(60).collect();
                return Err(ListError::BadLine { path: path.to_owned(), line: number, text });
            }
        }
    }
    Ok(hashes)
}

/// Puts torrents on the list in a file, or takes them off it. Comments and everything else stay, except for
/// what stands behind a torrent that is taken off. The file is replaced as a whole; who owns it and who may
/// read it stays. Gives which of the torrents made a difference.
///
/// # Errors
/// Those of the disk; then the file is as it was.
pub fn rewrite(path: &Path, info_hashes: &[InfoHash], listed: bool) -> io::Result<Vec<bool>> {
    // What a link points to is replaced, not the link.
    let path = &path.canonicalize()?;
    let wanted: HashSet<InfoHash> = info_hashes.iter().copied().collect();
    let mut there = HashSet::new();
    let mut ends_well = true;
    let mut pieces = open(path)?;
    while let Some((line, begins)) = pieces.next()? {
        ends_well = line.ends_with(b"\n");
        there.extend(said(line, begins).filter(|info_hash| wanted.contains(info_hash)));
    }
    let mut changed = Vec::new();
    for info_hash in info_hashes {
        changed.push(if listed { there.insert(*info_hash) } else { there.remove(info_hash) });
    }
    if !changed.contains(&true) {
        return Ok(changed);
    }
    replace(path, |to| {
        let known = std::fs::metadata(path)?;
        to.get_ref().set_permissions(known.permissions())?;
        // Only root may give it to somebody else; then it is ours now, and of the same group if we are in
        // that.
        if fchown(to.get_ref(), Some(known.uid()), Some(known.gid())).is_err() {
            let _ = fchown(to.get_ref(), None, Some(known.gid()));
        }
        let (mut pieces, mut stays) = (open(path)?, true);
        while let Some((line, begins)) = pieces.next()? {
            if begins {
                stays = listed || said(line, begins).is_none_or(|info_hash| !wanted.contains(&info_hash));
            }
            if stays {
                to.write_all(line)?;
            }
        }
        if !listed {
            return Ok(());
        }
        if !ends_well {
            to.write_all(b"\n")?;
        }
        let added = info_hashes.iter().zip(&changed).filter(|&(_, &changed)| changed);
        added.into_iter().try_for_each(|(info_hash, _)| writeln!(to, "{info_hash}"))
    })?;
    Ok(changed)
}

fn open(path: &Path) -> io::Result<Pieces<BufReader<File>>> {
    Ok(Pieces::new(BufReader::with_capacity(1 << 16, File::open(path)?)))
}

fn said(line: &[u8], begins: bool) -> Option<InfoHash> {
    if begins { entry(line).and_then(Result::ok) } else { None }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn hash(letter: u8) -> InfoHash {
        InfoHash([letter; 20])
    }

    #[test]
    fn comments_blanks_and_long_lines_are_read_past() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        let long = "x".repeat(10_000);
        let text = format!("# {long}\n\n   \n{}\r\n{} {long}\n{}#b\n  # \u{e9}", hash(1), hash(2), hash(3));
        std::fs::write(&path, text).unwrap();
        let read = read(&path).unwrap();
        assert_eq!(read, [1, 2, 3].map(hash).into_iter().collect());
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        for (text, line) in [
            (format!("#\n{}\nxyz\n", hash(1)), 3),
            (format!(" {}", hash(1)), 1),
            (format!("# {}\n{}", "x".repeat(9000), "y".repeat(9000)), 2),
        ] {
            std::fs::write(&path, text).unwrap();
            let Err(ListError::BadLine { line: found, text, .. }) = read(&path) else { panic!("it is good") };
            assert_eq!(found, line);
            assert!(text.chars().count() <= 60);
        }
    }

    #[test]
    fn a_file_is_changed_and_its_comments_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let before = format!("# mine\n{} # one\n{}", hash(0xAA), hash(0xBB));
        std::fs::write(&path, &before).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let changed = rewrite(&link, &[hash(0xCC), hash(0xAA), hash(0xCC)], true).unwrap();
        assert_eq!(changed, [true, false, false]);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{before}\n{}\n", hash(0xCC)));
        let changed = rewrite(&link, &[hash(0xAA), hash(0xDD)], false).unwrap();
        assert_eq!(changed, [true, false]);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("# mine\n{}\n{}\n", hash(0xBB), hash(0xCC)));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn where_no_file_can_be_made_the_old_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        std::fs::write(&path, format!("{}\n", hash(1))).unwrap();
        std::fs::create_dir(folder.path().join("list.draft")).unwrap();
        assert!(rewrite(&path, &[hash(2)], true).is_err());
        assert_eq!(rewrite(&path, &[hash(1)], true).unwrap(), [false], "nothing to write");
        assert_eq!(read(&path).unwrap().len(), 1);
        assert!(rewrite(&folder.path().join("none"), &[hash(2)], true).is_err());
    }
}
