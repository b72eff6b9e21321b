//! The counts of all torrents, read in slices with pauses, so that no announce waits for a report. A torrent
//! that comes or goes meanwhile may be missed; none appears twice.
//!
//! [`export`] writes them to a file.

pub mod export;

use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Clock;
pub use crate::peer_counts::ReportRow;
use crate::private::Torrents;
use crate::snapshot::thread::Pace;
use crate::swarm::Swarms;
use crate::swarm::torrent::Torrent;

/// Torrents that are looked at under one lock.
const SLICE: usize = 512;

/// The owner of the torrents of a report.
#[derive(Clone, Debug)]
pub enum TorrentSource {
    /// In the swarms of mode open and listed.
    Swarms(Arc<Swarms>),
    /// Registered at a site (mode private).
    Site(Arc<Torrents>),
}

/// Walks through all torrents. Shared by the operator's requests and the exporter.
#[derive(Debug)]
pub struct Reporter {
    source: TorrentSource,
    clock: Clock,
    stopping: AtomicBool,
}

impl Reporter {
    /// Makes a reporter of these torrents.
    #[must_use]
    pub fn new(source: TorrentSource, clock: Clock) -> Self {
        Self { source, clock, stopping: AtomicBool::new(false) }
    }

    /// Calls `show` with all torrents that have peers or a completed count, one shard at a time, sorted by
    /// info_hash within it.
    ///
    /// # Errors
    /// Fails with the error of `show`, or with `Interrupted` when the tracker is stopping.
    pub fn walk(&self, mut show: impl FnMut(&[ReportRow]) -> io::Result<()>) -> io::Result<()> {
        let mut pace = Pace::in_background(&self.clock, &self.stopping);
        let (mut rows, mut shard) = (Vec::new(), 0);
        while self.read_shard(shard, &mut pace, &mut rows)? {
            // The torrent that fills a hole may have been met already.
            rows.sort_unstable_by_key(|row: &ReportRow| row.info_hash);
            rows.dedup_by_key(|row| row.info_hash);
            show(&rows)?;
            rows.clear();
            pace.pause_if_due()?;
            shard += 1;
        }
        Ok(())
    }

    fn read_shard(&self, number: usize, pace: &mut Pace<'_>, rows: &mut Vec<ReportRow>) -> io::Result<bool> {
        let swarms = match &self.source {
            TorrentSource::Site(torrents) => return Ok(torrents.report_rows(number, rows)),
            TorrentSource::Swarms(swarms) => swarms,
        };
        let mut before = usize::MAX;
        while before > 0 {
            let Some(rest) = swarms.report_rows(number, before, rows) else { return Ok(false) };
            before = rest;
            pace.pause_if_due()?;
        }
        Ok(true)
    }

    /// Returns the torrents with the most peers, at most `most` of them; those without peers are left out.
    ///
    /// # Errors
    /// Fails when the tracker is stopping.
    pub fn top(&self, most: usize) -> io::Result<Vec<ReportRow>> {
        let mut least_first = BinaryHeap::new();
        self.walk(|rows| {
            for row in rows.iter().filter(|row| row.peers.total() > 0) {
                least_first.push(std::cmp::Reverse(RankedRow(*row)));
                if least_first.len() > most {
                    least_first.pop();
                }
            }
            Ok(())
        })?;
        Ok(least_first.into_sorted_vec().into_iter().map(|ranked| ranked.0.0).collect())
    }

    /// Returns where the torrents are.
    #[must_use]
    pub fn source(&self) -> &TorrentSource {
        &self.source
    }

    /// Ends all walks at their next pause, those that begin later, too.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }
}

impl Swarms {
    /// Appends the counts of a slice of one shard's torrents to `rows`, where any is above zero: those before
    /// the slot `before`, the last ones first, so that the one that fills a hole has been met already, or
    /// will be. Returns the slot before which to go on; `None` past the last shard.
    fn report_rows(&self, shard: usize, before: usize, rows: &mut Vec<ReportRow>) -> Option<usize> {
        self.with_shard(shard, |shard| {
            let before = before.min(shard.len());
            let first = before.saturating_sub(SLICE);
            let torrents = (first..before).rev().filter_map(|slot| shard.torrent(slot));
            let row = |torrent: &Torrent| ReportRow {
                info_hash: torrent.info_hash,
                peers: torrent.peer_counts(),
                completed: torrent.completed,
            };
            rows.extend(torrents.map(row).filter(ReportRow::has_counts));
            first
        })
    }
}

/// A row ordered by its number of peers, and then by its info_hash, the lowest being the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RankedRow(ReportRow);

impl Ord for RankedRow {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let by_peers = self.0.peers.total().cmp(&other.0.peers.total());
        by_peers.then_with(|| other.0.info_hash.cmp(&self.0.info_hash))
    }
}

impl PartialOrd for RankedRow {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::PeerCounts;
    use crate::admission::Policy;
    use crate::announce::{Announce, Event, Handout};
    use crate::ids::{InfoHash, PeerId};
    use crate::published::Published;
    use crate::{Tick, Tracker};

    fn hash(number: u32) -> InfoHash {
        let mut octets = [0; 20];
        octets[..4].copy_from_slice(&number.to_be_bytes());
        InfoHash(octets)
    }

    fn tracker() -> Tracker {
        Tracker::new(Swarms::new(0), &Published::new(Policy::default()), 7)
    }

    fn announce(tracker: &mut Tracker, torrent: u32, address: IpAddr, port: u16, left: u64, event: Event) {
        let announce = Announce {
            info_hash: hash(torrent),
            peer_id: PeerId([7; 20]),
            address,
            port,
            left,
            uploaded: 0,
            downloaded: 0,
            event,
            num_want: 0,
        };
        tracker.announce(Tick(7), &announce, &mut Handout::new(&mut [], &mut [])).unwrap();
    }

    fn reporter(tracker: &Tracker) -> Reporter {
        Reporter::new(TorrentSource::Swarms(Arc::clone(tracker.swarms())), Clock::start())
    }

    #[test]
    fn every_torrent_is_shown_once() {
        let mut tracker = tracker();
        for torrent in 0..20_000 {
            announce(&mut tracker, torrent, [192, 0, 2, 7].into(), 7000, 1, Event::None);
        }
        let mut seen = std::collections::BTreeSet::new();
        reporter(&tracker)
            .walk(|rows| {
                rows.iter().for_each(|row| assert!(seen.insert(row.info_hash)));
                Ok(())
            })
            .unwrap();
        assert_eq!(seen.len(), 20_000);
    }

    #[test]
    fn the_largest_come_first_and_families_and_roles_are_told_apart() {
        let mut tracker = tracker();
        let v6: IpAddr = "2001:db8::7".parse().unwrap();
        for (torrent, v4_seeders, v4_leechers, v6_leechers) in [(1, 7, 11, 2), (2, 1, 0, 0), (3, 13, 50, 0)] {
            for peer in 0..v4_seeders {
                announce(&mut tracker, torrent, [192, 0, 2, 7].into(), 7000 + peer, 0, Event::None);
            }
            for peer in 0..v4_leechers {
                announce(&mut tracker, torrent, [192, 0, 2, 9].into(), 7000 + peer, 1, Event::None);
            }
            for peer in 0..v6_leechers {
                announce(&mut tracker, torrent, v6, 7000 + peer, 1, Event::None);
            }
        }
        announce(&mut tracker, 1, [192, 0, 2, 9].into(), 7000, 0, Event::Completed);
        let top = reporter(&tracker).top(2).unwrap();
        let peers = |v4_seeders, v4_leechers, v6_seeders, v6_leechers| PeerCounts {
            v4_seeders,
            v4_leechers,
            v6_seeders,
            v6_leechers,
        };
        let row = |torrent, peers, completed| ReportRow { info_hash: hash(torrent), peers, completed };
        assert_eq!(top, [row(3, peers(13, 50, 0, 0), 0), row(1, peers(8, 10, 0, 2), 1)]);
    }

    #[test]
    fn a_walk_that_is_stopped_ends() {
        let mut tracker = tracker();
        for torrent in 0..50_000 {
            announce(&mut tracker, torrent, [192, 0, 2, 7].into(), 7000, 1, Event::None);
        }
        let reporter = reporter(&tracker);
        reporter.stop();
        assert_eq!(reporter.top(7).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
