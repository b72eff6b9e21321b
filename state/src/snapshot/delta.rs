//! Changes made by announces while a snapshot is sent to a successor: noted in memory, sent between the
//! blocks of the snapshot, and applied there. Applying the change of a peer again has no further effect, and
//! the completed count is sent as an absolute number, so it does not matter whether the snapshot had the
//! change already.
//!
//! Two orders make that right. Changes of a torrent are noted in the order in which they are made, because
//! they are noted under the lock under which they are made. And what a walk has copied is sent before any
//! change that was noted afterwards: otherwise an older block would bring back a peer that has left.

use std::io;
use std::net::IpAddr;

use super::container::{BlockSink, SnapshotError};
use super::entry::{BLOCK_OCTETS, TAG_SWARMS};
use super::walk::Walk;
use crate::announce::{Announce, Event};
use crate::clock::Tick;
use crate::ids::{ID_LEN, InfoHash, PeerId};
use crate::swarm::Swarms;
pub use crate::swarm::tap::{Delta, TooSlow};

/// Tag of a block of changes.
pub const TAG_DELTAS: u8 = 2;
/// Changes in one block, far below the longest block. While a walk goes on, changes are sent once there are
/// this many.
const BLOCK_DELTAS: usize = 10_000;
/// A round with fewer changes than this is small enough to stop announces for the rest.
const ROUND_SMALL: usize = 2000;
/// Rounds of changes behind a walk, at most; what is left then is what comes while a few thousand are sent.
const ROUNDS_MAX: usize = 50;
/// Octets of one change: info_hash, completed, peer_id, seeder and event and family, port, address.
const DELTA_LEN: usize = ID_LEN + 4 + ID_LEN + 1 + 2 + 16;
const SEEDER: u8 = 1;
const V6: u8 = 2;
const STOPPED: u8 = 4;
const PAUSED: u8 = 8;

/// Writes everything that a walk visits, and between its blocks and behind them the changes noted meanwhile,
/// until only a few are left. So pending changes are never more than come during a few blocks, however large
/// the swarms are and however long they take.
///
/// # Errors
/// Fails when `to` does, or when changes come faster than `to` takes them.
pub fn stream_swarms(
    walk: &mut Walk,
    swarms: &Swarms,
    to: &mut dyn BlockSink,
    mut now: impl FnMut() -> Tick,
) -> io::Result<()> {
    let mut payload = Vec::with_capacity(2 * BLOCK_OCTETS);
    loop {
        let more = walk.copy_slice(now(), &mut payload);
        if payload.len() >= BLOCK_OCTETS || !more || swarms.tap().len() >= BLOCK_DELTAS {
            while walk.write_pending(now(), &mut payload) {
                if payload.len() >= BLOCK_OCTETS {
                    to.write_block(TAG_SWARMS, &payload)?;
                    payload.clear();
                }
            }
            to.write_block(TAG_SWARMS, &payload)?;
            payload.clear();
            write_deltas(swarms, to)?;
        }
        if !more {
            break;
        }
    }
    for _ in 0..ROUNDS_MAX {
        if write_deltas(swarms, to)? < ROUND_SMALL {
            break;
        }
    }
    Ok(())
}

/// Writes the changes noted since the last call; returns their number.
///
/// # Errors
/// Fails when `to` does, or when some changes were not noted for lack of room.
pub fn write_deltas(swarms: &Swarms, to: &mut dyn BlockSink) -> io::Result<usize> {
    let deltas = swarms.take_deltas().map_err(io::Error::other)?;
    let mut payload = Vec::with_capacity(deltas.len().min(BLOCK_DELTAS) * DELTA_LEN);
    for some in deltas.chunks(BLOCK_DELTAS) {
        payload.clear();
        some.iter().for_each(|delta| encode_delta(delta, &mut payload));
        to.write_block(TAG_DELTAS, &payload)?;
    }
    Ok(deltas.len())
}

/// Appends a change to the payload of a block.
pub fn encode_delta(delta: &Delta, to: &mut Vec<u8>) {
    let Announce { info_hash, peer_id, address, port, left, event, .. } = delta.announce;
    to.extend(info_hash.0);
    to.extend(delta.completed.to_le_bytes());
    to.extend(peer_id.0);
    let mut flags = if left == 0 { SEEDER } else { 0 };
    flags |= match event {
        Event::Stopped => STOPPED,
        Event::Paused => PAUSED,
        Event::None | Event::Completed | Event::Started => 0,
    };
    let mut octets = [0; 16];
    match address {
        IpAddr::V4(v4) => octets.iter_mut().zip(v4.octets()).for_each(|(to, from)| *to = from),
        IpAddr::V6(v6) => {
            octets = v6.octets();
            flags |= V6;
        }
    }
    to.push(flags);
    to.extend(port.to_le_bytes());
    to.extend(octets);
}

/// Returns the changes in the payload of a block, in their order.
///
/// # Errors
/// Fails when the length is not a multiple of that of a change, or unknown flags are set.
pub fn decode_deltas(payload: &[u8]) -> Result<Vec<Delta>, SnapshotError> {
    let (entries, []) = payload.as_chunks::<DELTA_LEN>() else {
        return Err(SnapshotError::Damaged("a block of changes has a bad length"));
    };
    entries.iter().map(decode_entry).collect()
}

fn decode_entry(entry: &[u8; DELTA_LEN]) -> Result<Delta, SnapshotError> {
    let mut rest = entry.as_slice();
    let info_hash = InfoHash(take_octets(&mut rest));
    let completed = u32::from_le_bytes(take_octets(&mut rest));
    let peer_id = PeerId(take_octets(&mut rest));
    let [flags] = take_octets(&mut rest);
    let port = u16::from_le_bytes(take_octets(&mut rest));
    let octets: [u8; 16] = take_octets(&mut rest);
    if flags & !(SEEDER | V6 | STOPPED | PAUSED) != 0 {
        return Err(SnapshotError::Damaged("a change with unknown flags"));
    }
    let [a, b, c, d, ..] = octets;
    let address = if flags & V6 == 0 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(octets) };
    let event = match flags & (STOPPED | PAUSED) {
        0 => Event::None,
        PAUSED => Event::Paused,
        _ => Event::Stopped,
    };
    let left = u64::from(flags & SEEDER == 0);
    let announce =
        Announce { info_hash, peer_id, address, port, uploaded: 0, downloaded: 0, left, event, num_want: 0 };
    Ok(Delta { announce, completed })
}

/// Takes the first octets; zeros if there are too few, which cannot happen in an entry of [`DELTA_LEN`]
/// octets.
fn take_octets<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((first, behind)) = rest.split_first_chunk::<N>() else { return [0; N] };
    *rest = behind;
    *first
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::announce::Handout;
    use crate::clock::Now;
    use crate::snapshot::restore::{CompletedFrom, Restore};
    use crate::swarm::tap::{self, NOTED_MAX};
    use crate::{Policy, Published, Tracker};

    const NOW: Now = Now { tick: Tick(1000), unix_seconds: 1000 };
    const TORRENTS: u8 = 7;

    /// A tracker, and its successor, which takes each block at once.
    struct TrackerPair {
        swarms: Arc<Swarms>,
        tracker: Tracker,
        successor: Arc<Swarms>,
        policy: Policy,
        random: fastrand::Rng,
    }

    impl TrackerPair {
        fn new() -> Self {
            let seed = fastrand::u64(..);
            println!("seed {seed}");
            let (swarms, policy) = (Swarms::new(0), Policy { strict_port: false, ..Policy::default() });
            let tracker = Tracker::new(Arc::clone(&swarms), &Published::new(policy.clone()), 7);
            Self {
                swarms,
                tracker,
                successor: Swarms::new(0),
                policy,
                random: fastrand::Rng::with_seed(seed),
            }
        }

        /// One of `peers` peers makes a random announce on one of few torrents.
        fn announce(&mut self, peers: u32) {
            let number = self.random.u32(..peers);
            let event = self.random.choice([Event::None, Event::Started, Event::Completed, Event::Stopped]);
            let announce = announce_of(number, event.unwrap_or_default(), self.random.bool());
            let (mut v4, mut v6) = ([0; 0], [0; 0]);
            self.tracker.announce(NOW.tick, &announce, &mut Handout::new(&mut v4, &mut v6)).unwrap();
        }

        fn take(&self, tag: u8, payload: &[u8]) {
            if tag == TAG_SWARMS {
                let mut restore = Restore::new(&self.successor, &self.policy, CompletedFrom::Snapshot);
                return restore.restore_swarms(NOW, 1000, payload).unwrap();
            }
            let deltas = decode_deltas(payload).unwrap();
            deltas.iter().for_each(|delta| self.successor.apply_delta(NOW.tick, &self.policy, delta));
        }

        fn is_alike(&self) {
            assert_eq!(self.swarms.peer_counts(), self.successor.peer_counts());
            for torrent in 0..TORRENTS {
                let hash = InfoHash([torrent; ID_LEN]);
                assert_eq!(self.swarms.tally(&hash), self.successor.tally(&hash), "torrent {torrent}");
            }
        }
    }

    fn announce_of(number: u32, event: Event, seeds: bool) -> Announce {
        let [_, a, b, c] = number.to_be_bytes();
        let torrent = u8::try_from(number % u32::from(TORRENTS)).unwrap();
        Announce {
            info_hash: InfoHash([torrent; ID_LEN]),
            peer_id: PeerId([11; ID_LEN]),
            address: IpAddr::from([20 + a, 1, b, c]),
            port: 6881,
            uploaded: 0,
            downloaded: 0,
            left: u64::from(!seeds),
            event,
            num_want: 0,
        }
    }

    impl BlockSink for Vec<(u8, Vec<u8>)> {
        fn write_block(&mut self, tag: u8, payload: &[u8]) -> io::Result<()> {
            self.push((tag, payload.to_vec()));
            Ok(())
        }
    }

    /// Hands over to the successor of a pair, and continues to announce at every block.
    struct BusySink<'a> {
        pair: &'a mut TrackerPair,
        peers: u32,
        /// Whether announces still come while blocks are taken.
        goes_on: bool,
        noted: usize,
    }

    impl BlockSink for BusySink<'_> {
        fn write_block(&mut self, tag: u8, payload: &[u8]) -> io::Result<()> {
            self.pair.take(tag, payload);
            // By far more than fit into a block of swarms, and a twentieth of those in a block of changes.
            let per_octet = if tag == TAG_SWARMS { (6, 5) } else { (1, 20 * DELTA_LEN) };
            let count = if self.goes_on { payload.len() * per_octet.0 / per_octet.1 } else { 0 };
            (0..count).for_each(|_| self.pair.announce(self.peers));
            self.noted += count;
            Ok(())
        }
    }

    #[test]
    fn a_successor_catches_up_however_many_announces_come_during_the_walk() {
        let mut pair = TrackerPair::new();
        let peers = 200_000;
        (0..peers).for_each(|_| pair.announce(peers));
        pair.swarms.start_deltas();
        let mut walk = Walk::new(Arc::clone(&pair.swarms), NOW.tick);
        let swarms = Arc::clone(&pair.swarms);
        let mut busy = BusySink { pair: &mut pair, peers, goes_on: true, noted: 0 };
        stream_swarms(&mut walk, &swarms, &mut busy, || NOW.tick).unwrap();
        assert!(busy.noted > NOTED_MAX, "{}: more than are noted at once", busy.noted);
        busy.goes_on = false;
        let left = write_deltas(&swarms, &mut busy).unwrap();
        assert!(left < ROUND_SMALL, "{left}");
        pair.is_alike();
    }

    #[test]
    fn a_peer_that_left_after_it_was_copied_does_not_come_back() {
        let mut pair = TrackerPair::new();
        let peers = 60_000;
        (0..2 * peers).for_each(|_| pair.announce(peers));
        pair.swarms.start_deltas();
        let mut walk = Walk::new(Arc::clone(&pair.swarms), NOW.tick);
        let swarms = Arc::clone(&pair.swarms);
        let blocks = &mut Vec::new();
        // Between the slices, which end in the middle of blocks.
        stream_swarms(&mut walk, &swarms, blocks, || {
            (0..300).for_each(|_| pair.announce(peers));
            NOW.tick
        })
        .unwrap();
        write_deltas(&swarms, blocks).unwrap();
        blocks.iter().for_each(|(tag, payload)| pair.take(*tag, payload));
        pair.is_alike();
    }

    /// Two threads that change one peer note their changes in the order in which they make them, because
    /// neither of them releases the lock in between.
    #[test]
    fn a_change_is_noted_under_the_lock_under_which_it_was_made() {
        let mut pair = TrackerPair::new();
        pair.swarms.start_deltas();
        let (swarms, noted) = (Arc::clone(&pair.swarms), Rc::new(Cell::new(0)));
        let seen = Rc::clone(&noted);
        tap::WITNESS.set(Some(Box::new(move |delta| {
            assert!(swarms.is_locked(&delta.announce.info_hash), "nobody else is in between");
            seen.set(seen.get() + 1);
        })));
        (0..1000).for_each(|_| pair.announce(50));
        tap::WITNESS.set(None);
        assert_eq!(noted.get(), 1000);
        let blocks = &mut Vec::new();
        write_deltas(&pair.swarms, blocks).unwrap();
        blocks.iter().for_each(|(tag, payload)| pair.take(*tag, payload));
        pair.is_alike();
    }

    #[test]
    fn a_change_raises_the_completed_count_and_never_lowers_it() {
        let pair = TrackerPair::new();
        let announce = announce_of(0, Event::None, true);
        for (completed, expected) in [(7, 7), (11, 11), (3, 11)] {
            pair.successor.apply_delta(NOW.tick, &pair.policy, &Delta { announce, completed });
            assert_eq!(pair.successor.tally(&announce.info_hash).completed, expected);
        }
    }

    #[test]
    fn changes_are_read_as_they_were_written() {
        let mut payload = Vec::new();
        let mut written = Vec::new();
        for (number, event) in (0..).zip([Event::None, Event::Stopped, Event::Paused]) {
            for address in ["192.0.2.7", "2001:db8::7"] {
                let announce = Announce {
                    info_hash: InfoHash([number; ID_LEN]),
                    peer_id: PeerId([11; ID_LEN]),
                    address: address.parse().unwrap(),
                    port: 6881,
                    uploaded: 0,
                    downloaded: 0,
                    left: u64::from(number) % 2,
                    event,
                    num_want: 0,
                };
                let delta = Delta { announce, completed: 13 };
                encode_delta(&delta, &mut payload);
                written.push(delta);
            }
        }
        assert_eq!(decode_deltas(&payload).unwrap(), written);
        assert!(decode_deltas(&payload[1..]).is_err());
        payload[ID_LEN + 4 + ID_LEN] |= 0x80;
        assert!(decode_deltas(&payload).is_err());
    }
}
