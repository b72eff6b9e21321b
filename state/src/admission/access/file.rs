//! The file of a list: reading it, and rewriting it as a whole.

use std::collections::HashSet;
use std::fs::File;
use std::hash::RandomState;
use std::io::{self, BufReader, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use super::ListError;
use crate::ids::InfoHash;
use crate::snapshot::container::replace_file;
use crate::text::{self, LinePiece, Lines};

/// Octets of a line that are looked at; the rest of a longer line is part of a comment, or the line is bad.
const LINE_MAX: usize = 4096;
/// Octets of a line with an `info_hash` and nothing else.
const ENTRY_LEN: u64 = 41;
/// Most torrents for which room is reserved at once, whatever the size of the file suggests.
const ROOM_MAX: u64 = 1 << 24;

/// One entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ListEntry {
    info_hash: InfoHash,
    /// Whether it has the 64 digits of v2.
    is_long: bool,
}

/// Returns the `info_hash` in the first word of a text, and what follows that word.
fn parse_first_word(text: &[u8]) -> (Option<ListEntry>, &[u8]) {
    let end = text.iter().position(|octet| b" \t#".contains(octet)).unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end).unwrap_or((text, &[]));
    let found = str::from_utf8(word).ok().and_then(InfoHash::from_hex_digits);
    (found.map(|(info_hash, is_long)| ListEntry { info_hash, is_long }), rest)
}

/// Returns the entry of a line; `None` if the line is empty or a comment. Of two torrents on one line the
/// second would go unnoticed: such a line is bad.
fn parse_line(text: &[u8]) -> Option<Result<ListEntry, ()>> {
    if matches!(text.trim_ascii().first(), None | Some(b'#')) {
        return None;
    }
    let (first, rest) = parse_first_word(text);
    Some(first.filter(|_| parse_first_word(rest.trim_ascii_start()).0.is_none()).ok_or(()))
}

/// The torrents of a file, and the number of entries with the digits of v2.
pub(super) type ListContents = (HashSet<InfoHash, RandomState>, usize);

/// Reads a list.
pub(super) fn read_list(path: &Path) -> Result<ListContents, ListError> {
    let unreadable = |source| ListError::Unreadable { path: path.to_owned(), source };
    let file = text::open_file(path).map_err(unreadable)?;
    let octets = file.metadata().map_err(unreadable)?.len();
    let room = usize::try_from((octets / ENTRY_LEN).min(ROOM_MAX)).unwrap_or(0);
    let mut hashes = HashSet::with_capacity_and_hasher(room, RandomState::new());
    let (mut lines, mut number, mut long) = (list_lines(file), 0, 0);
    while let Some(piece) = lines.next_piece().map_err(unreadable)? {
        if !piece.begins {
            continue;
        }
        number += 1;
        match parse_line(piece.text()) {
            None => {}
            Some(Ok(ListEntry { info_hash, is_long })) => {
                hashes.insert(info_hash);
                long += usize::from(is_long);
            }
            Some(Err(())) => {
                let text = String::from_utf8_lossy(piece.text().trim_ascii_end()).chars().take(60).collect();
                return Err(ListError::BadLine { path: path.to_owned(), line: number, text });
            }
        }
    }
    Ok((hashes, long))
}

/// Adds torrents to the list in a file (`listed`), or removes them from it. Everything else stays, but for
/// comments behind a removed torrent. The file is replaced as a whole, with the same owner and permissions.
/// Returns which of the torrents made a difference.
///
/// # Errors
/// Fails when the file cannot be read or written; the file is unchanged then.
pub fn rewrite_list(path: &Path, info_hashes: &[InfoHash], listed: bool) -> io::Result<Vec<bool>> {
    // The target of a link is replaced, not the link.
    let path = &path.canonicalize()?;
    let wanted: HashSet<InfoHash> = info_hashes.iter().copied().collect();
    let mut there = HashSet::new();
    let mut ends_well = true;
    let mut lines = list_lines(text::open_file(path)?);
    while let Some(piece) = lines.next_piece()? {
        ends_well = piece.ends;
        there.extend(listed_torrent(&piece).filter(|info_hash| wanted.contains(info_hash)));
    }
    let mut changed = Vec::new();
    for info_hash in info_hashes {
        changed.push(if listed { there.insert(*info_hash) } else { there.remove(info_hash) });
    }
    if !changed.contains(&true) {
        return Ok(changed);
    }
    replace_file(path, |to| {
        let known = std::fs::metadata(path)?;
        to.get_ref().set_permissions(known.permissions())?;
        // Only root may give a file to another user. Without that right the file belongs to the tracker's
        // user from now on, and keeps its group if that user is in the group.
        if fchown(to.get_ref(), Some(known.uid()), Some(known.gid())).is_err() {
            let _ = fchown(to.get_ref(), None, Some(known.gid()));
        }
        let (mut lines, mut stays) = (list_lines(text::open_file(path)?), true);
        while let Some(piece) = lines.next_piece()? {
            if piece.begins {
                stays = listed || listed_torrent(&piece).is_none_or(|info_hash| !wanted.contains(&info_hash));
            }
            if stays {
                to.write_all(piece.raw)?;
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

fn list_lines(file: File) -> Lines<BufReader<File>> {
    Lines::new(BufReader::with_capacity(1 << 16, file), LINE_MAX)
}

fn listed_torrent(piece: &LinePiece<'_>) -> Option<InfoHash> {
    let entry = if piece.begins { parse_line(piece.text()) } else { None };
    entry.and_then(Result::ok).map(|entry| entry.info_hash)
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
        let (read, long) = read_list(&path).unwrap();
        assert_eq!((read, long), ([1, 2, 3].map(hash).into_iter().collect(), 0));
    }

    #[test]
    fn a_list_means_the_same_with_every_line_end_and_behind_a_mark() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        for end in ["\n", "\r\n", "\r"] {
            for mark in ["", "\u{feff}"] {
                let lines =
                    [format!("{}", hash(1)), "# two".into(), format!("{} two", hash(2)), String::new()];
                std::fs::write(&path, format!("{mark}{}{}", lines.join(end), hash(3))).unwrap();
                let expected = [1, 2, 3].map(hash).into_iter().collect();
                assert_eq!(read_list(&path).unwrap().0, expected, "{end:?} {mark:?}");
                assert_eq!(rewrite_list(&path, &[hash(1), hash(4)], false).unwrap(), [true, false]);
                assert_eq!(rewrite_list(&path, &[hash(5)], true).unwrap(), [true]);
                assert_eq!(read_list(&path).unwrap().0, [2, 3, 5].map(hash).into_iter().collect(), "{end:?}");
                std::fs::write(&path, [lines[0].as_str(), "x", ""].join(end)).unwrap();
                assert!(matches!(read_list(&path), Err(ListError::BadLine { line: 2, .. })), "{end:?}");
            }
        }
    }

    #[test]
    fn sixty_four_digits_count_by_their_first_forty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        let v2 = format!("{}{}", hash(0xAB), "C".repeat(24));
        std::fs::write(&path, format!("{v2} # v2\n{}\n{v2}", hash(2))).unwrap();
        assert_eq!(read_list(&path).unwrap(), ([0xAB, 2].map(hash).into_iter().collect(), 2));
        assert_eq!(rewrite_list(&path, &[hash(0xAB)], true).unwrap(), [false]);
        assert_eq!(rewrite_list(&path, &[hash(0xAB)], false).unwrap(), [true]);
        assert_eq!(read_list(&path).unwrap(), ([2].map(hash).into_iter().collect(), 0));
    }

    #[test]
    fn a_second_torrent_on_a_line_is_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        for between in [" ", "\t  ", " \t"] {
            std::fs::write(&path, format!("{}{between}{}\n", hash(1), hash(2))).unwrap();
            assert!(matches!(read_list(&path), Err(ListError::BadLine { line: 1, .. })));
        }
        std::fs::write(&path, format!("{} # not {}\n", hash(1), hash(2))).unwrap();
        assert_eq!(read_list(&path).unwrap().0.len(), 1);
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
            let Err(ListError::BadLine { line: found, text, .. }) = read_list(&path) else {
                panic!("it is good")
            };
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
        let changed = rewrite_list(&link, &[hash(0xCC), hash(0xAA), hash(0xCC)], true).unwrap();
        assert_eq!(changed, [true, false, false]);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{before}\n{}\n", hash(0xCC)));
        let changed = rewrite_list(&link, &[hash(0xAA), hash(0xDD)], false).unwrap();
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
        assert!(rewrite_list(&path, &[hash(2)], true).is_err());
        assert_eq!(rewrite_list(&path, &[hash(1)], true).unwrap(), [false], "nothing to write");
        assert_eq!(read_list(&path).unwrap().0.len(), 1);
        assert!(rewrite_list(&folder.path().join("none"), &[hash(2)], true).is_err());
    }
}
