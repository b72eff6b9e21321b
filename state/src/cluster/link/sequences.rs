//! [`Sequences`]: the last entry that was read of each incarnation, so that none is applied twice.

use std::collections::HashMap;

use crate::cluster::bus::EntryId;
use crate::cluster::codec::Incarnation;

/// Incarnations that are remembered. Only a node that holds the secret can make one, by a start.
const INCARNATIONS_MAX: usize = 4096;

/// The last sequence number of each incarnation, and where it was.
#[derive(Debug, Default)]
pub(super) struct Sequences(HashMap<Incarnation, (u64, EntryId)>);

impl Sequences {
    /// Those of a saved position; where each was is not known.
    pub(super) fn restore(saved: &[(Incarnation, u64)]) -> Self {
        Self(saved.iter().map(|&(incarnation, seq)| (incarnation, (seq, EntryId::default()))).collect())
    }

    /// Returns the last number of each incarnation.
    pub(super) fn saved(&self) -> Vec<(Incarnation, u64)> {
        self.0.iter().map(|(incarnation, (seq, _))| (*incarnation, *seq)).collect()
    }

    /// Whether the entry is later than all that were read of its incarnation; then it is the last one.
    pub(super) fn accept(&mut self, incarnation: Incarnation, seq: u64, id: EntryId) -> bool {
        if let Some((last, at)) = self.0.get_mut(&incarnation) {
            let is_later = seq > *last;
            if is_later {
                (*last, *at) = (seq, id);
            }
            return is_later;
        }
        if self.0.len() >= INCARNATIONS_MAX
            && let Some(silent) = self.0.iter().min_by_key(|(_, (_, at))| *at).map(|(oldest, _)| *oldest)
        {
            self.0.remove(&silent);
        }
        self.0.insert(incarnation, (seq, id));
        true
    }
}
