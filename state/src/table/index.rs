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

/// Lines that one change moves while the index grows or shrinks: few, so that no change takes long, and
/// enough that all have moved long before the next time.
const MOVED_AT_ONCE: usize = 4;

/// Slots by hash. Different torrents may have one hash. It grows and shrinks a few lines at a time, so that
/// no lock is held for all of it, however large it is.
#[derive(Debug, Default)]
pub(crate) struct SlotIndex {
    table: SlotTable,
    len: usize,
    /// What is still to be moved into `table`.
    old: Option<Box<OldTable>>,
}

/// The table of an index before it grew or shrank.
#[derive(Debug)]
struct OldTable {
    table: SlotTable,
    /// Lines that have been moved already, the first ones.
    moved: usize,
}

/// A hash table of slots, of a fixed size.
#[derive(Debug, Default)]
struct SlotTable(Box<[CacheLine]>);

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

    /// Takes all slots out. The count of those that passed stays: they are still behind this line.
    fn take_slots(&mut self) -> impl Iterator<Item = u32> + use<> {
        let marks = std::mem::take(&mut self.fingerprints);
        self.slots.into_iter().zip(marks).filter_map(|(slot, mark)| (mark != 0).then_some(slot))
    }

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
        let heap_of_old = |old: &OldTable| size_of_val(old) + old.table.heap();
        self.table.heap() + self.old.as_deref().map_or(0, heap_of_old)
    }

    /// Starts fetching the line of a hash into the cache.
    pub(crate) fn prefetch(&self, hash: u64) {
        self.table.prefetch(hash);
        if let Some(old) = &self.old {
            old.table.prefetch(hash);
        }
    }

    /// Returns a slot that is likely the one of this hash, without a look at it.
    pub(crate) fn likely_slot(&self, hash: u64) -> Option<u32> {
        let of_old = || self.old.as_ref().and_then(|old| old.table.likely_slot(hash));
        self.table.likely_slot(hash).or_else(of_old)
    }

    pub(crate) fn find(&self, hash: u64, same: impl Fn(u32) -> bool) -> Option<u32> {
        let of_old = || self.old.as_ref().and_then(|old| old.table.find(hash, &same));
        self.table.find(hash, &same).or_else(of_old)
    }

    /// Adds a slot. `hash_of` returns the hash of a slot that is here, in case it has to move.
    pub(crate) fn insert(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        if self.old.is_none() && self.len >= self.table.0.len() * FULL_AT {
            self.begin_move(2 * self.table.0.len() + 1);
        }
        self.table.insert(hash, slot);
        self.len += 1;
        self.move_lines(hash_of);
    }

    /// Removes a slot. `hash_of` returns the hash of a slot that stays, in case it has to move.
    pub(crate) fn remove(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        if !self.all_tables_mut().any(|table| table.remove(hash, slot)) {
            return;
        }
        self.len -= 1;
        if self.old.is_none() && self.table.0.len() > 1 && self.len < self.table.0.len() * SPARSE_AT {
            self.begin_move(2 * self.len / FULL_AT + 1);
        }
        self.move_lines(hash_of);
    }

    /// Records that what was in slot `from` is in slot `to` now.
    pub(crate) fn move_slot(&mut self, hash: u64, from: u32, to: u32) {
        let place = self.all_tables_mut().find_map(|table| {
            let (_, at, place) = table.find_place(hash, from)?;
            table.0.get_mut(at)?.slots.get_mut(place)
        });
        if let Some(slot) = place {
            *slot = to;
        }
    }

    fn all_tables_mut(&mut self) -> impl Iterator<Item = &mut SlotTable> {
        std::iter::once(&mut self.table).chain(self.old.as_deref_mut().map(|old| &mut old.table))
    }

    /// Begins to move all slots into so many lines.
    fn begin_move(&mut self, lines: usize) {
        let table = SlotTable(vec![CacheLine::EMPTY; lines].into_boxed_slice());
        let table = std::mem::replace(&mut self.table, table);
        self.old = (!table.0.is_empty()).then(|| Box::new(OldTable { table, moved: 0 }));
    }

    /// Moves the slots of a few lines of the old table, if there is one.
    fn move_lines(&mut self, hash_of: impl Fn(u32) -> u64) {
        let Some(old) = &mut self.old else { return };
        for line in old.table.0.iter_mut().skip(old.moved).take(MOVED_AT_ONCE) {
            line.take_slots().for_each(|slot| self.table.insert(hash_of(slot), slot));
            old.moved += 1;
        }
        if old.moved == old.table.0.len() {
            self.old = None;
        }
    }
}

impl SlotTable {
    fn heap(&self) -> usize {
        size_of_val(&*self.0)
    }

    fn prefetch(&self, hash: u64) {
        if let Some(line) = self.0.get(self.home_line(hash)) {
            prefetch(line);
        }
    }

    fn likely_slot(&self, hash: u64) -> Option<u32> {
        self.0.get(self.home_line(hash))?.slots_with(fingerprint(hash)).next()
    }

    fn find(&self, hash: u64, same: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.home_line(hash);
        for _ in 0..self.0.len() {
            let line = self.0.get(at)?;
            if let Some(slot) = line.slots_with(fingerprint(hash)).find(|&slot| same(slot)) {
                return Some(slot);
            }
            if line.passed == 0 {
                return None;
            }
            at = if at + 1 == self.0.len() { 0 } else { at + 1 };
        }
        None
    }

    fn insert(&mut self, hash: u64, slot: u32) {
        let home = self.home_line(hash);
        if self.0.get_mut(home).is_some_and(|line| line.insert(fingerprint(hash), slot)) {
            return;
        }
        for at in self.probe_sequence(hash) {
            let Some(line) = self.0.get_mut(at) else { return };
            if line.insert(fingerprint(hash), slot) {
                return;
            }
            line.passed = line.passed.saturating_add(1);
        }
    }

    /// Removes a slot; false if it is not here.
    fn remove(&mut self, hash: u64, slot: u32) -> bool {
        let Some((passed, at, place)) = self.find_place(hash, slot) else { return false };
        if let Some(line) = self.0.get_mut(at) {
            line.set_place(place, 0, 0);
        }
        for at in self.probe_sequence(hash).take(passed) {
            if let Some(line) = self.0.get_mut(at).filter(|line| line.passed != MANY_PASSED) {
                line.passed -= 1;
            }
        }
        true
    }

    /// Returns how many full lines a slot has passed, the line that it is in, and its place there.
    fn find_place(&self, hash: u64, slot: u32) -> Option<(usize, usize, usize)> {
        for (passed, at) in self.probe_sequence(hash).enumerate() {
            let line = self.0.get(at)?;
            if let Some(place) = line.place_of(fingerprint(hash), slot) {
                return Some((passed, at, place));
            }
            if line.passed == 0 {
                return None;
            }
        }
        None
    }

    /// Iterates over the lines in which a hash may be: its home, then the next, wrapping around.
    fn probe_sequence(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let (home, len) = (self.home_line(hash), self.0.len());
        (home..len).chain(0..home)
    }

    /// Returns the line for the lower half of the hash, for any number of lines.
    #[expect(clippy::cast_possible_truncation, reason = "below the number of lines")]
    fn home_line(&self, hash: u64) -> usize {
        ((u64::from(hash as u32) * self.0.len() as u64) >> 32) as usize
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
            index.insert(hash(slot), slot, hash);
        }
        check(&index, 0, 20_000);
        let full = index.heap();
        assert!(full <= 20_000 * 13, "{full} octets");
        for slot in 0..19_900 {
            index.remove(hash(slot), slot, hash);
        }
        check(&index, 19_900, 20_000);
        // Room for some that are still being moved.
        assert!(index.heap() < full / 20, "{} of {full}", index.heap());
    }

    #[test]
    fn slots_of_one_hash_are_told_apart_beyond_one_line() {
        const HASH: u64 = 7;
        let mut index = SlotIndex::default();
        // More than a line can count as passed.
        (0..400).for_each(|slot| index.insert(HASH, slot, |_| HASH));
        let gone = |slot: &u32| slot.is_multiple_of(3);
        (0..400).filter(gone).for_each(|slot| index.remove(HASH, slot, |_| HASH));
        index.move_slot(HASH, 7, 1007);
        for slot in 0..400 {
            let found = index.find(HASH, |other| other == slot);
            assert_eq!(found.is_some(), !gone(&slot) && slot != 7, "{slot}");
        }
        assert_eq!(index.find(HASH, |other| other == 1007), Some(1007));
    }

    #[test]
    fn no_change_moves_more_than_a_few_lines_however_large_the_index_is() {
        let (mut index, mut moves) = (SlotIndex::default(), 0);
        let asked = std::cell::Cell::new(0);
        let counted = |slot| {
            asked.set(asked.get() + 1);
            hash(slot)
        };
        let mut check = |index: &SlotIndex| {
            assert!(asked.take() <= MOVED_AT_ONCE * LINE_LEN);
            moves += u32::from(index.old.is_some());
        };
        for slot in 0..100_000 {
            index.insert(hash(slot), slot, counted);
            check(&index);
            // Also one that has not moved yet.
            assert_eq!(index.find(hash(slot / 2), |other| other == slot / 2), Some(slot / 2));
        }
        for slot in 0..99_990 {
            index.remove(hash(slot), slot, counted);
            check(&index);
            let last = 99_999 - slot % 10;
            assert_eq!(index.find(hash(last), |other| other == last), Some(last));
        }
        assert!(moves > 1000, "{moves}");
    }

    #[test]
    fn no_line_counts_as_passed_after_the_slots_are_gone() {
        let mut index = SlotIndex::default();
        (0..30).for_each(|slot| index.insert(7, slot, |_| 7));
        (0..30).for_each(|slot| index.remove(7, slot, |_| 7));
        assert!(index.table.0.iter().all(|line| line.fingerprints == [0; LINE_LEN] && line.passed == 0));
    }
}
