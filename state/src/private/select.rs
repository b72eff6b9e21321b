//! The choice of peers that are handed out in a private swarm.

use super::columns::PeerColumns;
use super::peer::{EndpointV4, SESSIONS_MAX, ShownFamilies};
use crate::announce::{Handout, PEER_V6_LEN};
use crate::lock_cost;

/// Parts of a swarm among which a hand-out alternates, so that peers that came together are not always
/// handed out together.
const RING_PARTS: usize = 4;
/// Draws for the start of a hand-out, at most, as long as they meet the requester's own peers.
const DRAWS_MAX: usize = 32;
/// Columns of one role that one requester may be handed peers from.
const COLUMNS_MAX: usize = 3;

/// The peers of one role that have an address which the requester can use, as one row.
pub(super) struct RoleCandidates<'s> {
    columns: [Option<&'s PeerColumns>; COLUMNS_MAX],
    len: usize,
}

/// The addresses of a peer that may be handed out, at least one.
struct PeerOffer<'p> {
    user: u32,
    v4: Option<&'p EndpointV4>,
    v6: Option<&'p [u8; PEER_V6_LEN]>,
}

impl<'s> RoleCandidates<'s> {
    /// Selects those of `all_columns` whose addresses there is room for in the answer.
    pub(super) fn from_columns(
        all_columns: impl Iterator<Item = &'s PeerColumns>,
        handout: &Handout<'_>,
    ) -> Self {
        let (v4, v6) = (handout.v4.room() > 0, handout.v6.room() > 0);
        let mut candidates = Self { columns: [None; COLUMNS_MAX], len: 0 };
        let usable = all_columns.filter(|columns| match columns.class.families {
            ShownFamilies::V4 => v4,
            ShownFamilies::V6 => v6,
            ShownFamilies::Both => v4 || v6,
            ShownFamilies::Nobody => false,
        });
        for (to, columns) in candidates.columns.iter_mut().zip(usable) {
            candidates.len += columns.len();
            *to = Some(columns);
        }
        candidates
    }

    /// Goes around the peers from a random position until `wanted` peers are handed out; every eligible peer
    /// has the same chance. Returns how many were handed out.
    pub(super) fn hand_out(
        &self,
        user: u32,
        wanted: usize,
        random: &mut fastrand::Rng,
        handout: &mut Handout<'_>,
        mut admit: impl FnMut(u32) -> bool,
    ) -> usize {
        let mut given = 0;
        let start = self.draw_start(user, random, handout);
        // A peer that is skipped belongs to the requester, or to a user of whom a peer was handed out
        // already.
        let looks_max = wanted.saturating_add(1).saturating_mul(SESSIONS_MAX);
        for at in ring_from(self.len, start).take(looks_max) {
            lock_cost::peers_visited(1);
            let Some((columns, slot)) = self.locate(at) else { continue };
            let Some(offer) = peer_offer(columns, slot, user, handout).filter(|offer| admit(offer.user))
            else {
                continue;
            };
            let id = || columns.session(slot).map(|session| session.peer_id).unwrap_or_default();
            if let Some(v4) = offer.v4 {
                handout.v4.push_with(v4, id);
            }
            if let Some(v6) = offer.v6 {
                handout.v6.push_with(v6, id);
            }
            given += 1;
            if given == wanted {
                break;
            }
        }
        given
    }

    /// Draws the start of a hand-out: an eligible peer, each with the same chance. Otherwise peers behind
    /// ineligible ones would also get the chances of these, as they still do where hardly any peer is
    /// eligible.
    fn draw_start(&self, user: u32, random: &mut fastrand::Rng, handout: &Handout<'_>) -> usize {
        // If one of two is not eligible, the other is met in any case.
        let draws = match self.len {
            0 | 1 => 0,
            2 => 1,
            _ => DRAWS_MAX,
        };
        let mut drawn = 0;
        for _ in 0..draws {
            lock_cost::peers_visited(1);
            drawn = random.usize(..self.len);
            if self
                .locate(drawn)
                .is_some_and(|(columns, slot)| peer_offer(columns, slot, user, handout).is_some())
            {
                break;
            }
        }
        drawn
    }

    /// Returns the columns and the slot of an index into the row.
    #[inline]
    fn locate(&self, mut index: usize) -> Option<(&'s PeerColumns, usize)> {
        if let [Some(only), None, _] = self.columns {
            return Some((only, index));
        }
        for columns in self.columns.iter().flatten() {
            if index < columns.len() {
                return Some((columns, index));
            }
            index -= columns.len();
        }
        None
    }
}

/// Returns the addresses of the peer in a slot that may be handed out to a user, if any.
#[inline]
fn peer_offer<'p>(
    columns: &'p PeerColumns,
    slot: usize,
    user: u32,
    handout: &Handout<'_>,
) -> Option<PeerOffer<'p>> {
    let (known, v4, v6) = columns.user_and_endpoints(slot).filter(|(known, ..)| *known != user)?;
    let shown = columns.class.families.v4_and_v6();
    let v4 = (shown.0 && handout.v4.room() > 0).then_some(v4);
    let v6 = v6.filter(|_| shown.1 && handout.v6.room() > 0).map(|v6| &v6.wire);
    (v4.is_some() || v6.is_some()).then_some(PeerOffer { user: known, v4, v6 })
}

/// Yields all indices of a row once, beginning at `start` and taking turns among its quarters. The order is
/// always the same ring, so each eligible peer always follows the same peers.
fn ring_from(len: usize, start: usize) -> impl Iterator<Item = usize> {
    let quarter = len.div_ceil(RING_PARTS).max(1);
    // Faster for a small swarm than a division.
    let part = (1..RING_PARTS).filter(|part| part * quarter <= start).count();
    let turn = (start - part * quarter) * RING_PARTS + part;
    let turns = (turn..RING_PARTS * quarter).chain(0..turn);
    turns.map(move |turn| turn % RING_PARTS * quarter + turn / RING_PARTS).filter(move |&index| index < len)
}
