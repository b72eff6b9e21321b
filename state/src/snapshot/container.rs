//! The file format of snapshots, whatever their contents: a head, blocks with a tag, and an end with the
//! number of blocks. Every block carries a checksum over the file up to there, so that a flipped bit, a
//! missing or doubled block and a torn end are all noticed.
//!
//! ```text
//! head   "hayate\0\x01"  u32 format version  i64 written at, Unix seconds
//! block  u8 tag, not 0   u32 length  payload  u32 CRC-32 of everything before it
//! end    u8 0            u32 8       u64 blocks              u32 CRC-32
//! ```
//! All numbers are little-endian.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crc32fast::Hasher;

/// The version that is written, and the only one that can be read.
pub const VERSION: u32 = 1;
/// Longest payload of a block, in octets.
pub const BLOCK_MAX: usize = 4 << 20;
const MAGIC: [u8; 8] = *b"hayate\0\x01";
const END_TAG: u8 = 0;
/// Mode of a snapshot: readable by its owner only, because in mode private it holds passkeys.
const FILE_MODE: u32 = 0o600;

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not begin like a snapshot.
    #[error("this is not a snapshot of hayate")]
    Magic,
    /// It was written by another version.
    #[error("snapshot format {found}; this program reads format {VERSION}")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// A checksum does not match, a length is too large, or it ends too early or too late.
    #[error("damaged: {0}")]
    Damaged(&'static str),
}

/// Writes a snapshot, block by block.
#[derive(Debug)]
pub struct SnapshotWriter<W: Write> {
    to: W,
    checksum: Hasher,
    blocks: u64,
}

/// A destination for blocks: a file, or a connection to a successor.
pub trait BlockSink {
    /// Writes one block.
    ///
    /// # Errors
    /// Fails as [`SnapshotWriter::write_block`] does.
    fn write_block(&mut self, tag: u8, payload: &[u8]) -> io::Result<()>;
}

impl<W: Write> BlockSink for SnapshotWriter<W> {
    fn write_block(&mut self, tag: u8, payload: &[u8]) -> io::Result<()> {
        SnapshotWriter::write_block(self, tag, payload)
    }
}

impl<W: Write> SnapshotWriter<W> {
    /// Writes the head.
    ///
    /// # Errors
    /// Fails when `to` does.
    pub fn new(to: W, written_at: i64) -> io::Result<Self> {
        let mut writer = Self { to, checksum: Hasher::new(), blocks: 0 };
        writer.write_checked(&MAGIC)?;
        writer.write_checked(&VERSION.to_le_bytes())?;
        writer.write_checked(&written_at.to_le_bytes())?;
        Ok(writer)
    }

    /// Writes one block.
    ///
    /// # Errors
    /// Fails when the destination does, when `tag` is 0, or when the payload is longer than [`BLOCK_MAX`].
    pub fn write_block(&mut self, tag: u8, payload: &[u8]) -> io::Result<()> {
        if tag == END_TAG || payload.len() > BLOCK_MAX {
            return Err(io::Error::other("a block with a bad tag or length"));
        }
        self.blocks += 1;
        self.write_raw_block(tag, payload)
    }

    /// Flushes what was written so far to the destination.
    ///
    /// # Errors
    /// Fails when the destination does.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// The destination of the blocks.
    pub fn get_ref(&self) -> &W {
        &self.to
    }

    /// Writes the end; without it the snapshot counts as damaged.
    ///
    /// # Errors
    /// Fails when the destination does.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_raw_block(END_TAG, &self.blocks.to_le_bytes())?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn write_raw_block(&mut self, tag: u8, payload: &[u8]) -> io::Result<()> {
        let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
        self.write_checked(&[tag])?;
        self.write_checked(&len.to_le_bytes())?;
        self.write_checked(payload)?;
        let sum = self.checksum.clone().finalize();
        self.write_checked(&sum.to_le_bytes())
    }

    fn write_checked(&mut self, octets: &[u8]) -> io::Result<()> {
        self.checksum.update(octets);
        self.to.write_all(octets)
    }
}

/// Reads a snapshot, block by block.
#[derive(Debug)]
pub struct SnapshotReader<R: Read> {
    from: R,
    checksum: Hasher,
    written_at: i64,
    blocks: u64,
    payload: Vec<u8>,
    /// Whether the end was read.
    done: bool,
}

impl SnapshotReader<BufReader<File>> {
    /// Opens a file after verifying every checksum in it, so that what is read later is good.
    ///
    /// # Errors
    /// Fails when the file is missing, or not a good snapshot.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        Self::open_checked(path, |_, _| Ok(()))
    }

    /// Like [`open`](Self::open), and calls `check` with the tag and payload of every block first.
    ///
    /// # Errors
    /// Fails when the file is missing or not a good snapshot, and when `check` fails.
    pub fn open_checked(
        path: &Path,
        mut check: impl FnMut(u8, &[u8]) -> Result<(), SnapshotError>,
    ) -> Result<Self, SnapshotError> {
        let mut reader = Self::new(BufReader::with_capacity(1 << 18, File::open(path)?))?;
        while let Some((tag, payload)) = reader.next_block()? {
            check(tag, payload)?;
        }
        if reader.from.read(&mut [0])? != 0 {
            return Err(SnapshotError::Damaged("something follows the end"));
        }
        Self::new(BufReader::with_capacity(1 << 18, File::open(path)?))
    }
}

impl<R: Read> SnapshotReader<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// Fails when it cannot be read, or is not that of a snapshot of this version.
    pub fn new(from: R) -> Result<Self, SnapshotError> {
        let mut reader = Self {
            from,
            checksum: Hasher::new(),
            written_at: 0,
            blocks: 0,
            payload: Vec::new(),
            done: false,
        };
        if reader
            .read_array::<8>()
            .map_err(|error| if is_short(&error) { SnapshotError::Magic } else { error })?
            != MAGIC
        {
            return Err(SnapshotError::Magic);
        }
        let found = u32::from_le_bytes(reader.read_array()?);
        if found != VERSION {
            return Err(SnapshotError::Version { found });
        }
        reader.written_at = i64::from_le_bytes(reader.read_array()?);
        Ok(reader)
    }

    /// When the snapshot was written, in Unix seconds.
    #[must_use]
    pub fn written_at(&self) -> i64 {
        self.written_at
    }

    /// Returns the next block, its tag and its payload; `None` after the last.
    ///
    /// # Errors
    /// Fails when it cannot be read or is damaged.
    pub fn next_block(&mut self) -> Result<Option<(u8, &[u8])>, SnapshotError> {
        if self.done {
            return Ok(None);
        }
        let [tag] = self.read_array()?;
        let len = u32::from_le_bytes(self.read_array()?) as usize;
        if len > BLOCK_MAX {
            return Err(SnapshotError::Damaged("a block is too long"));
        }
        self.payload.clear();
        // Only as many as are there, so that a wrong length takes no memory.
        (&mut self.from).take(len as u64).read_to_end(&mut self.payload)?;
        if self.payload.len() < len {
            return Err(SnapshotError::Damaged(SHORT));
        }
        self.checksum.update(&self.payload);
        let expected = self.checksum.clone().finalize();
        if u32::from_le_bytes(self.read_array()?) != expected {
            return Err(SnapshotError::Damaged("a checksum does not fit"));
        }
        if tag == END_TAG {
            self.done = true;
            let count = <[u8; 8]>::try_from(self.payload.as_slice()).map(u64::from_le_bytes);
            return match count {
                Ok(count) if count == self.blocks => Ok(None),
                _ => Err(SnapshotError::Damaged("blocks are missing")),
            };
        }
        self.blocks += 1;
        Ok(Some((tag, &self.payload)))
    }

    /// The source of the blocks.
    pub fn get_ref(&self) -> &R {
        &self.from
    }

    /// Returns the source of the blocks.
    pub fn into_inner(self) -> R {
        self.from
    }

    fn read_array<const LEN: usize>(&mut self) -> Result<[u8; LEN], SnapshotError> {
        let mut octets = [0; LEN];
        self.from.read_exact(&mut octets).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => SnapshotError::Damaged(SHORT),
            _ => SnapshotError::Io(error),
        })?;
        self.checksum.update(&octets);
        Ok(octets)
    }
}

const SHORT: &str = "it ends too early";

fn is_short(error: &SnapshotError) -> bool {
    matches!(error, SnapshotError::Damaged(SHORT))
}

/// Writes a file beside `path`, and moves it to `path` when it is completely on the disk: readers find the
/// old file or the new one, even after a crash.
///
/// # Errors
/// Fails when `write` or the disk does; then `path` is unchanged, and nothing is left beside it. If the disk
/// only fails to persist the new name, `path` is the new file, and a loss of power may bring the old one
/// back.
pub fn replace_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let draft = draft_path(path);
    let written = write_draft(&draft, write).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // It may never have been created; the next one replaces it anyway.
        let _ = fs::remove_file(&draft);
    }
    written?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn draft_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".draft");
    name.into()
}

fn write_draft(draft: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(draft)?;
    let mut to = BufWriter::with_capacity(1 << 18, file);
    write(&mut to)?;
    to.flush()?;
    to.get_ref().sync_all()
}

/// Renames a damaged file to `*.bad`; returns the new name.
///
/// # Errors
/// Fails when the disk does.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(".bad");
    let aside = PathBuf::from(name);
    fs::rename(path, &aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut writer = SnapshotWriter::new(Vec::new(), 1_700_000_000).unwrap();
        writer.write_block(7, b"first").unwrap();
        writer.write_block(11, b"").unwrap();
        writer.write_block(7, &[13; 300]).unwrap();
        writer.finish().unwrap()
    }

    fn read(octets: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, SnapshotError> {
        let mut reader = SnapshotReader::new(octets)?;
        let mut blocks = Vec::new();
        while let Some((tag, payload)) = reader.next_block()? {
            blocks.push((tag, payload.to_vec()));
        }
        Ok(blocks)
    }

    #[test]
    fn blocks_are_read_as_they_were_written() {
        let octets = sample();
        assert_eq!(SnapshotReader::new(octets.as_slice()).unwrap().written_at(), 1_700_000_000);
        let blocks = [(7, b"first".to_vec()), (11, Vec::new()), (7, vec![13; 300])];
        assert_eq!(read(&octets).unwrap(), blocks);
    }

    #[test]
    fn every_flipped_bit_and_every_missing_octet_is_noticed() {
        let octets = sample();
        for bit in 0..8 * octets.len() {
            let mut damaged = octets.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "bit {bit}");
        }
        for len in 0..octets.len() {
            assert!(read(&octets[..len]).is_err(), "{len} octets");
        }
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        replace_file(&path, |to| to.write_all(b"old")).unwrap();
        let broken = replace_file(&path, |to| to.write_all(b"ne").and(Err(io::Error::other("no"))));
        assert!(broken.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }
}
