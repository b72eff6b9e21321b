//! Who is handed out in a private swarm.

use super::columns::Pack;
use super::peer::{Shown, V4};
use super::swarm::SESSIONS_MAX;
use crate::announce::{Handout, PEER_V6_LEN};
use crate::touch;

/// Places from which a hand-out goes through a swarm at once, so that peers that came together are not always
/// handed out together.
const PLACES: usize = 4;
/// Draws of where a hand-out begins, at most, while they meet the asker's own peers.
const DRAWS_MAX: usize = 32;
/// Packs of one role that somebody may be handed.
const PACKS: usize = 3;

/// The peers of one role that have an address which the asker can use, in one row.
pub(super) struct Stock<'s> {
    packs: [Option<&'s Pack>; PACKS],
    len: usize,
}

/// What of a peer may be handed out: at least one of its addresses.
struct Offer<'p> {
    user: u32,
    v4: Option<&'p V4>,
    v6: Option<&'p [u8; PEER_V6_LEN]>,
}

impl<'s> Stock<'s> {
    /// Of these packs, those that there is room for in the answer.
    pub(super) fn of(packs: impl Iterator<Item = &'s Pack>, handout: &Handout<'_>) -> Self {
        let (v4, v6) = (handout.v4.room() > 0, handout.v6.room() > 0);
        let mut stock = Self { packs: [None; PACKS], len: 0 };
        let usable = packs.filter(|pack| match pack.rank.shown {
            Shown::V4 => v4,
            Shown::V6 => v6,
            Shown::Both => v4 || v6,
            Shown::Nobody => false,
        });
        for (to, pack) in stock.packs.iter_mut().zip(usable) {
            stock.len += pack.len();
            *to = Some(pack);
        }
        stock
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
        let start = self.draw(user, random, handout);
        // Whoever is not handed out is another peer of the asker, or of a user who was.
        let looks_most = wanted.saturating_add(1).saturating_mul(SESSIONS_MAX);
        for at in ring(self.len, start).take(looks_most) {
            touch::looked_at(1);
            let Some((pack, slot)) = self.at(at) else { continue };
            let Some(offer) = offer(pack, slot, user, handout).filter(|offer| admit(offer.user)) else {
                continue;
            };
            let id = || pack.session(slot).map(|session| session.peer_id).unwrap_or_default();
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
    fn draw(&self, user: u32, random: &mut fastrand::Rng, handout: &Handout<'_>) -> usize {
        // Where one of two may not be, it is the other in any case.
        let draws = match self.len {
            0 | 1 => 0,
            2 => 1,
            _ => DRAWS_MAX,
        };
        let mut drawn = 0;
        for _ in 0..draws {
            touch::looked_at(1);
            drawn = random.usize(..self.len);
            if self.at(drawn).is_some_and(|(pack, slot)| offer(pack, slot, user, handout).is_some()) {
                break;
            }
        }
        drawn
    }

    /// The pack and the slot of a place in the row.
    #[inline]
    fn at(&self, mut place: usize) -> Option<(&'s Pack, usize)> {
        if let [Some(only), None, _] = self.packs {
            return Some((only, place));
        }
        for pack in self.packs.iter().flatten() {
            if place < pack.len() {
                return Some((pack, place));
            }
            place -= pack.len();
        }
        None
    }
}

/// What of the peer in a slot may be handed out to a user, if anything.
#[inline]
fn offer<'p>(pack: &'p Pack, slot: usize, user: u32, handout: &Handout<'_>) -> Option<Offer<'p>> {
    let (known, v4, v6) = pack.whose(slot).filter(|(known, ..)| *known != user)?;
    let shown = pack.rank.shown.families();
    let v4 = (shown.0 && handout.v4.room() > 0).then_some(v4);
    let v6 = v6.filter(|_| shown.1 && handout.v6.room() > 0).map(|v6| &v6.wire);
    (v4.is_some() || v6.is_some()).then_some(Offer { user: known, v4, v6 })
}

/// All places of a row, each once, from `start` on, each of its quarters in turns: always in one order, a
/// ring, so that whoever may be handed out always follows the same peers.
fn ring(len: usize, start: usize) -> impl Iterator<Item = usize> {
    let quarter = len.div_ceil(PLACES).max(1);
    // A division would take longer than all of this for a small swarm.
    let place = (1..PLACES).filter(|place| place * quarter <= start).count();
    let turn = (start - place * quarter) * PLACES + place;
    let turns = (turn..PLACES * quarter).chain(0..turn);
    turns.map(move |turn| turn % PLACES * quarter + turn / PLACES).filter(move |&place| place < len)
}
