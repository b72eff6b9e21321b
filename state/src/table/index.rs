//! [`SlotIndex`]: finds the slot of a torrent by its hash. An index of fingerprints in cache lines: one line
//! answers nearly every lookup, and a batch can have its lines fetched before.

use crate::table::prefetch::prefetch;

/// Slots in one line.
const LINE_LEN: usize = 12;
/// Average of used slots in a line at which the index doubles: beyond, too many slots pass to the next line.
const FULL_AT: usize = 10;
/// Average of used slots in a line below which the index shrinks.
const SPARSE_AT: usize = 2;
/// The highest count of slots that have passed a full line.
const MANY_PASSED: u8 = u8::MAX;

/// Slots by hash. Different torrents may have one hash.
#[derive(Debug, Default)]
pub(crate) struct SlotIndex {
    lines: Box<[CacheLine]>,
    len: usize,
}

/// One cache line: the slots whose hashes lead here, and the fingerprint of each hash.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct CacheLine {
    slots: [u32; LINE_LEN],
    /// One octet for each slot; 0 = the place is free.
    fingerprints: [u8; LINE_LEN],
    /// Slots that found this line full and are in a later one. At [`MANY_PASSED`] the count is lost, and the
    /// line counts as passed for ever.
    passed: u8,
}

const _: () = assert!(size_of::<CacheLine>() == 64);

impl CacheLine {
    const EMPTY: Self = Self { slots: [0; LINE_LEN], fingerprints: [0; LINE_LEN], passed: 0 };

    /// Iterates over the places with this fingerprint, and rarely over one that differs in its last bit. All
    /// are compared at once: each octet becomes one bit, its highest, which is set where the octet equals the
    /// fingerprint; the subtraction may borrow from the octet behind such a one.
    fn places_of(&self, fingerprint: u8) -> impl Iterator<Item = usize> + use<> {
        const ONES: u128 = u128::MAX / 0xff;
        const HIGH: u128 = (ONES << 7) & (u128::MAX >> (8 * (16 - LINE_LEN)));
        let mut word = [0; 16];
        word.iter_mut().zip(self.fingerprints).for_each(|(to, from)| *to = from);
        let differs = u128::from_le_bytes(word) ^ (ONES * u128::from(fingerprint));
        let mut same = differs.wrapping_sub(ONES) & !differs & HIGH;
        std::iter::from_fn(move || {
            let place = (same != 0).then(|| same.trailing_zeros() as usize / 8);
            same &= same.wrapping_sub(1);
            place
        })
    }

    fn slots_with(&self, fingerprint: u8) -> impl Iterator<Item = u32> {
        self.places_of(fingerprint).filter_map(|place| self.slots.get(place).copied())
    }

    /// Puts a slot into a free place; false if there is none.
    fn insert(&mut self, fingerprint: u8, slot: u32) -> bool {
        let Some(place) = self.fingerprints.iter().position(|mark| *mark == 0) else { return false };
        self.set_place(place, fingerprint, slot);
        true
    }

    fn set_place(&mut self, place: usize, fingerprint: u8, slot: u32) {
        if let (Some(mark), Some(to)) = (self.fingerprints.get_mut(place), self.slots.get_mut(place)) {
            (*mark, *to) = (fingerprint, slot);
        }
    }

    /// Returns the place of a slot.
    fn place_of(&self, fingerprint: u8, slot: u32) -> Option<usize> {
        self.places_of(fingerprint).find(|&place| self.slots.get(place) == Some(&slot))
    }
}

impl SlotIndex {
    /// Octets on the heap.
    pub(crate) fn heap(&self) -> usize {
        size_of_val(&*self.lines)
    }

    /// Starts fetching the line of a hash into the cache.
    pub(crate) fn prefetch(&self, hash: u64) {
        if let Some(line) = self.lines.get(self.home_line(hash)) {
            prefetch(line);
        }
    }

    /// Returns a slot that is likely the one of this hash, without a look at it.
    pub(crate) fn likely_slot(&self, hash: u64) -> Option<u32> {
        self.lines.get(self.home_line(hash))?.slots_with(fingerprint(hash)).next()
    }

    pub(crate) fn find(&self, hash: u64, same: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.home_line(hash);
        for _ in 0..self.lines.len() {
            let line = self.lines.get(at)?;
            if let Some(slot) = line.slots_with(fingerprint(hash)).find(|&slot| same(slot)) {
                return Some(slot);
            }
            if line.passed == 0 {
                return None;
            }
            at = if at + 1 == self.lines.len() { 0 } else { at + 1 };
        }
        None
    }

    /// Adds a slot. `all` yields every slot that is here with its hash, in case they have to move.
    pub(crate) fn insert<A: Iterator<Item = (u64, u32)>>(
        &mut self,
        hash: u64,
        slot: u32,
        all: impl Fn() -> A,
    ) {
        if self.len >= self.lines.len() * FULL_AT {
            self.rebuild(2 * self.lines.len() + 1, all());
        }
        self.insert_slot(hash, slot);
        self.len += 1;
    }

    /// Removes a slot. `all` yields every other slot that is here with its hash, in case they have to move.
    pub(crate) fn remove<A: Iterator<Item = (u64, u32)>>(
        &mut self,
        hash: u64,
        slot: u32,
        all: impl Fn() -> A,
    ) {
        let Some((passed, at, place)) = self.find_place(hash, slot) else { return };
        if let Some(line) = self.lines.get_mut(at) {
            line.set_place(place, 0, 0);
        }
        for at in self.probe_sequence(hash).take(passed) {
            if let Some(line) = self.lines.get_mut(at).filter(|line| line.passed != MANY_PASSED) {
                line.passed -= 1;
            }
        }
        self.len -= 1;
        if self.lines.len() > 1 && self.len < self.lines.len() * SPARSE_AT {
            self.rebuild(2 * self.len / FULL_AT + 1, all());
        }
    }

    /// Records that what was in slot `from` is in slot `to` now.
    pub(crate) fn move_slot(&mut self, hash: u64, from: u32, to: u32) {
        let Some((_, at, place)) = self.find_place(hash, from) else { return };
        if let Some(slot) = self.lines.get_mut(at).and_then(|line| line.slots.get_mut(place)) {
            *slot = to;
        }
    }

    /// Returns how many full lines a slot has passed, the line that it is in, and its place there.
    fn find_place(&self, hash: u64, slot: u32) -> Option<(usize, usize, usize)> {
        self.probe_sequence(hash).enumerate().find_map(|(passed, at)| {
            let place = self.lines.get(at)?.place_of(fingerprint(hash), slot)?;
            Some((passed, at, place))
        })
    }

    fn insert_slot(&mut self, hash: u64, slot: u32) {
        let home = self.home_line(hash);
        if self.lines.get_mut(home).is_some_and(|line| line.insert(fingerprint(hash), slot)) {
            return;
        }
        for at in self.probe_sequence(hash) {
            let Some(line) = self.lines.get_mut(at) else { return };
            if line.insert(fingerprint(hash), slot) {
                return;
            }
            line.passed = line.passed.saturating_add(1);
        }
    }

    /// Iterates over the lines in which a hash may be: its home, then the next, wrapping around.
    fn probe_sequence(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let (home, len) = (self.home_line(hash), self.lines.len());
        (home..len).chain(0..home)
    }

    /// Returns the line for the lower half of the hash, for any number of lines.
    #[expect(clippy::cast_possible_truncation, reason = "below the number of lines")]
    fn home_line(&self, hash: u64) -> usize {
        ((u64::from(hash as u32) * self.lines.len() as u64) >> 32) as usize
    }

    /// Puts all slots into an index with `lines` lines. With ten million torrents a shard has ten thousand
    /// slots: this takes a fraction of a millisecond.
    fn rebuild(&mut self, lines: usize, all: impl Iterator<Item = (u64, u32)>) {
        self.lines = vec![CacheLine::EMPTY; lines].into_boxed_slice();
        all.for_each(|(hash, slot)| self.insert_slot(hash, slot));
    }
}

/// Returns seven bits of the hash by which neither line nor shard is chosen, and one bit so that it is not 0.
fn fingerprint(hash: u64) -> u8 {
    hash.to_be_bytes()[0] | 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(slot: u32) -> u64 {
        fastrand::Rng::with_seed(slot.into()).u64(..)
    }

    fn hashed(slots: std::ops::Range<u32>) -> impl Iterator<Item = (u64, u32)> {
        slots.map(|slot| (hash(slot), slot))
    }

    #[test]
    fn slots_are_found_through_growth_and_decline() {
        let mut index = SlotIndex::default();
        let check = |index: &SlotIndex, from: u32, to: u32| {
            assert_eq!(index.len, (to - from) as usize);
            for slot in 0..20_000 {
                let found = index.find(hash(slot), |other| other == slot);
                assert_eq!(found.is_some(), (from..to).contains(&slot), "{slot} of {from}..{to}");
            }
        };
        for slot in 0..20_000 {
            index.insert(hash(slot), slot, || hashed(0..slot));
        }
        check(&index, 0, 20_000);
        let full = index.heap();
        assert!(full <= 20_000 * 13, "{full} octets");
        for slot in 0..19_900 {
            index.remove(hash(slot), slot, || hashed(slot + 1..20_000));
        }
        check(&index, 19_900, 20_000);
        assert!(index.heap() < full / 50, "{} of {full}", index.heap());
    }

    #[test]
    fn slots_of_one_hash_are_told_apart_beyond_one_line() {
        const HASH: u64 = 7;
        let mut index = SlotIndex::default();
        // More than a line can count as passed.
        (0..400).for_each(|slot| index.insert(HASH, slot, || (0..slot).map(|slot| (HASH, slot))));
        let gone = |slot: &u32| slot.is_multiple_of(3);
        (0..400).filter(gone).for_each(|slot| index.remove(HASH, slot, std::iter::empty));
        index.move_slot(HASH, 7, 1007);
        for slot in 0..400 {
            let found = index.find(HASH, |other| other == slot);
            assert_eq!(found.is_some(), !gone(&slot) && slot != 7, "{slot}");
        }
        assert_eq!(index.find(HASH, |other| other == 1007), Some(1007));
    }

    #[test]
    fn no_line_counts_as_passed_after_the_slots_are_gone() {
        let mut index = SlotIndex::default();
        (0..30).for_each(|slot| index.insert(7, slot, || (0..slot).map(|slot| (7, slot))));
        (0..30).for_each(|slot| index.remove(7, slot, || (slot + 1..30).map(|slot| (7, slot))));
        assert!(index.lines.iter().all(|line| line.fingerprints == [0; LINE_LEN] && line.passed == 0));
    }
}
