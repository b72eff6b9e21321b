//! Records that wait on the disk, because their queue is full or the store is away.
//!
//! Each channel has segments, files named by the sequence number of their first record, which are replayed in
//! that order and removed when all of them is kept. A record is `u32 length, u32 CRC-32, u64 sequence number,
//! JSON`, little-endian; the checksum is of number and JSON. A torn tail is cut at the last good record.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::record::{Channel, Record};

/// Octets after which a segment is not appended to any more.
const SEGMENT_MAX: u64 = 64 << 20;
/// Octets before the JSON of a record.
const HEAD: usize = 16;
/// Longest JSON of a record; what says more is no record.
const RECORD_MAX: u32 = 4096;
/// Who may read it: its owner, for it says who has downloaded what.
const MODE: u32 = 0o600;

/// The waiting records of one channel.
#[derive(Debug)]
pub(super) struct Spill {
    folder: PathBuf,
    channel: Channel,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// The last segment, if it may be appended to.
    open: Option<File>,
    /// Something was written that may not be on the disk yet.
    dirty: bool,
    /// All up to this number are kept by the store, where that has no journal.
    done: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    first: u64,
    len: u64,
    rows: u64,
    /// Octets and rows that are kept by the store already.
    read: u64,
    read_rows: u64,
}

/// Some of the oldest records.
#[derive(Debug)]
pub(super) struct Chunk {
    /// In the order of their sequence numbers.
    pub(super) records: Vec<Record>,
    /// The number of the last of them.
    pub(super) sequence: u64,
    /// Octets and rows of the first segment that are done when they are kept.
    place: (u64, u64),
}

impl Spill {
    /// Looks for what an earlier process left, and cuts torn tails.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be read or cut.
    pub(super) fn open(folder: &Path, channel: Channel) -> io::Result<Self> {
        let mut spill = Self {
            folder: folder.to_owned(),
            channel,
            segments: VecDeque::new(),
            open: None,
            dirty: false,
            done: 0,
        };
        spill.done = match fs::read_to_string(spill.done_path()) {
            Ok(text) => text.trim().parse().map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(spill),
            entries => entries?,
        };
        let mut segments = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if let Some(first) = spill.first_of(&path) {
                segments.push(Segment::open(path, first)?);
            }
        }
        segments.sort_by_key(|segment| segment.first);
        spill.segments = segments.into();
        Ok(spill)
    }

    /// The highest number there is: that of the last record, or of the last one that is done.
    pub(super) fn last_sequence(&self) -> u64 {
        let last = |segment: &Segment| segment.first + segment.rows.saturating_sub(1);
        self.segments.iter().map(last).max().unwrap_or(0).max(self.done)
    }

    /// The number that [`mark_done`](Self::mark_done) was last told.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Records that wait.
    pub(super) fn rows(&self) -> u64 {
        self.segments.iter().map(|segment| segment.rows - segment.read_rows).sum()
    }

    /// Octets on the disk.
    pub(super) fn octets(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Adds records, whose numbers begin at `first`, behind all others.
    ///
    /// # Errors
    /// When the disk does not take all of them; then it has none of them.
    pub(super) fn append(&mut self, first: u64, records: &[Record]) -> io::Result<()> {
        let full = |segment: &Segment| segment.len >= SEGMENT_MAX;
        // Numbers within a segment are without gaps, so that its last one is known from its name.
        let gap = |segment: &Segment| segment.first + segment.rows != first;
        if self.segments.back().is_none_or(|last| full(last) || gap(last)) {
            self.open = None;
        }
        if let (Some(file), Some(segment)) = (&mut self.open, self.segments.back_mut()) {
            self.dirty = true;
            return segment.append(file, first, records);
        }
        let (file, segment) = self.new_segment(first, records)?;
        self.segments.push_back(segment);
        self.open = Some(file);
        Ok(())
    }

    /// Adds records that are older than all others.
    ///
    /// # Errors
    /// When the disk does not take all of them; then it has none of them.
    pub(super) fn prepend(&mut self, first: u64, records: &[Record]) -> io::Result<()> {
        let (_, segment) = self.new_segment(first, records)?;
        self.segments.push_front(segment);
        Ok(())
    }

    /// Up to `most` of the oldest records, those up to `acknowledged` left out. `None` where none is left;
    /// then the files are gone too.
    ///
    /// # Errors
    /// When a file cannot be read or removed.
    pub(super) fn chunk(&mut self, most: usize, acknowledged: u64) -> io::Result<Option<Chunk>> {
        while let Some(segment) = self.segments.front() {
            let mut chunk =
                Chunk { records: Vec::new(), sequence: 0, place: (segment.read, segment.read_rows) };
            let mut reader = BufReader::with_capacity(1 << 18, File::open(&segment.path)?);
            reader.seek(SeekFrom::Start(segment.read))?;
            while chunk.records.len() < most && chunk.place.0 < segment.len {
                let Some((sequence, record, octets)) = read_record(&mut reader)? else {
                    return Err(io::Error::other(format!("{}: a damaged record", segment.path.display())));
                };
                chunk.place = (chunk.place.0 + octets, chunk.place.1 + 1);
                if sequence > acknowledged {
                    chunk.records.push(record);
                    chunk.sequence = sequence;
                }
            }
            if !chunk.records.is_empty() {
                return Ok(Some(chunk));
            }
            self.advance(&chunk)?;
        }
        Ok(None)
    }

    /// The store has kept a chunk.
    ///
    /// # Errors
    /// When a file that is done cannot be removed; the next start skips what is in it.
    pub(super) fn advance(&mut self, chunk: &Chunk) -> io::Result<()> {
        let Some(segment) = self.segments.front_mut() else { return Ok(()) };
        (segment.read, segment.read_rows) = chunk.place;
        if segment.read < segment.len {
            return Ok(());
        }
        let path = segment.path.clone();
        self.segments.pop_front();
        if self.segments.is_empty() {
            (self.open, self.dirty) = (None, false);
        }
        fs::remove_file(path)
    }

    /// Notes on the disk that all up to this number counts as kept, for a store without a journal.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(super) fn mark_done(&mut self, sequence: u64) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        crate::snapshot::container::replace(&self.done_path(), |to| write!(to, "{sequence}"))?;
        self.done = sequence;
        Ok(())
    }

    /// Sees to it that everything is on the disk.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.dirty
            && let Some(file) = &self.open
        {
            file.sync_data()?;
        }
        self.dirty = false;
        Ok(())
    }

    fn new_segment(&self, first: u64, records: &[Record]) -> io::Result<(File, Segment)> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(format!("{}-{first:020}.spill", self.channel.name()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&path)?;
        let mut segment = Segment { path, first, len: 0, rows: 0, read: 0, read_rows: 0 };
        let written = segment
            .append(&mut file, first, records)
            .and_then(|()| file.sync_data())
            .and_then(|()| File::open(&self.folder)?.sync_all());
        if written.is_err() {
            // Its records stay in memory; half of them here too would be one time too many.
            let _ = fs::remove_file(&segment.path);
        }
        written.map(|()| (file, segment))
    }

    fn first_of(&self, path: &Path) -> Option<u64> {
        let name = path.file_name()?.to_str()?;
        let digits = name.strip_prefix(self.channel.name())?.strip_prefix('-')?.strip_suffix(".spill")?;
        digits.parse().ok()
    }

    fn done_path(&self) -> PathBuf {
        self.folder.join(format!("{}.done", self.channel.name()))
    }
}

impl Segment {
    /// Reads a file that an earlier process left, and cuts a torn tail.
    fn open(path: PathBuf, first: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let on_disk = file.metadata()?.len();
        let mut segment = Self { path, first, len: 0, rows: 0, read: 0, read_rows: 0 };
        let mut reader = BufReader::with_capacity(1 << 18, &file);
        while let Some((sequence, _, octets)) = read_record(&mut reader)? {
            if sequence != first + segment.rows {
                break;
            }
            segment.len += octets;
            segment.rows += 1;
        }
        if segment.len < on_disk {
            let (kept, cut) = (segment.rows, on_disk - segment.len);
            log::warn!("{}: torn tail, {cut} octets cut behind {kept} good records", segment.path.display());
            file.set_len(segment.len)?;
            file.sync_all()?;
        }
        Ok(segment)
    }

    fn append(&mut self, file: &mut File, first: u64, records: &[Record]) -> io::Result<()> {
        let mut octets = Vec::with_capacity(records.len() * 256);
        for (record, sequence) in records.iter().zip(first..) {
            write_record(&mut octets, sequence, record)?;
        }
        if let Err(error) = file.write_all(&octets) {
            // What was written of them must not stand before what is appended next.
            file.set_len(self.len)?;
            file.seek(SeekFrom::Start(self.len))?;
            return Err(error);
        }
        self.len += octets.len() as u64;
        self.rows += records.len() as u64;
        Ok(())
    }
}

fn write_record(to: &mut Vec<u8>, sequence: u64, record: &Record) -> io::Result<()> {
    let at = to.len();
    to.extend([0; 8]);
    to.extend(sequence.to_le_bytes());
    serde_json::to_writer(&mut *to, record)?;
    let len = u32::try_from(to.len() - at - HEAD).map_err(io::Error::other)?;
    let sum = crc32fast::hash(to.get(at + 8..).unwrap_or_default());
    if let Some((head, _)) = to.get_mut(at..).and_then(|record| record.split_at_mut_checked(8)) {
        head.copy_from_slice(&(u64::from(sum) << 32 | u64::from(len)).to_le_bytes());
    }
    Ok(())
}

/// The next record, its number, and the octets it takes; `None` at the end, and where it is not good.
fn read_record(from: &mut impl Read) -> io::Result<Option<(u64, Record, u64)>> {
    let mut head = [0; 8];
    let mut rest = Vec::new();
    if !fill(from, &mut head)? {
        return Ok(None);
    }
    let word = u64::from_le_bytes(head);
    let (len, sum) = ((word & 0xffff_ffff) as u32, word >> 32);
    if len > RECORD_MAX {
        return Ok(None);
    }
    rest.resize(len as usize + 8, 0);
    if !fill(from, &mut rest)? || u64::from(crc32fast::hash(&rest)) != sum {
        return Ok(None);
    }
    let Some((sequence, json)) = rest.split_first_chunk::<8>() else { return Ok(None) };
    let record = serde_json::from_slice(json).ok();
    Ok(record.map(|record| (u64::from_le_bytes(*sequence), record, (HEAD + json.len()) as u64)))
}

/// False where the end comes before it is full.
fn fill(from: &mut impl Read, octets: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(octets) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        done => done.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::{SnatchRow, UserRow};

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("hayate-spill-{:016x}", fastrand::u64(..)));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn open(&self) -> Spill {
            Spill::open(&self.0, Channel::Users).unwrap()
        }

        fn files(&self) -> usize {
            fs::read_dir(&self.0).unwrap().count()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn users(ids: std::ops::Range<u32>) -> Vec<Record> {
        ids.map(|id| Record::User(UserRow { id, uploaded: u64::MAX, ..UserRow::default() })).collect()
    }

    fn drain(spill: &mut Spill, most: usize, acknowledged: u64) -> Vec<(u64, Vec<Record>)> {
        let mut chunks = Vec::new();
        while let Some(chunk) = spill.chunk(most, acknowledged).unwrap() {
            spill.advance(&chunk).unwrap();
            chunks.push((chunk.sequence, chunk.records));
        }
        chunks
    }

    #[test]
    fn records_come_back_in_order_also_after_a_restart_and_no_file_stays() {
        for restart in [false, true] {
            let folder = Scratch::new();
            let mut spill = folder.open();
            spill.append(101, &users(0..7)).unwrap();
            spill.append(108, &users(7..11)).unwrap();
            spill.prepend(1, &users(50..53)).unwrap();
            if restart {
                spill = folder.open();
            }
            assert_eq!((spill.rows(), spill.last_sequence()), (14, 111));
            let chunks = drain(&mut spill, 5, 0);
            let expected =
                [(3, users(50..53)), (105, users(0..5)), (110, users(5..10)), (111, users(10..11))];
            assert_eq!(chunks, expected);
            assert_eq!((spill.rows(), spill.octets(), folder.files()), (0, 0, 0));
        }
    }

    #[test]
    fn what_the_store_has_already_is_skipped() {
        let folder = Scratch::new();
        let mut spill = folder.open();
        spill.append(1, &users(0..7)).unwrap();
        spill.append(20, &users(7..9)).unwrap();
        let chunks = drain(&mut spill, 100, 5);
        assert_eq!(chunks, [(7, users(5..7)), (21, users(7..9))]);
        spill.append(30, &users(0..2)).unwrap();
        assert_eq!(drain(&mut spill, 100, 31), []);
        assert_eq!(folder.files(), 0);
    }

    #[test]
    fn a_torn_tail_is_cut_at_the_last_good_record() {
        let folder = Scratch::new();
        folder.open().append(1, &users(0..3)).unwrap();
        let path = folder.0.join("users-00000000000000000001.spill");
        let whole = fs::read(&path).unwrap();
        let second = whole.len() / 3 * 2;
        for len in second..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            let mut spill = folder.open();
            assert_eq!((spill.rows(), spill.last_sequence()), (2, 2), "{len}");
            assert_eq!(fs::metadata(&path).unwrap().len(), second as u64);
            spill.append(3, &users(9..10)).unwrap();
            assert_eq!(drain(&mut spill, 10, 0).last().unwrap().1.last(), users(9..10).first());
        }
        let mut flipped = whole.clone();
        flipped[second + 20] ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert_eq!(folder.open().rows(), 2);
    }

    #[test]
    fn channels_share_a_folder_and_a_store_without_journal_is_remembered() {
        let folder = Scratch::new();
        let mut users_spill = folder.open();
        users_spill.append(1, &users(0..3)).unwrap();
        let mut snatches = Spill::open(&folder.0, Channel::Snatches).unwrap();
        assert!(snatches.is_empty());
        snatches.append(5, &[Record::Snatch(SnatchRow::default())]).unwrap();
        snatches.mark_done(5).unwrap();
        assert_eq!(folder.open().rows(), 3);
        let snatches = Spill::open(&folder.0, Channel::Snatches).unwrap();
        assert_eq!((snatches.rows(), snatches.done(), snatches.last_sequence()), (1, 5, 5));
    }
}
