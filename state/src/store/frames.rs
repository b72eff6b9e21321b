//! The format of the spill files: frames of `u32 length, u32 CRC-32, u64 number, payload`, little-endian; the
//! checksum covers number and payload.
//!
//! A reader that meets anything else looks for the next good frame. The octets in between are damaged: they
//! are skipped and kept aside. If no good frame follows, they were torn by a crash, and the writer cuts them
//! off.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Octets before the payload of a frame.
pub(super) const HEAD_LEN: usize = 16;
/// Longest payload; a head with a greater length is not a frame.
pub(super) const PAYLOAD_MAX: usize = 4096;
/// Shortest payload that is accepted behind damage: more octets than clients choose in a row, so that no
/// client can plant a frame in the rows kept about it.
const PAYLOAD_FOUND: usize = 21;
/// Mode of these files: readable by their owner only, because they say who downloaded what.
pub(super) const FILE_MODE: u32 = 0o600;
const BUFFER: usize = 1 << 18;

/// Reads the frames of a file.
#[derive(Debug)]
pub(super) struct FrameReader {
    from: BufReader<File>,
    /// Offset of the next frame.
    at: u64,
    /// Offset at which reading ends.
    end: u64,
    payload: Vec<u8>,
}

/// The next item of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'f> {
    /// A number and its payload.
    Good(u64, &'f [u8]),
    /// The octets from the first offset to the second are not frames, but good ones follow.
    Damaged(u64, u64),
    /// No good frame follows.
    End,
}

impl FrameReader {
    /// Opens a file to read it from octet `at` to octet `end`.
    ///
    /// # Errors
    /// Fails when the file cannot be opened.
    pub(super) fn open(path: &Path, at: u64, end: u64) -> io::Result<Self> {
        let mut from = BufReader::with_capacity(BUFFER, File::open(path)?);
        from.seek(SeekFrom::Start(at))?;
        Ok(Self { from, at, end, payload: Vec::new() })
    }

    /// Offset of the next frame.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Returns the next frame.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub(super) fn next_frame(&mut self) -> io::Result<Frame<'_>> {
        if let Some(number) = self.read_good()? {
            self.at += (HEAD_LEN + self.payload.len()) as u64;
            return Ok(Frame::Good(number, &self.payload));
        }
        let (from, rest) = (self.at, self.end.saturating_sub(self.at));
        self.from.seek(SeekFrom::Start(from))?;
        let mut octets = Vec::new();
        (&mut self.from).take(rest).read_to_end(&mut octets)?;
        match find_good(&octets) {
            Some(skipped) => {
                self.at = from + skipped as u64;
                self.from.seek(SeekFrom::Start(self.at))?;
                Ok(Frame::Damaged(from, self.at))
            }
            None => Ok(Frame::End),
        }
    }

    /// Fills the payload and returns the number, if a good frame comes next.
    fn read_good(&mut self) -> io::Result<Option<u64>> {
        let mut head = [0; HEAD_LEN];
        if self.at + HEAD_LEN as u64 > self.end || !fill_buffer(&mut self.from, &mut head)? {
            return Ok(None);
        }
        let Some((len, sum, number)) = parse_head(&head) else { return Ok(None) };
        if self.at + (HEAD_LEN + len) as u64 > self.end {
            return Ok(None);
        }
        self.payload.resize(len, 0);
        if !fill_buffer(&mut self.from, &mut self.payload)? || checksum(number, &self.payload) != sum {
            return Ok(None);
        }
        Ok(Some(number))
    }
}

/// Appends a frame, whose payload `write` appends.
///
/// # Errors
/// Fails when `write` does, or when the payload is too long.
pub(super) fn put_frame(
    to: &mut Vec<u8>,
    number: u64,
    write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    let at = to.len();
    to.extend([0; HEAD_LEN]);
    write(to)?;
    let payload = to.get(at + HEAD_LEN..).unwrap_or_default();
    if payload.len() > PAYLOAD_MAX {
        return Err(io::Error::other("a payload is too long for a frame"));
    }
    let word = u64::from(checksum(number, payload)) << 32 | payload.len() as u64;
    if let Some((head, _)) = to.get_mut(at..).and_then(|frame| frame.split_at_mut_checked(HEAD_LEN)) {
        let octets = word.to_le_bytes().into_iter().chain(number.to_le_bytes());
        head.iter_mut().zip(octets).for_each(|(to, from)| *to = from);
    }
    Ok(())
}

/// Copies damaged octets of a file to a file beside it; returns false if that was done before.
pub(super) fn keep_aside(path: &Path, from: u64, to: u64) -> bool {
    let aside = aside_of(path, from);
    let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&aside);
    if file.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
        return false;
    }
    let copied = file.and_then(|mut file| {
        let mut source = File::open(path)?;
        source.seek(SeekFrom::Start(from))?;
        io::copy(&mut source.take(to - from), &mut file)?;
        file.flush()
    });
    let (path, octets) = (path.display(), to - from);
    match copied {
        Ok(()) => log::error!(
            "{path}: {octets} octets at {from} are damaged and left out; they are kept in {}",
            aside.display()
        ),
        Err(error) => log::error!(
            "{path}: {octets} octets at {from} are damaged and left out; they cannot be kept aside: {error}"
        ),
    }
    true
}

/// The error for a complete record that this program does not know.
pub(super) fn newer_error(path: &Path) -> io::Error {
    let text = format!("{}: a record of a newer hayate, which this one cannot read", path.display());
    io::Error::new(io::ErrorKind::Unsupported, text)
}

fn aside_of(path: &Path, from: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("-{from}.damaged"));
    name.into()
}

/// Returns where behind the first octet a good frame begins.
fn find_good(octets: &[u8]) -> Option<usize> {
    (1..octets.len()).find(|&at| {
        let Some((head, rest)) = octets.get(at..).and_then(<[u8]>::split_first_chunk) else { return false };
        let Some((len, sum, number)) = parse_head(head).filter(|(len, ..)| *len >= PAYLOAD_FOUND) else {
            return false;
        };
        rest.get(..len).is_some_and(|payload| checksum(number, payload) == sum)
    })
}

/// Length of the payload, checksum, number.
fn parse_head(head: &[u8; HEAD_LEN]) -> Option<(usize, u32, u64)> {
    let [a, b, c, d, e, f, g, h, number @ ..] = *head;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    let sum = u32::from_le_bytes([e, f, g, h]);
    (len <= PAYLOAD_MAX).then_some((len, sum, u64::from_le_bytes(number)))
}

fn checksum(number: u64, payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&number.to_le_bytes());
    sum.update(payload);
    sum.finalize()
}

/// Returns false if the end comes before the buffer is full.
fn fill_buffer(from: &mut impl Read, octets: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(octets) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        done => done.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload_of(number: u64) -> [u8; 40] {
        [number.to_le_bytes()[0]; 40]
    }

    fn three() -> Vec<u8> {
        let mut octets = Vec::new();
        for number in [7, 11, 13] {
            put_frame(&mut octets, number, |to| {
                to.extend(payload_of(number));
                Ok(())
            })
            .unwrap();
        }
        octets
    }

    /// Returns the numbers of good frames, and what is damaged or torn.
    fn read(octets: &[u8]) -> (Vec<u64>, Vec<(u64, u64)>, u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frames");
        std::fs::write(&path, octets).unwrap();
        let end = octets.len() as u64;
        let mut frames = FrameReader::open(&path, 0, end).unwrap();
        let (mut good, mut damaged) = (Vec::new(), Vec::new());
        loop {
            match frames.next_frame().unwrap() {
                Frame::Good(number, payload) => {
                    assert_eq!(payload, payload_of(number));
                    good.push(number);
                }
                Frame::Damaged(from, to) => damaged.push((from, to)),
                Frame::End => return (good, damaged, end - frames.at()),
            }
        }
    }

    #[test]
    fn any_damaged_octet_costs_one_frame_and_any_cut_only_the_last() {
        let whole = three();
        let len = whole.len() / 3;
        assert_eq!(read(&whole), (vec![7, 11, 13], vec![], 0));
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            let (hit, frame) = (at / len, (at / len * len) as u64);
            let good: Vec<u64> =
                [7, 11, 13].into_iter().enumerate().filter(|(n, _)| *n != hit).map(|(_, n)| n).collect();
            let expected =
                if hit == 2 { (vec![], len as u64) } else { (vec![(frame, frame + len as u64)], 0) };
            assert_eq!(read(&flipped), (good, expected.0, expected.1), "octet {at}");
        }
        for cut in 0..whole.len() {
            let good = [7, 11, 13][..cut / len].to_vec();
            assert_eq!(read(&whole[..cut]), (good, vec![], (cut % len) as u64), "{cut}");
        }
    }

    #[test]
    fn a_frame_that_a_client_could_have_planted_is_not_found_behind_damage() {
        let mut planted = Vec::new();
        put_frame(&mut planted, 9, |to| {
            to.extend([9; PAYLOAD_FOUND - 1]);
            Ok(())
        })
        .unwrap();
        let mut octets = three();
        octets.truncate(octets.len() / 3);
        octets[20] ^= 1;
        octets.extend(planted);
        assert_eq!(read(&octets), (vec![], vec![], octets.len() as u64));
    }
}
