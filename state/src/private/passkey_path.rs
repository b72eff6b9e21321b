//! The path by which users identify themselves, over HTTP and in BEP 41's URL data: `/<passkey>/announce`
//! (`rules/private.md#passkey-path`).

use crate::query;

/// The parts of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasskeyPath<'p> {
    /// The last directory: the passkey. `None` if there is no directory.
    pub passkey: Option<&'p [u8]>,
    /// The part behind the last slash.
    pub leaf: &'p [u8],
}

/// Parses a path without a query. It is decoded once, several slashes count as one, `.` and `..` are
/// resolved. If `buffer` is shorter than the path, the parts are empty.
#[must_use]
pub fn parse_path<'p>(path: &'p [u8], buffer: &'p mut [u8]) -> PasskeyPath<'p> {
    split_path(if is_plain(path) { path } else { resolve_path(path, buffer) })
}

/// Whether there is nothing to decode and nothing to resolve. Then [`parse_path`] needs no buffer.
#[must_use]
pub fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    for &octet in path {
        if octet == b'%' || before == b'/' && (octet == b'/' || octet == b'.') {
            return false;
        }
        before = octet;
    }
    path.first() == Some(&b'/')
}

fn split_path(path: &[u8]) -> PasskeyPath<'_> {
    let slash = |octets: &[u8]| octets.iter().rposition(|&octet| octet == b'/');
    let Some(last) = slash(path) else { return PasskeyPath { passkey: None, leaf: path } };
    let (folder, leaf) = (path.get(..last).unwrap_or_default(), path.get(last + 1..).unwrap_or_default());
    let passkey = slash(folder).and_then(|at| folder.get(at + 1..)).or(Some(folder));
    PasskeyPath { passkey: passkey.filter(|passkey| !passkey.is_empty()), leaf }
}

/// Writes the resolved path to the front of `buffer`, with a slash at the beginning.
fn resolve_path<'b>(path: &[u8], buffer: &'b mut [u8]) -> &'b [u8] {
    let Some(decoded) = decode_percent(path, buffer) else { return &[] };
    // The octets written never outnumber those read so far.
    let (mut read, mut written) = (0, 0);
    while read < decoded {
        let rest = buffer.get(read..decoded).unwrap_or_default();
        let begin = rest.iter().take_while(|&&octet| octet == b'/').count();
        let len = rest.iter().skip(begin).take_while(|&&octet| octet != b'/').count();
        let (from, end) = (read + begin, read + begin + len);
        read = end;
        match buffer.get(from..end).unwrap_or_default() {
            b"." | b".." if end == decoded || from == end => {
                let up = buffer.get(from..end) == Some(b"..");
                written = if up { parent_start(buffer, written) } else { written };
                written = push_octet(buffer, written, b'/');
            }
            b"." => {}
            b".." => written = parent_start(buffer, written),
            segment => {
                let len = segment.len();
                // The slash before the segment was read, unless it is the first segment of a path without a
                // leading slash.
                let to = if written == from { written } else { push_octet(buffer, written, b'/') };
                buffer.copy_within(from..from + len, to);
                written = to + len;
            }
        }
    }
    buffer.get(..written).unwrap_or_default()
}

/// Returns the beginning of the last segment written.
fn parent_start(buffer: &[u8], written: usize) -> usize {
    let path = buffer.get(..written).unwrap_or_default();
    path.iter().rposition(|&octet| octet == b'/').unwrap_or(0)
}

fn push_octet(buffer: &mut [u8], at: usize, octet: u8) -> usize {
    if let Some(slot) = buffer.get_mut(at) {
        *slot = octet;
    }
    at + 1
}

/// Decodes percent-escapes; a `%` without two hexadecimal digits stays. Returns the number of octets.
fn decode_percent(path: &[u8], buffer: &mut [u8]) -> Option<usize> {
    let mut len = 0;
    for octet in query::decoded(path) {
        *buffer.get_mut(len)? = octet;
        len += 1;
    }
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_parts(path: &str) -> (Option<String>, String) {
        let mut buffer = [0; 64];
        let path_parts = parse_path(path.as_bytes(), &mut buffer);
        let text = |octets: &[u8]| octets.escape_ascii().to_string();
        (path_parts.passkey.map(text), text(path_parts.leaf))
    }

    #[test]
    fn the_last_directory_is_the_passkey() {
        for (path, passkey, leaf) in [
            ("/key/announce", Some("key"), "announce"),
            ("/a/b/key/announce", Some("key"), "announce"),
            ("/key/", Some("key"), ""),
            ("/announce", None, "announce"),
            ("/", None, ""),
            ("", None, ""),
            ("key/announce", Some("key"), "announce"),
            ("//key//announce", Some("key"), "announce"),
            ("/%6bey/announc%65", Some("key"), "announce"),
            ("/%ff%00%/announce", Some("\\xff\\x00%"), "announce"),
            ("/a%2fkey%2Fannounce", Some("key"), "announce"),
            ("/x/../key/./announce", Some("key"), "announce"),
            ("/../../key/announce", Some("key"), "announce"),
            ("/key/.", Some("key"), ""),
            ("/key/x/..", Some("key"), ""),
            ("/key/..", None, ""),
            ("/.key/..x/announce", Some("..x"), "announce"),
            ("/k%zzey/announce", Some("k%zzey"), "announce"),
            ("/%2e%2e/key/%2e/announce", Some("key"), "announce"),
            ("//", None, ""),
            ("/key//", Some("key"), ""),
        ] {
            assert_eq!(path_parts(path), (passkey.map(str::to_owned), leaf.to_owned()), "{path}");
        }
    }

    #[test]
    fn a_path_that_is_longer_than_the_buffer_says_nothing() {
        let mut buffer = [0; 7];
        assert_eq!(parse_path(b"/%6bey/announce", &mut buffer), PasskeyPath { passkey: None, leaf: b"" });
    }

    #[test]
    fn whatever_the_octets_nothing_is_written_beyond_what_was_read() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100_000 {
            let letters = b"/.%2fk";
            let path: Vec<u8> =
                (0..random.usize(..24)).map(|_| letters[random.usize(..letters.len())]).collect();
            let mut buffer = [0; 24];
            let path_parts = parse_path(&path, &mut buffer);
            assert!(
                !path_parts.leaf.contains(&b'/') && !path_parts.passkey.unwrap_or_default().contains(&b'/')
            );
            assert!(path_parts.leaf != b".." && path_parts.leaf != b".", "{}", path.escape_ascii());
        }
    }
}
