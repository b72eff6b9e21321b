//! The options behind an announce (BEP 41): end, no operation, and the path of the announce URL in pieces.

const END: u8 = 0;
const NOP: u8 = 1;
const URL_DATA: u8 = 2;

/// The pieces of URLData among some options, in order. Unknown options are skipped by their length.
///
/// A length that runs past the datagram, or a type without a length, ends the options: see
/// [`overrun`](Self::overrun).
#[derive(Clone, Copy, Debug)]
pub struct Options<'p> {
    rest: &'p [u8],
    overrun: bool,
}

impl<'p> Options<'p> {
    /// Makes an iterator over the options in `octets`: all that follows the fixed part of an announce.
    #[must_use]
    pub fn new(octets: &'p [u8]) -> Self {
        Self { rest: octets, overrun: false }
    }

    /// Whether an option has run past the end of the datagram: what was read before it counts, but a path
    /// that must be whole is not.
    #[must_use]
    pub fn overrun(&self) -> bool {
        self.overrun
    }

    /// Joins all pieces of URLData in `buffer`, as far as they fit; a datagram never holds more than its own
    /// length. `None` if there is no URLData.
    #[must_use]
    pub fn join(mut self, buffer: &mut [u8]) -> Option<JoinedUrl<'_>> {
        let (mut used, mut pieces, mut cut) = (0, 0_usize, false);
        for piece in &mut self {
            pieces += 1;
            let free = buffer.get_mut(used..).unwrap_or_default();
            let len = piece.len().min(free.len());
            if let (Some(to), Some(from)) = (free.get_mut(..len), piece.get(..len)) {
                to.copy_from_slice(from);
            }
            used += len;
            cut |= len < piece.len();
        }
        let whole = !cut && !self.overrun;
        (pieces > 0).then(|| JoinedUrl { octets: buffer.get(..used).unwrap_or_default(), whole })
    }
}

/// All URLData of one announce, joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinedUrl<'b> {
    /// The path and query of the announce URL, as the client sent them: not decoded, perhaps empty.
    pub octets: &'b [u8],
    /// Whether it is whole: false where an option ran past the datagram, or the buffer was too small.
    pub whole: bool,
}

impl<'p> Iterator for Options<'p> {
    type Item = &'p [u8];

    fn next(&mut self) -> Option<&'p [u8]> {
        // Every round takes at least one octet away, so the datagram's length bounds the loop.
        loop {
            match *self.rest {
                [] => return None,
                [END, ..] => {
                    self.rest = &[];
                    return None;
                }
                [NOP, ref rest @ ..] => self.rest = rest,
                [kind, len, ref rest @ ..] if usize::from(len) <= rest.len() => {
                    let (data, rest) = rest.split_at(usize::from(len));
                    self.rest = rest;
                    if kind == URL_DATA {
                        return Some(data);
                    }
                }
                [_, ..] => {
                    self.rest = &[];
                    self.overrun = true;
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the joined URL and whether it is whole.
    fn joined(octets: &[u8]) -> Option<(String, bool)> {
        let mut buffer = [0; 64];
        let url = Options::new(octets).join(&mut buffer)?;
        Some((String::from_utf8(url.octets.to_vec()).unwrap(), url.whole))
    }

    fn url(text: &str, whole: bool) -> Option<(String, bool)> {
        Some((text.to_owned(), whole))
    }

    #[test]
    fn url_data_is_joined_and_all_else_is_skipped() {
        assert_eq!(joined(b""), None);
        assert_eq!(joined(b"\0\0"), None, "aria2 pads its announces with two zeros");
        assert_eq!(joined(b"\x02\x05/?a=b"), url("/?a=b", true));
        assert_eq!(joined(b"\x02\x00"), url("", true));
        assert_eq!(joined(b"\x02\x02/?\x02\x03a=b"), url("/?a=b", true));
        assert_eq!(joined(b"\x01\x00\x02"), None, "what follows the end is not read");
        assert_eq!(joined(b"\x07\x02\xff\xff\x02\x05/?a=b"), url("/?a=b", true));
        assert_eq!(joined(b"\x07\x09\x00"), None);
        assert_eq!(joined(b"\x02\x12/announce?auth=xyz"), url("/announce?auth=xyz", true));
    }

    #[test]
    fn an_overrun_ends_the_options_and_what_was_whole_stands() {
        assert_eq!(joined(b"\x02"), None);
        assert_eq!(joined(b"\x02\x01"), None);
        assert_eq!(joined(b"\x02\x02/a\x02\x09b"), url("/a", false));
        assert_eq!(joined(b"\x02\x02/a\x05"), url("/a", false));
        let mut options = Options::new(b"\x02\x02/a\x02\x09b");
        assert_eq!(options.next(), Some(&b"/a"[..]));
        assert!(!options.overrun());
        assert_eq!(options.next(), None);
        assert!(options.overrun());
    }

    #[test]
    fn a_url_longer_than_the_buffer_is_cut_and_not_whole() {
        let mut octets = vec![2, 60];
        octets.extend_from_slice(&[b'a'; 60]);
        octets.extend_from_slice(&[2, 7]);
        octets.extend_from_slice(&[b'b'; 7]);
        assert_eq!(joined(&octets), url(&("a".repeat(60) + "bbbb"), false));
    }

    #[test]
    fn a_thousand_no_operations_are_nothing() {
        assert_eq!(joined(&[1; 1000]), None);
    }
}
