//! Records that wait on the disk, because their queue is full or the store is unreachable.
//!
//! Each channel has segments, files named by the sequence number of their first record, which are replayed in
//! that order and removed when all their records are kept. A record is a frame (`frames`): number and JSON. A
//! torn tail is cut off; damage costs only what is damaged; a record of a newer program is never skipped.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::frames::{self, FILE_MODE, Frame, FrameReader};
use super::record::{Channel, Record};

/// Octets after which a segment is not appended to any more.
const SEGMENT_MAX: u64 = 64 << 20;

/// The waiting records of one channel.
#[derive(Debug)]
pub(super) struct Spill {
    folder: PathBuf,
    channel: Channel,
    /// Oldest first.
    segments: VecDeque<SpillSegment>,
    /// The last segment, if it may be appended to.
    open: Option<File>,
    /// Whether something was written that may not be on the disk yet.
    dirty: bool,
    /// All records up to this number are kept by the store, for a store without a journal.
    done: u64,
    /// Damaged places that were skipped and are not yet reported.
    damaged: u64,
}

#[derive(Debug)]
struct SpillSegment {
    path: PathBuf,
    first: u64,
    /// The number of its last record; the one before the first if there is none.
    last: u64,
    len: u64,
    rows: u64,
    /// Octets and rows that the store has kept already.
    read: u64,
    read_rows: u64,
}

/// Some of the oldest records.
#[derive(Debug)]
pub(super) struct SpillChunk {
    /// In the order of their sequence numbers.
    pub(super) records: Vec<Record>,
    /// The number of the last of them.
    pub(super) sequence: u64,
    /// Octets and rows of the first segment that are done once these records are kept.
    done_to: (u64, u64),
}

impl Spill {
    /// Opens the files that an earlier process left, and cuts torn tails off.
    ///
    /// # Errors
    /// Fails when the folder or a file in it cannot be read or cut.
    pub(super) fn open(folder: &Path, channel: Channel) -> io::Result<Self> {
        let mut spill = Self {
            folder: folder.to_owned(),
            channel,
            segments: VecDeque::new(),
            open: None,
            dirty: false,
            done: 0,
            damaged: 0,
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
            if let Some(first) = spill.first_sequence(&path) {
                segments.push(SpillSegment::open(path, first, &mut spill.damaged)?);
            }
        }
        segments.sort_by_key(|segment| segment.first);
        spill.segments = segments.into();
        Ok(spill)
    }

    /// The highest known number: that of the last record, or of the last one that is done.
    pub(super) fn last_sequence(&self) -> u64 {
        self.segments.iter().map(|segment| segment.last).max().unwrap_or(0).max(self.done)
    }

    /// The number last given to [`mark_done`](Self::mark_done).
    pub(super) fn done_sequence(&self) -> u64 {
        self.done
    }

    /// The number of records that wait.
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

    /// Takes the number of damaged places skipped since the last call.
    pub(super) fn take_damaged(&mut self) -> u64 {
        std::mem::take(&mut self.damaged)
    }

    /// Appends records, whose numbers begin at `first`, behind all others.
    ///
    /// # Errors
    /// Fails when the disk does not take all of them; then it has none of them.
    pub(super) fn append(&mut self, first: u64, records: &[Record]) -> io::Result<()> {
        let full = |segment: &SpillSegment| segment.len >= SEGMENT_MAX;
        let gap = |segment: &SpillSegment| segment.last + 1 != first;
        if self.segments.back().is_none_or(|last| full(last) || gap(last)) {
            // Otherwise its last records would never be synced to the disk.
            self.sync()?;
            self.open = None;
        }
        if let (Some(file), Some(segment)) = (&mut self.open, self.segments.back_mut()) {
            self.dirty = true;
            return segment.append(file, first, records);
        }
        let (file, segment) = self.create_segment(first, records)?;
        self.segments.push_back(segment);
        self.open = Some(file);
        Ok(())
    }

    /// Adds records that are older than all others.
    ///
    /// # Errors
    /// Fails when the disk does not take all of them; then it has none of them.
    pub(super) fn prepend(&mut self, first: u64, records: &[Record]) -> io::Result<()> {
        let (_, segment) = self.create_segment(first, records)?;
        self.segments.push_front(segment);
        Ok(())
    }

    /// Returns up to `most` of the oldest records, without those up to `acknowledged`. `None` if none is
    /// left; then the files are gone too.
    ///
    /// # Errors
    /// Fails when a file cannot be read or removed.
    pub(super) fn next_chunk(&mut self, most: usize, acknowledged: u64) -> io::Result<Option<SpillChunk>> {
        while let Some(segment) = self.segments.front() {
            let mut chunk =
                SpillChunk { records: Vec::new(), sequence: 0, done_to: (segment.read, segment.read_rows) };
            let mut frames = FrameReader::open(&segment.path, segment.read, segment.len)?;
            while chunk.records.len() < most {
                let (sequence, record) = match frames.next_frame()? {
                    Frame::End => {
                        // A torn tail was cut off when the file was opened: this part was good once.
                        if frames.at() < segment.len {
                            let aside = frames::keep_aside(&segment.path, frames.at(), segment.len);
                            self.damaged += u64::from(aside);
                        }
                        chunk.done_to = (segment.len, segment.rows);
                        break;
                    }
                    Frame::Damaged(from, to) => {
                        self.damaged += u64::from(frames::keep_aside(&segment.path, from, to));
                        continue;
                    }
                    Frame::Good(sequence, json) => (sequence, serde_json::from_slice::<Record>(json)),
                };
                match record {
                    _ if sequence <= acknowledged => {}
                    Ok(record) => {
                        chunk.records.push(record);
                        chunk.sequence = sequence;
                    }
                    Err(_) if chunk.records.is_empty() => return Err(frames::newer_error(&segment.path)),
                    Err(_) => break,
                }
                chunk.done_to = (frames.at(), chunk.done_to.1 + 1);
            }
            if !chunk.records.is_empty() {
                return Ok(Some(chunk));
            }
            self.advance(&chunk)?;
        }
        Ok(None)
    }

    /// Notes that the store has kept a chunk.
    ///
    /// # Errors
    /// Fails when a file that is done cannot be removed; the next start skips its records.
    pub(super) fn advance(&mut self, chunk: &SpillChunk) -> io::Result<()> {
        let Some(segment) = self.segments.front_mut() else { return Ok(()) };
        (segment.read, segment.read_rows) = chunk.done_to;
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

    /// Notes on the disk that all records up to this number count as kept, for a store without a journal.
    ///
    /// # Errors
    /// Fails when the disk does not take it.
    pub(super) fn mark_done(&mut self, sequence: u64) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        crate::snapshot::container::replace_file(&self.done_path(), |to| write!(to, "{sequence}"))?;
        self.done = sequence;
        Ok(())
    }

    /// Ensures that everything is on the disk.
    ///
    /// # Errors
    /// Fails when it is not.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.dirty
            && let Some(file) = &self.open
        {
            file.sync_data()?;
        }
        self.dirty = false;
        Ok(())
    }

    fn create_segment(&self, first: u64, records: &[Record]) -> io::Result<(File, SpillSegment)> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(format!("{}-{first:020}.spill", self.channel.name()));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&path)?;
        let mut segment = SpillSegment::empty(path, first);
        let written = segment
            .append(&mut file, first, records)
            .and_then(|()| file.sync_data())
            .and_then(|()| File::open(&self.folder)?.sync_all());
        if written.is_err() {
            // Its records stay in memory; half of them here too would be replayed twice.
            let _ = fs::remove_file(&segment.path);
        }
        written.map(|()| (file, segment))
    }

    fn first_sequence(&self, path: &Path) -> Option<u64> {
        let name = path.file_name()?.to_str()?;
        let digits = name.strip_prefix(self.channel.name())?.strip_prefix('-')?.strip_suffix(".spill")?;
        digits.parse().ok()
    }

    fn done_path(&self) -> PathBuf {
        self.folder.join(format!("{}.done", self.channel.name()))
    }
}

impl SpillSegment {
    fn empty(path: PathBuf, first: u64) -> Self {
        Self { path, first, last: first.saturating_sub(1), len: 0, rows: 0, read: 0, read_rows: 0 }
    }

    /// Opens a file that an earlier process left, and cuts a torn tail off.
    fn open(path: PathBuf, first: u64, damaged: &mut u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let on_disk = file.metadata()?.len();
        let mut frames = FrameReader::open(&path, 0, on_disk)?;
        let mut segment = Self::empty(path, first);
        loop {
            match frames.next_frame()? {
                Frame::Good(sequence, _) => {
                    segment.last = segment.last.max(sequence);
                    segment.rows += 1;
                }
                Frame::Damaged(from, to) => {
                    *damaged += u64::from(frames::keep_aside(&segment.path, from, to));
                }
                Frame::End => break,
            }
        }
        segment.len = frames.at();
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
            let json = |to: &mut Vec<u8>| serde_json::to_writer(to, record).map_err(io::Error::from);
            frames::put_frame(&mut octets, sequence, json)?;
        }
        if let Err(error) = file.write_all(&octets) {
            // A part of these records must not stand before those appended next.
            file.set_len(self.len)?;
            file.seek(SeekFrom::Start(self.len))?;
            return Err(error);
        }
        self.len += octets.len() as u64;
        self.rows += records.len() as u64;
        self.last = (first + records.len() as u64).saturating_sub(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::{SnatchRow, UserRow};

    struct SpillFolder(tempfile::TempDir);

    impl SpillFolder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn open(&self) -> Spill {
            Spill::open(self.0.path(), Channel::Users).unwrap()
        }

        fn files(&self) -> usize {
            fs::read_dir(self.0.path()).unwrap().count()
        }
    }

    fn users(ids: std::ops::Range<u32>) -> Vec<Record> {
        ids.map(|id| Record::User(UserRow { id, uploaded: u64::MAX, ..UserRow::default() })).collect()
    }

    fn drain(spill: &mut Spill, most: usize, acknowledged: u64) -> Vec<(u64, Vec<Record>)> {
        let mut chunks = Vec::new();
        while let Some(chunk) = spill.next_chunk(most, acknowledged).unwrap() {
            spill.advance(&chunk).unwrap();
            chunks.push((chunk.sequence, chunk.records));
        }
        chunks
    }

    #[test]
    fn records_come_back_in_order_also_after_a_restart_and_no_file_stays() {
        for restart in [false, true] {
            let folder = SpillFolder::new();
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
        let folder = SpillFolder::new();
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
        let folder = SpillFolder::new();
        folder.open().append(1, &users(0..3)).unwrap();
        let path = folder.0.path().join("users-00000000000000000001.spill");
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
    fn a_damaged_record_costs_no_other_and_is_kept_aside_and_reported_once() {
        for while_running in [false, true] {
            let folder = SpillFolder::new();
            let mut spill = folder.open();
            spill.append(1, &users(0..5)).unwrap();
            let path = folder.0.path().join("users-00000000000000000001.spill");
            let mut octets = fs::read(&path).unwrap();
            let len = octets.len() / 5;
            // The head of one frame, with its length, and the body of another.
            octets[len] ^= 0x40;
            octets[3 * len + 30] ^= 1;
            fs::write(&path, &octets).unwrap();
            if !while_running {
                spill = folder.open();
                assert_eq!((spill.rows(), spill.last_sequence(), spill.take_damaged()), (3, 5, 2));
                assert_eq!(folder.open().take_damaged(), 0, "logged before");
            }
            spill.append(6, &users(9..10)).unwrap();
            let good: Vec<Record> = [0, 2, 4, 9].into_iter().flat_map(|id| users(id..id + 1)).collect();
            let given = drain(&mut spill, 10, 0).into_iter().flat_map(|(_, some)| some);
            assert_eq!(given.collect::<Vec<_>>(), good);
            assert_eq!((spill.take_damaged(), spill.is_empty()), (if while_running { 2 } else { 0 }, true));
            let aside = |at: usize| fs::read(format!("{}-{at}.damaged", path.display())).unwrap();
            assert_eq!(aside(len), octets[len..2 * len]);
            assert_eq!(aside(3 * len), octets[3 * len..4 * len]);
        }
    }

    #[test]
    fn a_record_of_a_newer_program_is_passed_by_nobody_but_those_before_it_are_given_out() {
        let folder = SpillFolder::new();
        folder.open().append(1, &users(0..2)).unwrap();
        let path = folder.0.path().join("users-00000000000000000001.spill");
        let mut octets = fs::read(&path).unwrap();
        let unknown = |to: &mut Vec<u8>| to.write_all(br#"{"of_the_year_2030":{"id":7}}"#);
        frames::put_frame(&mut octets, 3, unknown).unwrap();
        let whole = octets.clone();
        fs::write(&path, &octets).unwrap();
        let mut spill = folder.open();
        spill.append(4, &users(7..8)).unwrap();
        let chunk = spill.next_chunk(10, 0).unwrap().unwrap();
        assert_eq!((chunk.sequence, &chunk.records), (2, &users(0..2)));
        spill.advance(&chunk).unwrap();
        let error = spill.next_chunk(10, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("00001.spill: a record of a newer hayate"), "{error}");
        assert!(fs::read(&path).unwrap().starts_with(&whole), "nothing is cut away");
    }

    #[test]
    fn a_segment_is_on_the_disk_before_the_next_is_begun() {
        let folder = SpillFolder::new();
        let mut spill = folder.open();
        spill.append(1, &users(0..2)).unwrap();
        spill.append(3, &users(2..3)).unwrap();
        // A file that cannot be synced, like a failed disk.
        let open = spill.open.replace(File::open("/dev/null").unwrap());
        assert!(spill.append(10, &users(5..6)).is_err());
        assert_eq!((spill.rows(), folder.files()), (3, 1));
        spill.open = open;
        spill.append(10, &users(5..6)).unwrap();
        assert_eq!(drain(&mut spill, 10, 0), [(3, users(0..3)), (10, users(5..6))]);
    }

    #[test]
    fn channels_share_a_folder_and_a_store_without_journal_is_remembered() {
        let folder = SpillFolder::new();
        let mut users_spill = folder.open();
        users_spill.append(1, &users(0..3)).unwrap();
        let mut snatches = Spill::open(folder.0.path(), Channel::Snatches).unwrap();
        assert!(snatches.is_empty());
        snatches.append(5, &[Record::Snatch(SnatchRow::default())]).unwrap();
        snatches.mark_done(5).unwrap();
        assert_eq!(folder.open().rows(), 3);
        let snatches = Spill::open(folder.0.path(), Channel::Snatches).unwrap();
        assert_eq!((snatches.rows(), snatches.done_sequence(), snatches.last_sequence()), (1, 5, 5));
    }
}
