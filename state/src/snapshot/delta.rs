//! What announces change while a snapshot goes to a successor: noted in memory, sent between its blocks, and
//! applied there. The change of a peer is the same however often it is applied, and the completed count is
//! told as a whole, so it does not matter whether the snapshot had it already.
//!
//! Two orders make that right. Changes of a torrent are noted in the order in which they are made, because
//! they are noted under the lock under which they are made. And what a walk has copied is sent before any
//! change that was noted afterwards: else a peer that has left would come back with a block that is older.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::container::{BlockSink, SnapshotError};
use super::swarms::{BLOCK_OCTETS, TAG_SWARMS};
use super::walk::Walk;
use crate::address::AddressScope;
use crate::admission::Policy;
use crate::announce::{Announce, Event, Handout};
use crate::clock::Tick;
use crate::ids::{ID_LEN, InfoHash, PeerId};
use crate::swarm::Swarms;

/// Tag of a block of changes.
pub const TAG_DELTAS: u8 = 2;
/// Changes that are noted at most; a successor that is further behind is given up.
const NOTED_MAX: usize = 1 << 20;
/// Changes in one block; far below the longest one. As many are sent at once while a walk goes on.
const BLOCK_DELTAS: usize = 10_000;
/// Changes after which a round is small enough to stop for the rest.
const ROUND_SMALL: usize = 2000;
/// Rounds of changes at most behind a walk; what is left then is what comes while some thousand are sent.
const ROUNDS_MAX: usize = 50;
/// Octets of one change: info_hash, completed, peer_id, seeder and event and family, port, address.
const DELTA_LEN: usize = ID_LEN + 4 + ID_LEN + 1 + 2 + 16;
const SEEDER: u8 = 1;
const V6: u8 = 2;
const STOPPED: u8 = 4;
const PAUSED: u8 = 8;

/// One announce that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    /// What the peer said; amounts and wishes are left out.
    pub announce: Announce,
    /// The torrent's count of finished downloads afterwards.
    pub completed: u32,
}

/// Where announces are noted while somebody wants them.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    open: AtomicBool,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    deltas: Vec<Delta>,
    overflowed: bool,
}

/// The successor takes changes more slowly than they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {NOTED_MAX} announces came while they were being handed over")]
pub struct TooSlow;

impl Tap {
    /// From now on every announce is noted.
    pub(crate) fn start(&self) {
        *self.noted.lock() = Noted::default();
        self.open.store(true, Ordering::SeqCst);
    }

    /// No more is noted, and what was is forgotten.
    pub(crate) fn stop(&self) {
        self.open.store(false, Ordering::SeqCst);
        *self.noted.lock() = Noted::default();
    }

    /// Whether announces are noted. Whoever changes a swarm asks after that: then a change that is not noted
    /// was made before the tap was opened, and a walk that begins later meets it.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn note_delta(&self, delta: Delta) {
        #[cfg(test)]
        tests::observe(&delta);
        let mut noted = self.noted.lock();
        if noted.deltas.len() < NOTED_MAX {
            noted.deltas.push(delta);
        } else {
            noted.overflowed = true;
        }
    }

    fn len(&self) -> usize {
        self.noted.lock().deltas.len()
    }

    /// What was noted since the last call.
    pub(crate) fn take_deltas(&self) -> Result<Vec<Delta>, TooSlow> {
        let mut noted = self.noted.lock();
        if noted.overflowed { Err(TooSlow) } else { Ok(std::mem::take(&mut noted.deltas)) }
    }
}

impl Swarms {
    /// From now on every announce is noted for a successor, until [`forget_deltas`](Self::forget_deltas).
    pub fn start_deltas(&self) {
        self.tap().start();
    }

    /// The announces that were noted since the last call.
    ///
    /// # Errors
    /// When more came than can be kept; then some are missing.
    pub fn take_deltas(&self) -> Result<Vec<Delta>, TooSlow> {
        self.tap().take_deltas()
    }

    /// Nobody wants the announces any more.
    pub fn stop_deltas(&self) {
        self.tap().stop();
    }

    /// Does what an announce did that a predecessor has carried out and answered.
    pub fn apply_delta(&self, now: Tick, policy: &Policy, delta: &Delta) {
        let announce = &delta.announce;
        let Some(scope) = AddressScope::of(announce.address) else { return };
        let (mut v4, mut v6) = ([0; 0], [0; 0]);
        let (mut random, mut handout) = (fastrand::Rng::with_seed(0), Handout::new(&mut v4, &mut v6));
        self.announce(now, policy, scope, announce, &mut random, &mut handout);
        self.raise_completed(&announce.info_hash, delta.completed);
    }
}

/// Writes all that a walk meets, and between its blocks and behind them the changes that are noted meanwhile,
/// until only a few are left. So they are never more than come during a few blocks, however large the swarms
/// are and however long they take.
///
/// # Errors
/// Those of `to`, and when changes come faster than `to` takes them.
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

/// Writes the changes that were noted since the last call; gives how many that were.
///
/// # Errors
/// Those of `to`, and when some were not noted for lack of room.
pub fn write_deltas(swarms: &Swarms, to: &mut dyn BlockSink) -> io::Result<usize> {
    let deltas = swarms.take_deltas().map_err(io::Error::other)?;
    let mut payload = Vec::with_capacity(deltas.len().min(BLOCK_DELTAS) * DELTA_LEN);
    for some in deltas.chunks(BLOCK_DELTAS) {
        payload.clear();
        some.iter().for_each(|delta| delta.encode(&mut payload));
        to.write_block(TAG_DELTAS, &payload)?;
    }
    Ok(deltas.len())
}

impl Delta {
    /// Appends the change to the payload of a block.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let Announce { info_hash, peer_id, address, port, left, event, .. } = self.announce;
        to.extend(info_hash.0);
        to.extend(self.completed.to_le_bytes());
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

    /// The changes in the payload of a block, in their order.
    ///
    /// # Errors
    /// When its length fits no number of changes, or something else than a flag is where flags are.
    pub fn decode_block(payload: &[u8]) -> Result<Vec<Self>, SnapshotError> {
        let (entries, []) = payload.as_chunks::<DELTA_LEN>() else {
            return Err(SnapshotError::Damaged("changes that are no changes"));
        };
        entries.iter().map(Self::decode_entry).collect()
    }

    fn decode_entry(entry: &[u8; DELTA_LEN]) -> Result<Self, SnapshotError> {
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
        let announce = Announce {
            info_hash,
            peer_id,
            address,
            port,
            uploaded: 0,
            downloaded: 0,
            left,
            event,
            num_want: 0,
        };
        Ok(Self { announce, completed })
    }
}

/// The first octets; zeros where the end comes first, which an entry of [`LEN`] octets does not let happen.
fn take_octets<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((first, behind)) = rest.split_first_chunk::<N>() else { return [0; N] };
    *rest = behind;
    *first
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::clock::Now;
    use crate::snapshot::swarms::{CompletedFrom, Restore};
    use crate::{Published, Tracker};

    const NOW: Now = Now { tick: Tick(1000), unix_seconds: 1000 };
    const TORRENTS: u8 = 7;

    /// A tracker, and a successor of it that takes each block at once.
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

        /// One of many peers does something in one of few torrents.
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
            let deltas = Delta::decode_block(payload).unwrap();
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

    /// Hands over to the successor of a pair, and goes on announcing at every block.
    struct BusySink<'a> {
        pair: &'a mut TrackerPair,
        peers: u32,
        /// Announces that come while something is taken go on.
        goes_on: bool,
        noted: usize,
    }

    impl BlockSink for BusySink<'_> {
        fn write_block(&mut self, tag: u8, payload: &[u8]) -> io::Result<()> {
            self.pair.take(tag, payload);
            // By far more than will be in a block of swarms, and a twentieth of what is in one of changes.
            let per_octet = if tag == TAG_SWARMS { (6, 5) } else { (1, 20 * DELTA_LEN) };
            let count = if self.goes_on { payload.len() * per_octet.0 / per_octet.1 } else { 0 };
            (0..count).for_each(|_| self.pair.announce(self.peers));
            self.noted += count;
            Ok(())
        }
    }

    #[test]
    fn a_heir_catches_up_however_many_announces_come_during_the_walk() {
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
    fn who_left_after_he_was_copied_does_not_come_back() {
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

    type DeltaObserver = Box<dyn FnMut(&Delta)>;

    thread_local! {
        /// Sees each change of this thread at the moment in which it is noted.
        static WITNESS: RefCell<Option<DeltaObserver>> = const { RefCell::new(None) };
    }

    pub(super) fn observe(delta: &Delta) {
        WITNESS.with_borrow_mut(|observer| observer.iter_mut().for_each(|observer| observer(delta)));
    }

    /// Two threads that change one peer note that in the order in which they change it, because neither of
    /// them lets go of the lock in between.
    #[test]
    fn a_change_is_noted_under_the_lock_under_which_it_was_made() {
        let mut pair = TrackerPair::new();
        pair.swarms.start_deltas();
        let (swarms, noted) = (Arc::clone(&pair.swarms), Rc::new(Cell::new(0)));
        let seen = Rc::clone(&noted);
        WITNESS.set(Some(Box::new(move |delta| {
            assert!(swarms.is_locked(&delta.announce.info_hash), "nobody else is in between");
            seen.set(seen.get() + 1);
        })));
        (0..1000).for_each(|_| pair.announce(50));
        WITNESS.set(None);
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
                delta.encode(&mut payload);
                written.push(delta);
            }
        }
        assert_eq!(Delta::decode_block(&payload).unwrap(), written);
        assert!(Delta::decode_block(&payload[1..]).is_err());
        payload[ID_LEN + 4 + ID_LEN] |= 0x80;
        assert!(Delta::decode_block(&payload).is_err());
    }

    #[test]
    fn a_tap_notes_only_while_it_is_open_and_says_when_it_is_too_much() {
        let tap = Tap::default();
        assert!(!tap.is_open());
        tap.start();
        assert!(tap.is_open());
        let mut payload = vec![0; DELTA_LEN];
        payload[DELTA_LEN - 16] = 10;
        let delta = Delta::decode_block(&payload).unwrap()[0];
        (0..7).for_each(|_| tap.note_delta(delta));
        assert_eq!(tap.take_deltas().unwrap().len(), 7);
        (0..=NOTED_MAX).for_each(|_| tap.note_delta(delta));
        assert_eq!(tap.take_deltas(), Err(TooSlow));
        tap.stop();
        assert_eq!((tap.is_open(), tap.take_deltas().unwrap().len()), (false, 0));
    }
}
