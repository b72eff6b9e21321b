//! Text files that people write: lists, configurations, secrets. Opening one never waits; neither a byte
//! order mark nor the kind of line ends makes a difference.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// The byte order mark with which some editors begin a file (U+FEFF in UTF-8).
pub const BOM: &[u8] = b"\xef\xbb\xbf";

/// Opens a regular file to read it. Pipes, devices and folders are refused: reading them could wait for ever,
/// or never end.
///
/// # Errors
/// Fails when the file cannot be opened, or is not a regular file.
pub fn open_file(path: &Path) -> io::Result<File> {
    // Without the flag the system would wait until a pipe is opened for writing.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    // A socket cannot be opened at all.
    let known = opened.as_ref().map_or_else(|_| path.metadata(), File::metadata);
    let kind = match known.map(|known| known.file_type()) {
        Ok(kind) if kind.is_fifo() => "a pipe",
        Ok(kind) if kind.is_socket() => "a socket",
        Ok(kind) if kind.is_char_device() || kind.is_block_device() => "a device",
        Ok(kind) if kind.is_dir() => "a folder",
        Ok(_) | Err(_) => return opened,
    };
    Err(io::Error::other(format!("this is {kind}, and only a regular file is read")))
}

/// Reads a file of at most `most` octets, as it is.
///
/// # Errors
/// Fails as [`open_file`] does, and when the file is longer.
pub fn read_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    if open_file(path)?.take(most.saturating_add(1)).read_to_end(&mut octets)? as u64 > most {
        return Err(io::Error::other(format!("longer than {most} octets")));
    }
    Ok(octets)
}

/// Returns the text behind the byte order mark, if there is one.
#[must_use]
pub fn without_bom(octets: &[u8]) -> &[u8] {
    octets.strip_prefix(BOM).unwrap_or(octets)
}

/// The lines of a text, whichever ends they have: LF, CR LF, or CR alone.
#[derive(Debug)]
pub struct Lines<R> {
    from: R,
    /// Octets of the longest piece.
    piece_len_max: usize,
    piece: Vec<u8>,
    /// Whether the next piece is the first of its line.
    begins: bool,
}

/// A line with its end, or a part of a line that is longer than a piece may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinePiece<'a> {
    /// The octets as they are in the file.
    pub raw: &'a [u8],
    /// Whether it is the first piece of its line.
    pub begins: bool,
    /// Whether it is the last piece of its line, and the line has an end.
    pub ends: bool,
}

impl LinePiece<'_> {
    /// Returns the text without byte order mark and line end.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        let text = without_bom(self.raw);
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        text.strip_suffix(b"\r").unwrap_or(text)
    }
}

impl<R: BufRead> Lines<R> {
    /// Makes a reader of lines that come in pieces of at most `piece_len_max` octets.
    pub fn new(from: R, piece_len_max: usize) -> Self {
        Self { from, piece_len_max, piece: Vec::new(), begins: true }
    }

    /// Returns the next piece; `None` at the end.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn next_piece(&mut self) -> io::Result<Option<LinePiece<'_>>> {
        self.piece.clear();
        let mut ends = false;
        while !ends && self.piece.len() < self.piece_len_max {
            let buffer = fill_buffer(&mut self.from)?;
            let window = buffer.get(..self.piece_len_max - self.piece.len()).unwrap_or(buffer);
            if window.is_empty() {
                break;
            }
            let at = window.iter().position(|octet| matches!(octet, b'\r' | b'\n'));
            let taken = at.map_or(window.len(), |at| at + 1);
            self.piece.extend_from_slice(window.get(..taken).unwrap_or(window));
            self.from.consume(taken);
            ends = at.is_some();
        }
        if self.piece.ends_with(b"\r") && fill_buffer(&mut self.from)?.starts_with(b"\n") {
            self.piece.push(b'\n');
            self.from.consume(1);
        }
        if self.piece.is_empty() {
            return Ok(None);
        }
        let begins = std::mem::replace(&mut self.begins, ends);
        Ok(Some(LinePiece { raw: &self.piece, begins, ends }))
    }
}

fn fill_buffer(from: &mut impl BufRead) -> io::Result<&[u8]> {
    loop {
        match from.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Called again below: the buffer returned here would be borrowed across the loop.
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    from.fill_buf()
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// Returns the pieces of a text that is read `chunk` octets at a time.
    fn pieces(text: &[u8], most: usize, chunk: usize) -> Vec<(String, bool, bool)> {
        let mut lines = Lines::new(BufReader::with_capacity(chunk, text), most);
        let mut all = Vec::new();
        let mut raw = Vec::new();
        while let Some(piece) = lines.next_piece().unwrap() {
            raw.extend_from_slice(piece.raw);
            all.push((String::from_utf8(piece.text().to_vec()).unwrap(), piece.begins, piece.ends));
        }
        assert_eq!(raw, text, "no octet is missing");
        all
    }

    #[test]
    fn every_kind_of_line_end_ends_one_line() {
        for chunk in 1..9 {
            let found = pieces(b"\xef\xbb\xbfa\rbb\r\nccc\n\r\rd", 100, chunk);
            let texts: Vec<_> = found.iter().map(|(text, ..)| text.as_str()).collect();
            assert_eq!(texts, ["a", "bb", "ccc", "", "", "d"], "{chunk}");
            assert!(found.iter().all(|&(_, begins, _)| begins));
            assert_eq!(found.iter().filter(|&&(.., ends)| ends).count(), 5);
        }
    }

    #[test]
    fn a_long_line_comes_in_pieces() {
        for chunk in 1..9 {
            let found = pieces(b"abcdefg\r\nh", 3, chunk);
            let expected =
                [("abc", true, false), ("def", false, false), ("g", false, true), ("h", true, false)];
            assert_eq!(
                found,
                expected.map(|(text, begins, ends)| (text.to_owned(), begins, ends)),
                "{chunk}"
            );
        }
        assert_eq!(pieces(b"", 3, 8), []);
    }

    #[test]
    fn what_is_not_a_regular_file_is_named_without_waiting_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        for (path, kind) in [
            (pipe, "a pipe"),
            (folder.path().join("socket"), "a socket"),
            (folder.path().to_owned(), "a folder"),
            ("/dev/zero".into(), "a device"),
        ] {
            let error = read_file(&path, 7).unwrap_err().to_string();
            assert!(error.contains(kind), "{error}");
        }
        assert_eq!(open_file(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let path = folder.path().join("file");
        std::fs::write(&path, "1234567").unwrap();
        assert_eq!(read_file(&path, 7).unwrap(), b"1234567");
        assert!(read_file(&path, 6).unwrap_err().to_string().contains("longer than 6"));
    }
}
