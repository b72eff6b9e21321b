//! Files of torrents that may, or must not, be announced.

use std::path::{Path, PathBuf};

use hayate_state::admission::access::{ListError, TorrentList};

use crate::test_tracker::info_hash;

fn read_list(name: &str, octets: &[u8]) -> Result<TorrentList, ListError> {
    let path: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, octets).unwrap();
    let list = TorrentList::read_file(&path);
    std::fs::remove_file(&path).unwrap();
    list
}

#[test]
fn comments_empty_lines_and_line_ends_do_not_matter() {
    let [one, two, three] = [1, 2, 3].map(|torrent| info_hash(torrent).to_string());
    let text =
        format!("# torrents\n\n{one}\r\n{}# a name\n  \n  # more\n{three} a name\n{one}", two.to_uppercase());
    let list = read_list("good-list", text.as_bytes()).unwrap();
    assert_eq!(list.len(), 3);
    assert!(
        [1, 2, 3].iter().all(|&torrent| list.contains(&info_hash(torrent))) && !list.contains(&info_hash(4))
    );
    assert!(read_list("empty-list", b"").unwrap().is_empty());
}

#[test]
fn a_line_that_is_no_torrent_is_named_and_nothing_is_read() {
    let good = info_hash(1).to_string();
    for bad in
        ["x", &good[1..], &format!("{good}0"), &format!(" {good}"), "-", &"g".repeat(40), &"é".repeat(99)]
    {
        let error = read_list(&format!("bad-list-{}", bad.len()), format!("{good}\n\n{bad}\n").as_bytes())
            .unwrap_err();
        assert!(
            matches!(&error, ListError::BadLine { line: 3, text, .. } if text.chars().count() <= 60),
            "{error}"
        );
        assert!(error.to_string().contains("line 3"), "{error}");
    }
    assert!(matches!(read_list("no-text", &[0xff, 0xfe, b'\n']), Err(ListError::BadLine { line: 1, .. })));
    let nowhere = TorrentList::read_file(Path::new("/nowhere/list")).unwrap_err();
    assert!(nowhere.to_string().starts_with("/nowhere/list: "), "{nowhere}");
}
