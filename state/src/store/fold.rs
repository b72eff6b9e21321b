//! `totals.log`: the last total of each session of all folded cuts. Sessions that ended or were silent for
//! too long are left out, so its size is that of the current sessions.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::frames::{self, Frame, FrameReader};
use super::total::{
    DurableTotals, TOTAL_LEN, TOTALS_MAX, TOTALS_TAG, Total, decode_total, encode_total, put_totals,
};

const FILE_NAME: &str = "totals.log";
/// First octet of the payload that heads the file; behind it the number of the format, and the time since
/// when all sessions are here.
const HEAD_TAG: u8 = b'#';
const FORMAT: u8 = 1;
/// Approximate number of sessions in memory at once: they are folded part by part.
const PART_SESSIONS: u64 = 200_000;
const PARTS_MAX: u64 = 64;

/// The totals that are folded.
#[derive(Clone, Debug, Default)]
pub(super) struct TotalsBase {
    pub(super) path: PathBuf,
    /// The last cut folded; 0 if there is none.
    pub(super) cut: u64,
    pub(super) octets: u64,
    /// All sessions that announced later than this are here or in the cuts, in Unix seconds; `None` before
    /// the first cut.
    pub(super) since: Option<u32>,
}

/// The input of a fold: the base, and the files of the cuts behind it.
#[derive(Debug)]
pub(super) struct Fold {
    pub(super) base: TotalsBase,
    /// Path and length, in octets.
    pub(super) files: Vec<(PathBuf, u64)>,
    /// The last cut in the files.
    pub(super) cut: u64,
}

impl TotalsBase {
    /// Opens the file of an earlier process.
    ///
    /// # Errors
    /// Fails when it cannot be read, or is of a newer program.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE_NAME);
        let octets = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path, ..Self::default() });
            }
            Err(error) => return Err(error),
        };
        let head = match FrameReader::open(&path, 0, octets)?.next_frame()? {
            Frame::Good(cut, [HEAD_TAG, FORMAT, since @ ..]) => {
                since.first_chunk().map(|since| (cut, u32::from_le_bytes(*since)))
            }
            Frame::Good(..) => return Err(frames::newer_error(&path)),
            // The file is replaced as a whole, so this damage comes from the disk. Its readable totals and
            // the cuts behind it count.
            Frame::Damaged(..) | Frame::End => None,
        };
        let (cut, since) = head.unwrap_or_default();
        Ok(Self { path, cut, octets, since: Some(since) })
    }

    /// Notes totals in a cut that was found: without a base, the first of them says since when all sessions
    /// are known.
    pub(super) fn note_found(&mut self, totals: &[u8]) {
        if self.cut == 0 {
            let announced =
                totals.chunks(TOTAL_LEN).filter_map(decode_total).map(|(_, totals)| totals.announced);
            let least = announced.min().map(|least| least.saturating_sub(1));
            self.since = [self.since, least].into_iter().flatten().min();
        }
    }

    /// Notes the totals of a new cut.
    pub(super) fn note_new(&mut self, totals: &[Total]) {
        if self.since.is_none() {
            self.since = totals.iter().map(|(_, totals)| totals.announced.saturating_sub(1)).min();
        }
    }
}

impl Fold {
    /// Replaces the old base with a new one. Sessions that were silent for longer than `inactivity` before
    /// the last announce of all are left out.
    ///
    /// # Errors
    /// Fails when a file cannot be read or written; then everything is as before.
    pub(super) fn run(&self, inactivity: u32) -> io::Result<TotalsBase> {
        let (mut sessions, mut until) = (0_u64, 0);
        self.read_all(&mut |(_, totals)| {
            sessions += 1;
            until = until.max(totals.announced);
        })?;
        let (limit, parts) =
            (until.saturating_sub(inactivity), (sessions / PART_SESSIONS + 1).min(PARTS_MAX));
        let mut octets = 0;
        let since = self.base.since.unwrap_or_default();
        crate::snapshot::container::replace_file(&self.base.path, |to| {
            let mut frame = Vec::new();
            frames::put_frame(&mut frame, self.cut, |to| {
                to.extend([HEAD_TAG, FORMAT]);
                to.extend(since.to_le_bytes());
                Ok(())
            })?;
            for part in 0..parts {
                let mut sessions = HashMap::new();
                self.read_all(&mut |(key, totals)| {
                    if part_number(&(key, totals), parts) == part {
                        sessions.insert(key, totals);
                    }
                })?;
                sessions.retain(|_, totals| !totals.is_gone && totals.announced >= limit);
                let sessions: Vec<Total> = sessions.into_iter().collect();
                for some in sessions.chunks(TOTALS_MAX) {
                    put_totals(&mut frame, self.cut, some)?;
                    to.write_all(&frame)?;
                    octets += frame.len() as u64;
                    frame.clear();
                }
            }
            octets += frame.len() as u64;
            to.write_all(&frame)
        })?;
        Ok(TotalsBase { path: self.base.path.clone(), cut: self.cut, octets, since: Some(since) })
    }

    fn read_all(&self, each: &mut dyn FnMut(Total)) -> io::Result<()> {
        read_totals(&self.base.path, self.base.octets, each)?;
        self.files.iter().try_for_each(|(path, len)| read_totals(path, *len, each))
    }
}

impl DurableTotals {
    pub(super) fn add_total(&mut self, (key, totals): Total) {
        self.until = self.until.max(totals.announced);
        self.sessions.insert(key, totals);
    }
}

/// Passes all totals of a file, up to octet `end`, to `each`, in their order.
///
/// # Errors
/// Fails when the file cannot be read.
pub(super) fn read_totals(path: &Path, end: u64, each: &mut dyn FnMut(Total)) -> io::Result<()> {
    if end == 0 {
        return Ok(());
    }
    let mut frames = FrameReader::open(path, 0, end)?;
    loop {
        match frames.next_frame()? {
            Frame::Good(_, [TOTALS_TAG, totals @ ..]) => {
                totals.chunks(TOTAL_LEN).filter_map(decode_total).for_each(&mut *each);
            }
            Frame::Good(..) => {}
            Frame::Damaged(from, to) => _ = frames::keep_aside(path, from, to),
            Frame::End => return Ok(()),
        }
    }
}

fn part_number(total: &Total, parts: u64) -> u64 {
    let mut octets = Vec::with_capacity(TOTAL_LEN);
    encode_total(total, &mut octets);
    // Torrent, user and peer_id come first.
    u64::from(crc32fast::hash(octets.get(..KEY_LEN).unwrap_or_default())) % parts
}

/// Octets of the session key at the beginning of a total.
const KEY_LEN: usize = 4 + 4 + crate::ids::ID_LEN;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::cuts::Cuts;
    use super::super::total::{SessionKey, SessionTotals};
    use super::super::{Bounds, Queues};
    use super::super::{Channel, Record, record::UserRow};
    use super::*;
    use crate::clock::Clock;
    use crate::ids::PeerId;

    const INACTIVITY: u32 = 50;

    fn session(user: u32) -> SessionKey {
        SessionKey { torrent: 7, user, peer_id: PeerId([user.to_le_bytes()[0]; 20]) }
    }

    /// All known sessions, by user.
    fn known(cuts: &Cuts) -> BTreeMap<u32, (u64, bool)> {
        let known = cuts.durable_totals().unwrap().sessions.into_iter();
        known.map(|(key, totals)| (key.user, (totals.uploaded, totals.is_gone))).collect()
    }

    #[test]
    fn a_fold_keeps_the_last_total_of_each_session_but_of_those_that_are_gone_or_silent() {
        let folder = tempfile::tempdir().unwrap();
        let queues = Queues::accounting(Clock::start(), &Bounds::default());
        let mut expected = BTreeMap::new();
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        // Each start begins a file of its own.
        for start in 0..40_u32 {
            let mut cuts = Cuts::open(folder.path()).unwrap();
            for user in [start % 7, 100 + start, 200 + start / 3] {
                let totals = SessionTotals {
                    uploaded: u64::from(start),
                    announced: 1000 + start,
                    is_gone: user == 3,
                    ..SessionTotals::default()
                };
                let row = Record::User(UserRow { id: user, uploaded: 1, ..UserRow::default() });
                queues.put_all(&[Some(row)], Some((session(user), totals)));
                expected.insert(user, (totals.uploaded, totals.is_gone));
            }
            cuts.append(&queues.take_cut(|_, _| ())).unwrap();
            let rows = cuts.rows(Channel::Users);
            assert!(rows >= 3);
            assert_eq!(known(&cuts), expected, "start {start}");
            cuts.acknowledge(Channel::Users, 3 * u64::from(start) + 3);
            assert_eq!(cuts.rows(Channel::Users), 0);
            let Some(fold) = cuts.foldable() else { continue };
            let before = files();
            let base = fold.run(INACTIVITY).unwrap();
            // Opened between the writing of the new base and the removal of the folded files.
            let mut other = Cuts::open(folder.path()).unwrap();
            let last = (0..=start).rev().find(|start| start % 7 == 3);
            if last.is_some_and(|last| u64::from(last) < base.cut) {
                expected.remove(&3);
            }
            assert_eq!((known(&other), other.durable_totals().unwrap().since), (expected.clone(), Some(999)));
            assert!(files() < before);
            other.set_base(base);
        }
        assert!(files() < 20, "{} files", files());
        let cuts = Cuts::open(folder.path()).unwrap();
        // Silent sessions are removed by the next fold.
        let fold = Fold { base: TotalsBase::open(folder.path()).unwrap(), files: Vec::new(), cut: 0 };
        assert!(cuts.durable_totals().unwrap().sessions.len() > 45);
        fold.run(5).unwrap();
        let mut left = Vec::new();
        let base = TotalsBase::open(folder.path()).unwrap();
        read_totals(&base.path, base.octets, &mut |(_, totals)| left.push(totals.announced)).unwrap();
        let last = left.iter().max().copied().unwrap();
        assert!(left.len() > 3 && left.iter().all(|announced| *announced + 5 >= last), "{left:?}");
    }
}
