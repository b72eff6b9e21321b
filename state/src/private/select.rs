//! Who is handed out in a private swarm.

use super::columns::PeerColumns;
use super::peer::{EndpointV4, SESSIONS_MAX, ShownFamilies};
use crate::announce::{Handout, PEER_V6_LEN};
use crate::lock_cost;

/// Places from which a hand-out goes through a swarm at once, so that peers that came together are not always
/// handed out together.
const RING_PARTS: usize = 4;
/// Draws of where a hand-out begins, at most, while they meet the requester's own peers.
const DRAWS_MAX: usize = 32;
/// Columns of one role that somebody may be handed.
const COLUMNS_MAX: usize = 3;

/// The peers of one role that have an address which the requester can use, in one row.
pub(super) struct RoleCandidates<'s> {
    columns: [Option<&'s PeerColumns>; COLUMNS_MAX],
    len: usize,
}

/// What of a peer may be handed out: at least one of its addresses.
struct PeerOffer<'p> {
    user: u32,
    v4: Option<&'p EndpointV4>,
    v6: Option<&'p [u8; PEER_V6_LEN]>,
}

impl<'s> RoleCandidates<'s> {
    /// Of these all_columns, those that there is room for in the answer.
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

    /// Goes round from a random place until `wanted` peers are handed out; each peer that may be has the same
    /// chance. Gives how many were.
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
        // Whoever is not handed out is another peer of the requester, or of a user who was.
        let looks_most = wanted.saturating_add(1).saturating_mul(SESSIONS_MAX);
        for at in ring_from(self.len, start).take(looks_most) {
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

    /// Where a hand-out begins: at a peer that may be handed out, each of them with the same chance. Else
    /// those behind peers that may not be would have the chance of these too, as they still have where hardly
    /// any may be.
    fn draw_start(&self, user: u32, random: &mut fastrand::Rng, handout: &Handout<'_>) -> usize {
        // Where one of two may not be, it is the other in any case.
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

    /// The columns and the slot of a place in the row.
    #[inline]
    fn locate(&self, mut place: usize) -> Option<(&'s PeerColumns, usize)> {
        if let [Some(only), None, _] = self.columns {
            return Some((only, place));
        }
        for columns in self.columns.iter().flatten() {
            if place < columns.len() {
                return Some((columns, place));
            }
            place -= columns.len();
        }
        None
    }
}

/// What of the peer in a slot may be handed out to a user, if anything.
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

/// All places of a row, each once, from `start` on, each of its quarters in turns: always in one order, a
/// ring, so that whoever may be handed out always follows the same peers.
fn ring_from(len: usize, start: usize) -> impl Iterator<Item = usize> {
    let quarter = len.div_ceil(RING_PARTS).max(1);
    // A division would take longer than all of this for a small swarm.
    let place = (1..RING_PARTS).filter(|place| place * quarter <= start).count();
    let turn = (start - place * quarter) * RING_PARTS + place;
    let turns = (turn..RING_PARTS * quarter).chain(0..turn);
    turns.map(move |turn| turn % RING_PARTS * quarter + turn / RING_PARTS).filter(move |&place| place < len)
}
