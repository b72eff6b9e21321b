//! The log of cuts (mode private): everything that was in memory at one instant, rows and the totals of the
//! sessions they were credited for, goes to the disk as a unit, and only from there to the store. So the
//! totals found at a start are those of the last durable row.
//!
//! Segments are files named by their first cut, made of frames (`frames`): rows with their sequence number, a
//! letter for the channel, and JSON; totals, many in a frame; and an end. A cut without its end is discarded
//! as a whole. A segment whose rows are all in the store is folded into `totals.log` (`fold`) from time to
//! time.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::fold::{Fold, TotalsBase, read_totals};
use super::frames::{self, FILE_MODE, Frame, FrameReader};
use super::queue::Cut;
use super::record::{Channel, Record};
use super::total::{DurableTotals, TOTALS_MAX, TOTALS_TAG, put_totals};

/// Octets after which a segment is not appended to any more.
const SEGMENT_MAX: u64 = 16 << 20;
/// Segments that may wait to be folded, at most.
const SEGMENTS_MAX: usize = 16;
/// A fold is worthwhile when this many times the octets of the last one would be read.
const FOLD_FACTOR: u64 = 4;
/// Octets that are written at once.
const WRITE_OCTETS: usize = 1 << 20;
const CHANNELS: usize = Channel::ALL.len();
/// First octet of the payload that ends a cut; behind it, by channel, the number up to which the store has
/// all rows: so that rows are never replayed into a different database that replaced the one that has them.
const END_TAG: u8 = b'.';

/// All cuts that are on the disk.
#[derive(Debug)]
pub(super) struct Cuts {
    folder: PathBuf,
    /// Oldest first.
    segments: VecDeque<CutSegment>,
    /// The last segment, if it may be appended to.
    open: Option<File>,
    /// Whether a failed cut may be on the disk in whole or in part: nothing is written before it is removed.
    doubtful: bool,
    /// By channel: the number of the next row.
    next: [u64; CHANNELS],
    /// By channel: rows up to this number are in the store, or do not exist.
    passed: [u64; CHANNELS],
    /// By channel: segment and offset of the next row.
    cursors: [(u64, u64); CHANNELS],
    /// The number of the last cut.
    cut: u64,
    /// The values of `passed` in the last end.
    written_passed: [u64; CHANNELS],
    base: TotalsBase,
    /// A file with something that this program does not know.
    newer: Option<PathBuf>,
    damaged: u64,
}

#[derive(Debug)]
pub(super) struct CutSegment {
    /// Its first cut.
    number: u64,
    /// Its last cut.
    pub(super) last_cut: u64,
    pub(super) path: PathBuf,
    pub(super) len: u64,
    spans: [RowSpan; CHANNELS],
}

/// Rows of one channel in a segment: without gaps, except for damaged ones.
#[derive(Clone, Copy, Debug, Default)]
struct RowSpan {
    first: u64,
    /// 0 if there are none.
    last: u64,
    octets: u64,
}

/// Some of the oldest rows of a channel.
#[derive(Debug)]
pub(super) struct CutChunk {
    /// In the order of their sequence numbers.
    pub(super) records: Vec<Record>,
    /// The number of the last of them.
    pub(super) sequence: u64,
    cursor: (u64, u64),
}

impl Cuts {
    /// Opens the files that an earlier process left, and cuts off a cut without an end.
    ///
    /// # Errors
    /// Fails when the folder or a file in it cannot be read or cut.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let base = TotalsBase::open(folder)?;
        let mut cuts = Self {
            folder: folder.to_owned(),
            segments: VecDeque::new(),
            open: None,
            doubtful: false,
            next: [1; CHANNELS],
            passed: [0; CHANNELS],
            cursors: [(0, 0); CHANNELS],
            cut: base.cut,
            written_passed: [0; CHANNELS],
            base,
            newer: None,
            damaged: 0,
        };
        let mut found = Vec::new();
        match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            entries => {
                for entry in entries? {
                    let path = entry?.path();
                    found.extend(number_of(&path).map(|number| (number, path)));
                }
            }
        }
        found.sort_unstable();
        for (number, path) in found {
            let segment = cuts.read_segment(number, path)?;
            let is_newer = cuts.newer.as_ref() == Some(&segment.path);
            if !is_newer && (segment.len == 0 || segment.last_cut <= cuts.base.cut) {
                // It is empty, or it was folded by a process that ended before it could remove it.
                fs::remove_file(&segment.path)?;
                continue;
            }
            cuts.cut = cuts.cut.max(segment.last_cut);
            for (next, span) in cuts.next.iter_mut().zip(&segment.spans) {
                *next = (*next).max(span.last + 1);
            }
            cuts.segments.push_back(segment);
        }
        cuts.written_passed = cuts.passed;
        Ok(cuts)
    }

    /// Reads a segment up to its last complete cut, and cuts off the rest.
    fn read_segment(&mut self, number: u64, path: PathBuf) -> io::Result<CutSegment> {
        let file = OpenOptions::new().write(true).open(&path)?;
        let on_disk = file.metadata()?.len();
        let mut frames = FrameReader::open(&path, 0, on_disk)?;
        let mut segment = CutSegment::empty(number, path);
        let mut spans = segment.spans;
        let (mut asides, mut is_newer) = (Vec::new(), false);
        loop {
            match frames.next_frame()? {
                Frame::Good(last_cut, [END_TAG, passed @ ..]) => {
                    let passed = passed.as_chunks().0.iter().map(|octets| u64::from_le_bytes(*octets));
                    self.passed
                        .iter_mut()
                        .zip(passed)
                        .for_each(|(known, passed)| *known = passed.max(*known));
                    (segment.last_cut, segment.len, segment.spans) = (last_cut, frames.at(), spans);
                    for (from, to) in asides.drain(..) {
                        self.damaged += u64::from(frames::keep_aside(&segment.path, from, to));
                    }
                }
                Frame::Good(_, [TOTALS_TAG, totals @ ..]) => self.base.note_found(totals),
                Frame::Good(sequence, payload) => match payload.first().copied().and_then(channel_of) {
                    Some(channel) => {
                        let octets = payload.len();
                        if let Some(span) = spans.get_mut(channel as usize) {
                            span.add(sequence, octets);
                        }
                    }
                    None => is_newer = true,
                },
                Frame::Damaged(from, to) => asides.push((from, to)),
                Frame::End => break,
            }
        }
        if is_newer {
            // Only the newer program knows how it ends.
            self.newer = Some(segment.path.clone());
        } else if segment.len < on_disk {
            let (path, octets) = (segment.path.display(), on_disk - segment.len);
            log::warn!("{path}: {octets} octets of a cut that was not finished are cut off");
            file.set_len(segment.len)?;
            file.sync_all()?;
        }
        Ok(segment)
    }

    /// Returns the durable totals, for the start.
    ///
    /// # Errors
    /// Fails when a file cannot be read.
    pub(super) fn durable_totals(&self) -> io::Result<DurableTotals> {
        let mut known = DurableTotals { since: self.base.since, ..DurableTotals::default() };
        read_totals(&self.base.path, self.base.octets, &mut |total| known.add_total(total))?;
        for segment in &self.segments {
            read_totals(&segment.path, segment.len, &mut |total| known.add_total(total))?;
        }
        Ok(known)
    }

    /// A file with something that only a newer program knows.
    pub(super) fn newer_file(&self) -> Option<&Path> {
        self.newer.as_deref()
    }

    /// Takes the number of damaged places skipped since the last call.
    pub(super) fn take_damaged(&mut self) -> u64 {
        std::mem::take(&mut self.damaged)
    }

    /// Notes that the store has all rows of a channel up to this number.
    pub(super) fn acknowledge(&mut self, channel: Channel, acknowledged: u64) {
        let passed = by_channel_mut(&mut self.passed, channel);
        *passed = (*passed).max(acknowledged);
        self.number_above(channel, acknowledged);
    }

    /// Numbers new rows of a channel above this.
    pub(super) fn number_above(&mut self, channel: Channel, number: u64) {
        let next = by_channel_mut(&mut self.next, channel);
        if *next <= number {
            *next = number + 1;
            // The rows of a segment have no gaps.
            self.open = None;
        }
    }

    /// Whether the store has kept rows since the last cut, so that even an empty cut has something to note.
    pub(super) fn has_news(&self) -> bool {
        self.written_passed != self.passed
    }

    /// The number of rows of a channel that are not in the store.
    pub(super) fn rows(&self, channel: Channel) -> u64 {
        self.waiting(channel).map(|(span, passed)| span.last - passed.max(span.first - 1)).sum()
    }

    /// Octets of such rows, in whole segments.
    pub(super) fn octets(&self, channel: Channel) -> u64 {
        self.waiting(channel).map(|(span, _)| span.octets).sum()
    }

    /// Octets of all files.
    pub(super) fn size(&self) -> u64 {
        self.base.octets + self.segments.iter().map(|segment| segment.len).sum::<u64>()
    }

    fn waiting(&self, channel: Channel) -> impl Iterator<Item = (RowSpan, u64)> {
        let passed = by_channel(&self.passed, channel);
        let spans = self.segments.iter().map(move |segment| by_channel(&segment.spans, channel));
        spans.filter(move |span| span.last > passed).map(move |span| (span, passed))
    }

    /// Appends a cut; it is on the disk when this returns.
    ///
    /// # Errors
    /// Fails when the disk does not take all of it; then nothing of it is on the disk, or nothing more is
    /// written.
    pub(super) fn append(&mut self, cut: &Cut) -> io::Result<()> {
        if self.doubtful {
            self.truncate_failed_cut()?;
        }
        if self.segments.back().is_none_or(|last| last.len >= SEGMENT_MAX) {
            self.open = None;
        }
        let number = self.cut + 1;
        if self.open.is_none() {
            fs::create_dir_all(&self.folder)?;
            let path = self.folder.join(format!("cuts-{number:020}.log"));
            let file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&path)?;
            self.segments.push_back(CutSegment::empty(number, path));
            self.open = Some(file);
        }
        match self.write_cut(number, cut) {
            Ok((end, spans)) => {
                let Some(segment) = self.segments.back_mut() else { return Ok(()) };
                (segment.len, segment.last_cut, segment.spans) = (end, number, spans);
                for (next, span) in self.next.iter_mut().zip(&spans) {
                    *next = (*next).max(span.last + 1);
                }
                self.cut = number;
                self.written_passed = self.passed;
                self.base.note_new(&cut.totals);
                Ok(())
            }
            Err(error) => {
                // A file that failed once is not trusted again.
                self.open = None;
                self.doubtful = true;
                self.truncate_failed_cut()?;
                Err(error)
            }
        }
    }

    /// Returns where the cut ends, and the rows of the last segment then.
    fn write_cut(&self, number: u64, cut: &Cut) -> io::Result<(u64, [RowSpan; CHANNELS])> {
        let (Some(file), Some(segment)) = (&self.open, self.segments.back()) else {
            return Err(io::Error::other("no segment is open"));
        };
        let (mut to, mut spans) = (Vec::new(), segment.spans);
        let mut end = segment.len;
        let flush = |to: &mut Vec<u8>, end: &mut u64| {
            file.write_all_at(to, *end)?;
            *end += to.len() as u64;
            to.clear();
            io::Result::Ok(())
        };
        for ((channel, taken), (span, next)) in
            Channel::ALL.into_iter().zip(&cut.rows).zip(spans.iter_mut().zip(self.next))
        {
            for (record, sequence) in taken.records.iter().zip(next..) {
                let at = to.len();
                frames::put_frame(&mut to, sequence, |to| {
                    to.push(letter_of(channel));
                    serde_json::to_writer(to, record).map_err(io::Error::from)
                })?;
                span.add(sequence, to.len() - at);
                if to.len() >= WRITE_OCTETS {
                    flush(&mut to, &mut end)?;
                }
            }
        }
        for totals in cut.totals.chunks(TOTALS_MAX) {
            put_totals(&mut to, number, totals)?;
            if to.len() >= WRITE_OCTETS {
                flush(&mut to, &mut end)?;
            }
        }
        frames::put_frame(&mut to, number, |to| {
            to.push(END_TAG);
            self.passed.iter().for_each(|passed| to.extend(passed.to_le_bytes()));
            Ok(())
        })?;
        flush(&mut to, &mut end)?;
        file.sync_data()?;
        if segment.len == 0 {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok((end, spans))
    }

    /// Removes a failed cut. Until that has succeeded the disk may have it, in whole or in part, and a start
    /// would take it for the last cut: which is right as long as nothing is written behind it.
    fn truncate_failed_cut(&mut self) -> io::Result<()> {
        if let Some(segment) = self.segments.back() {
            if segment.len == 0 {
                fs::remove_file(&segment.path)?;
                File::open(&self.folder)?.sync_all()?;
                self.segments.pop_back();
            } else {
                let file = OpenOptions::new().write(true).open(&segment.path)?;
                file.set_len(segment.len)?;
                file.sync_all()?;
            }
        }
        self.doubtful = false;
        Ok(())
    }

    /// Returns up to `most` of the oldest rows of a channel that are not in the store.
    ///
    /// # Errors
    /// Fails when a file cannot be read, or has a record of a newer program.
    pub(super) fn next_chunk(&mut self, channel: Channel, most: usize) -> io::Result<Option<CutChunk>> {
        loop {
            let passed = by_channel(&self.passed, channel);
            let waits = |segment: &&CutSegment| by_channel(&segment.spans, channel).last > passed;
            let Some(segment) = self.segments.iter().find(waits) else { return Ok(None) };
            let (number, last) = (segment.number, by_channel(&segment.spans, channel).last);
            let cursor = Some(by_channel(&self.cursors, channel)).filter(|(at, _)| *at == number);
            let mut frames = FrameReader::open(&segment.path, cursor.map_or(0, |(_, at)| at), segment.len)?;
            let mut chunk = CutChunk { records: Vec::new(), sequence: passed, cursor: (number, 0) };
            while chunk.records.len() < most && chunk.sequence < last {
                match frames.next_frame()? {
                    Frame::End => {
                        // A cut without its end was cut off when the file was opened: this part was good
                        // once.
                        if frames.at() < segment.len {
                            let aside = frames::keep_aside(&segment.path, frames.at(), segment.len);
                            self.damaged += u64::from(aside);
                        }
                        break;
                    }
                    Frame::Damaged(from, to) => {
                        self.damaged += u64::from(frames::keep_aside(&segment.path, from, to));
                    }
                    Frame::Good(sequence, [letter, json @ ..])
                        if *letter == letter_of(channel) && sequence > chunk.sequence =>
                    {
                        match serde_json::from_slice(json) {
                            Ok(record) => chunk.records.push(record),
                            Err(_) if chunk.records.is_empty() => {
                                return Err(frames::newer_error(&segment.path));
                            }
                            Err(_) => break,
                        }
                        (chunk.sequence, chunk.cursor.1) = (sequence, frames.at());
                    }
                    Frame::Good(..) => {}
                }
            }
            if !chunk.records.is_empty() {
                return Ok(Some(chunk));
            }
            *by_channel_mut(&mut self.passed, channel) = last;
        }
    }

    /// Notes that the store has kept a chunk.
    pub(super) fn advance(&mut self, channel: Channel, chunk: &CutChunk) {
        *by_channel_mut(&mut self.cursors, channel) = chunk.cursor;
        self.acknowledge(channel, chunk.sequence);
    }

    /// Returns what is worth folding, if anything: the first segments, as far as all their rows are in the
    /// store.
    pub(super) fn foldable(&self) -> Option<Fold> {
        let done = |segment: &&CutSegment| {
            segment.spans.iter().zip(&self.passed).all(|(span, passed)| span.last <= *passed)
        };
        let closed = self.segments.len() - usize::from(self.open.is_some());
        let done: Vec<_> = self.segments.iter().take(closed).take_while(done).collect();
        let octets: u64 = done.iter().map(|segment| segment.len).sum();
        let worth = octets >= SEGMENT_MAX.max(self.base.octets * FOLD_FACTOR) || done.len() >= SEGMENTS_MAX;
        let cut = done.last().filter(|_| worth && !self.doubtful)?.last_cut;
        let files = done.iter().map(|segment| (segment.path.clone(), segment.len)).collect();
        Some(Fold { base: self.base.clone(), files, cut })
    }

    /// Takes over the result of a fold.
    pub(super) fn set_base(&mut self, base: TotalsBase) {
        while let Some(segment) = self.segments.pop_front_if(|segment| segment.last_cut <= base.cut) {
            if let Err(error) = fs::remove_file(&segment.path) {
                log::warn!("{}: {error}; the next start removes it", segment.path.display());
            }
        }
        self.base = base;
    }
}

impl CutSegment {
    fn empty(number: u64, path: PathBuf) -> Self {
        Self { number, last_cut: 0, path, len: 0, spans: [RowSpan::default(); CHANNELS] }
    }
}

impl RowSpan {
    fn add(&mut self, sequence: u64, octets: usize) {
        if self.last == 0 {
            self.first = sequence;
        }
        self.last = self.last.max(sequence);
        self.octets += octets as u64;
    }
}

fn letter_of(channel: Channel) -> u8 {
    match channel {
        Channel::Torrents => b't',
        Channel::Users => b'u',
        Channel::TransferHistory => b'h',
        Channel::TransferIps => b'i',
        Channel::Snatches => b's',
        Channel::Completed => b'c',
    }
}

fn channel_of(letter: u8) -> Option<Channel> {
    Channel::ALL.into_iter().find(|channel| letter_of(*channel) == letter)
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("cuts-")?.strip_suffix(".log")?.parse().ok()
}

#[expect(clippy::indexing_slicing, reason = "one for each channel, in their order")]
fn by_channel<T: Copy>(all: &[T; CHANNELS], channel: Channel) -> T {
    all[channel as usize]
}

#[expect(clippy::indexing_slicing, reason = "one for each channel, in their order")]
fn by_channel_mut<T>(all: &mut [T; CHANNELS], channel: Channel) -> &mut T {
    &mut all[channel as usize]
}
