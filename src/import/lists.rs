//! Lists of torrents as opentracker, aquatic and chihaya have them, line by line: an `info_hash` in 40
//! hexadecimal digits or, as in magnet links, in 32 of base32, with or without the dashes, quotes and
//! brackets of a YAML list.

use std::io::{self, BufRead, BufReader};
use std::path::Path;

use hayate_state::InfoHash;
use hayate_state::text::{self, Lines};

/// Most bad lines of one file that are reported by number.
const SHOWN_MAX: usize = 20;
/// Longest line that is read, in octets; a longer one is bad.
const LINE_MAX: usize = 64 * 1024;
/// Characters of a bad line that are shown.
const EXCERPT: usize = 60;
/// Characters between the `info_hash`es of one line.
const BETWEEN: [char; 7] = [' ', '\t', ',', '[', ']', '"', '\''];
/// The prefix of the `info_hash` in a magnet link.
const MAGNET: &str = "urn:btih:";

/// All torrents of some lists, sorted.
#[derive(Debug, Default)]
pub(super) struct MergedList {
    hashes: Vec<InfoHash>,
    duplicates: usize,
}

/// What was read from one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FileReport {
    read: usize,
    duplicates: usize,
    bad: usize,
    /// Torrents with the 64 digits of v2.
    long: usize,
    /// Number and text of the first bad lines.
    shown: Vec<(usize, String)>,
    /// The key of the YAML list that began first.
    list: Option<String>,
}

/// The meaning of a line.
#[derive(Debug, PartialEq, Eq)]
enum ListLine {
    /// Its torrents, and how many of them had 64 digits.
    Hashes(Vec<InfoHash>, usize),
    /// Empty, a comment, or the frame of a YAML list.
    Nothing,
    /// The key of a YAML list, and what follows it.
    Key(&'static str, Box<ListLine>),
    Bad,
}

impl MergedList {
    /// Adds the list at `path`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn read_file(&mut self, path: &Path) -> io::Result<FileReport> {
        self.add_lines(BufReader::with_capacity(1 << 16, text::open_file(path)?))
    }

    fn add_lines(&mut self, source: impl BufRead) -> io::Result<FileReport> {
        let (mut part, mut hashes) = (FileReport::default(), Vec::new());
        let (mut lines, mut number) = (Lines::new(source, LINE_MAX), 0);
        while let Some(piece) = lines.next_piece()? {
            if !piece.begins {
                continue;
            }
            number += 1;
            let text = String::from_utf8_lossy(piece.text());
            let is_whole = piece.ends || piece.raw.len() < LINE_MAX;
            let found = if is_whole { parse_line(&text) } else { ListLine::Bad };
            part.add_line(number, &text, found, &mut hashes);
        }
        part.read = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        part.duplicates = part.read - hashes.len();
        let before = self.hashes.len() + hashes.len();
        // Two sorted runs, which a stable sort merges.
        self.hashes.append(&mut hashes);
        self.hashes.sort();
        self.hashes.dedup();
        self.duplicates += before - self.hashes.len();
        Ok(part)
    }

    /// Returns the number of torrents.
    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Returns the number of torrents that another file had too.
    pub(super) fn duplicates(&self) -> usize {
        self.duplicates
    }

    /// Returns the list in the form of `access.path`.
    pub(super) fn to_octets(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.hashes.len() * 41);
        let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + value - 10 };
        for hash in &self.hashes {
            text.extend(hash.0.iter().flat_map(|octet| [digit(octet >> 4), digit(octet & 15)]));
            text.push(b'\n');
        }
        text
    }
}

impl FileReport {
    fn add_line(&mut self, number: usize, text: &str, line: ListLine, hashes: &mut Vec<InfoHash>) {
        match line {
            ListLine::Hashes(found, long) => {
                hashes.extend(found);
                self.long += long;
            }
            ListLine::Nothing => {}
            ListLine::Key(name, rest) => {
                let first = self.list.get_or_insert_with(|| name.to_owned());
                if first != name {
                    let text = format!("{name}: after a {first}, and what follows is merged into it");
                    self.note_bad(number, text);
                }
                self.add_line(number, text, *rest, hashes);
            }
            ListLine::Bad => {
                self.note_bad(number, format!("{:?} is not an info_hash", excerpt(text)));
            }
        }
    }

    fn note_bad(&mut self, number: usize, text: String) {
        self.bad += 1;
        if self.shown.len() < SHOWN_MAX {
            self.shown.push((number, text));
        }
    }

    /// Whether there are bad lines.
    pub(super) fn needs_attention(&self) -> bool {
        self.bad > 0
    }

    /// Returns the report.
    pub(super) fn lines(&self, path: &Path) -> Vec<String> {
        let Self { read, duplicates, bad, shown, long, .. } = self;
        let path = path.display();
        let mut lines: Vec<_> =
            shown.iter().map(|(number, text)| format!("{path}: line {number}: {text}")).collect();
        if *bad > shown.len() {
            lines.push(format!("{path}: and {} more bad lines", bad - shown.len()));
        }
        if *long > 0 {
            lines.push(format!("{path}: {long} of them have 64 digits (v2) and count by their first 40"));
        }
        lines.push(format!("{path}: {read} read, {duplicates} duplicates, {bad} bad lines"));
        lines
    }
}

/// Returns the part of a bad line that is shown. What follows a colon could be a secret, if somebody took a
/// whole configuration for a list.
fn excerpt(line: &str) -> String {
    let shown = line.trim().split_inclusive(':').next().unwrap_or_default();
    shown.chars().take(EXCERPT).collect()
}

fn parse_line(line: &str) -> ListLine {
    let line = line.trim();
    let bare = line.strip_prefix("- ").unwrap_or(line).trim_start();
    if bare.is_empty() || bare.starts_with(['#', ';']) || matches!(line, "-" | "---" | "...") {
        return ListLine::Nothing;
    }
    for key in ["whitelist", "blacklist"] {
        if let Some(rest) = bare.strip_prefix(key).and_then(|rest| rest.trim_start().strip_prefix(':')) {
            return ListLine::Key(key, Box::new(parse_line(rest)));
        }
    }
    if matches!(bare, "options:" | "name: torrent approval" | "prehooks:" | "[" | "]" | "[]") {
        return ListLine::Nothing;
    }
    parse_hashes(bare)
}

/// Returns the `info_hash`es at the beginning of the line.
fn parse_hashes(text: &str) -> ListLine {
    let text = text.split_once(MAGNET).map_or(text, |(_, rest)| rest);
    let begins = text.starts_with('[');
    let (mut found, mut long) = (Vec::new(), 0);
    let mut rest = text.trim_start_matches(BETWEEN);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
        match parse_hash(word) {
            Some((hash, is_long)) => {
                found.push(hash);
                long += usize::from(is_long);
            }
            // Behind its bracket a list has nothing else; elsewhere, also on its further lines, text may
            // follow.
            None if begins && !tail.starts_with('#') => return ListLine::Bad,
            None => break,
        }
        rest = tail.trim_start_matches(BETWEEN);
    }
    if found.is_empty() { ListLine::Bad } else { ListLine::Hashes(found, long) }
}

/// Reads an `info_hash` in hexadecimal digits or base32 (RFC 4648), and whether it is one of v2.
fn parse_hash(word: &str) -> Option<(InfoHash, bool)> {
    if word.len() != 32 {
        return InfoHash::from_hex_digits(word);
    }
    let mut octets = [0; 20];
    let groups = word.as_bytes().chunks_exact(8);
    for (out, group) in octets.chunks_exact_mut(5).zip(groups) {
        let bits = group.iter().try_fold(0_u64, |bits, &digit| Some(bits << 5 | base32_value(digit)?))?;
        out.copy_from_slice(bits.to_be_bytes().get(3..)?);
    }
    Some((InfoHash(octets), false))
}

fn base32_value(digit: u8) -> Option<u64> {
    match digit.to_ascii_uppercase() {
        letter @ b'A'..=b'Z' => Some(u64::from(letter - b'A')),
        number @ b'2'..=b'7' => Some(u64::from(number - b'2') + 26),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0123456789abcdef0123456789abcdef01234567";
    const B: &str = "fedcba9876543210fedcba9876543210fedcba98";

    fn read(text: &[u8]) -> (FileReport, String) {
        let mut union = MergedList::default();
        let part = union.add_lines(text).unwrap();
        (part, String::from_utf8(union.to_octets()).unwrap())
    }

    #[test]
    fn a_list_may_have_several_lines() {
        let (part, text) = read(format!("whitelist: [\n  {B},\n  {A}, {B} ]\n").as_bytes());
        assert_eq!((part.bad, text), (0, format!("{A}\n{B}\n")));
        let (part, text) = read(format!("[\n  {A}, {B}\n]\n").as_bytes());
        assert_eq!((part.bad, text), (0, format!("{A}\n{B}\n")));
    }

    #[test]
    fn every_way_of_writing_a_hash_is_read() {
        let upper = A.to_uppercase();
        for line in [
            A.to_owned(),
            upper.clone(),
            format!("  {A}\t\r"),
            format!("{A} a film, {B}"),
            format!("{A}# a comment"),
            format!("{A}{}", "0".repeat(24)),
            format!("\u{feff}{A}"),
            format!("- {A}"),
            format!("  - \"{upper}\""),
            format!("- '{A}' # a comment"),
            format!("[{A}]"),
            format!("      whitelist: [\"{A}\", '{A}'] # both"),
            format!("magnet:?xt=urn:btih:{A}&dn=x"),
            "AERUKZ4JVPG66AJDIVTYTK6N54ASGRLH".to_owned(),
            "aerukz4jvpg66ajdivtytk6n54asgrlh  text".to_owned(),
        ] {
            let (part, text) = read(line.as_bytes());
            assert_eq!((part.bad, text), (0, format!("{A}\n")), "{line}");
        }
    }

    #[test]
    fn frames_and_comments_are_nothing_and_the_rest_is_bad() {
        let nothing =
            "\n \r\n# x\n; y\n---\nprehooks:\n- name: torrent approval\n  options:\n    blacklist:\n...\n";
        assert_eq!(
            read(nothing.as_bytes()).0.lines(Path::new("f")),
            ["f: 0 read, 0 duplicates, 0 bad lines"]
        );
        let long = format!("{A}0");
        let half = "a".repeat(63);
        for line in ["x", &long, &half, "- 7", "name: jwt", "\u{e9}", "AERUKZ4JVPG66AJDIVTYTK6N54ASGRL1"] {
            assert_eq!(read(line.as_bytes()).0.bad, 1, "{line}");
        }
        assert_eq!(read(b"\xff\xfe\x00\n").0.bad, 1);
        assert_eq!(read(format!("[{A}, x]").as_bytes()).0.bad, 1);
    }

    #[test]
    fn every_line_end_counts_and_digits_of_v2_are_said_once() {
        for end in ["\n", "\r\n", "\r"] {
            let v2 = format!("{B}{}", "0".repeat(24));
            let (part, text) = read(format!("\u{feff}{A}{end}{v2}{end}{v2}").as_bytes());
            assert_eq!((part.read, part.bad, text), (3, 0, format!("{A}\n{B}\n")), "{end:?}");
            let lines = part.lines(Path::new("f")).join("\n");
            assert_eq!(lines.matches("2 of them have 64 digits").count(), 1, "{lines}");
        }
    }

    #[test]
    fn lists_are_merged_sorted_and_counted() {
        let mut union = MergedList::default();
        let first = union.add_lines(format!("{B}\n{A}\n{B}\n").as_bytes()).unwrap();
        let second = union.add_lines(format!("{A}\nnone\n").as_bytes()).unwrap();
        assert_eq!(union.to_octets(), format!("{A}\n{B}\n").as_bytes());
        assert_eq!((union.len(), union.duplicates()), (2, 1));
        assert_eq!(first.lines(Path::new("f")), ["f: 3 read, 1 duplicates, 0 bad lines"]);
        let lines = ["g: line 2: \"none\" is not an info_hash", "g: 1 read, 0 duplicates, 1 bad lines"];
        assert_eq!(second.lines(Path::new("g")), lines);
    }

    /// A list that counts how often it is asked for octets, and how many it shows.
    struct Counted<'t> {
        rest: &'t [u8],
        asked: usize,
        shown: usize,
    }

    impl io::Read for Counted<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            self.asked += 1;
            let count = self.rest.read(to)?;
            self.shown += count;
            Ok(count)
        }
    }

    #[test]
    fn twice_as_many_lines_are_twice_the_work() {
        let line = format!("{A}\n");
        let work = |lines| {
            let text = line.repeat(lines);
            let mut list = Counted { rest: text.as_bytes(), asked: 0, shown: 0 };
            let part = MergedList::default().add_lines(BufReader::with_capacity(1 << 10, &mut list)).unwrap();
            assert_eq!((part.read, part.duplicates, list.shown), (lines, lines - 1, text.len()));
            list.asked
        };
        let (once, twice) = (work(10_000), work(20_000));
        assert!(twice <= 2 * once, "{once}, {twice}");
    }

    #[test]
    fn a_whitelist_and_a_blacklist_in_one_file_are_reported() {
        let part = read(format!("whitelist:\n- {A}\nblacklist: [{B}]\n").as_bytes()).0;
        assert_eq!((part.read, part.bad), (2, 1));
        assert!(part.shown[0].1.contains("blacklist: after a whitelist"), "{part:?}");
    }

    #[test]
    fn a_configuration_taken_for_a_list_shows_no_secret() {
        let part = read(b"  private_key: hunter2\n  broker: \"redis://hunter2@h\"\n").0;
        let lines = part.lines(Path::new("f")).join("\n");
        assert!(lines.contains("line 1: \"private_key:\"") && !lines.contains("hunter2"), "{lines}");
    }

    #[test]
    fn bad_lines_are_bounded_and_a_long_one_is_one() {
        let part = read("x\n".repeat(33).as_bytes()).0;
        let lines = part.lines(Path::new("f"));
        assert_eq!(lines.len(), 22);
        assert_eq!(lines[20], "f: and 13 more bad lines");
        let long = format!("{A} {}\n{B}", "x".repeat(3 * LINE_MAX));
        let (part, text) = read(long.as_bytes());
        assert_eq!((part.bad, text), (1, format!("{B}\n")));
    }
}
