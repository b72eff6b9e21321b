//! The peers of one role in a swarm, in columns, and how they are handed out.

use super::peer::{Moment, NOWHERE, Peer, Session, V4, V6, is_shown};
use super::swarm::number;
use crate::announce::{Handout, PEER_V4_LEN, PEER_V6_LEN};
use crate::ids::PeerId;
use crate::touch;

/// Users that are compared at once.
const COMPARED: usize = 16;
/// Peers that are looked at for one hand-out, at most, besides those that are wanted.
const LOOKED_AT_MAX: usize = 4096;
/// Places from which a hand-out goes through a swarm at once, so that peers that came together are not always
/// handed out together.
const PLACES: usize = 4;
/// Draws of where a hand-out begins, at most, while they meet peers that may not be handed out.
const DRAWS_MAX: usize = 32;

/// Octets of a peer's IPv6 address, which lies apart, by our own count.
const V6_OCTETS: usize = size_of::<V6>().next_multiple_of(16) + 16;

/// Peers of one role.
#[derive(Debug, Default)]
pub(super) struct Pack {
    pub(super) users: Vec<u32>,
    pub(super) v4: Vec<V4>,
    pub(super) v6: Vec<Option<Box<V6>>>,
    pub(super) sessions: Vec<Session>,
    /// How many have an IPv4 address.
    pub(super) with_v4: usize,
    /// How many have an IPv6 address.
    pub(super) with_v6: usize,
}

/// What of a peer may be handed out: at least one of its addresses.
struct Offer<'p> {
    user: u32,
    v4: Option<&'p V4>,
    v6: Option<&'p [u8; PEER_V6_LEN]>,
}

impl Pack {
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    pub(super) fn search(&self, user: u32, peer_id: &PeerId) -> Option<usize> {
        let is_it = |at: &usize| {
            self.users.get(*at) == Some(&user)
                && self.sessions.get(*at).is_some_and(|session| session.peer_id == *peer_id)
        };
        self.users.chunks(COMPARED).enumerate().find_map(|(chunk, users)| {
            // Without a branch for each, so that the processor compares all of them at once.
            let found = users.iter().fold(false, |found, known| found | (*known == user));
            let begin = chunk * COMPARED;
            if found { (begin..begin + users.len()).find(is_it) } else { None }
        })
    }

    pub(super) fn has_user(&self, user: u32) -> bool {
        touch::looked_at(self.len());
        self.users.contains(&user)
    }

    /// Octets of its columns.
    pub(super) fn memory(&self) -> usize {
        self.users.capacity() * size_of::<u32>()
            + self.v4.capacity() * PEER_V4_LEN
            + self.v6.capacity() * size_of::<usize>()
            + self.sessions.capacity() * size_of::<Session>()
            + self.with_v6 * V6_OCTETS
    }

    pub(super) fn push(&mut self, peer: Peer) {
        let (v4, v6) = peer.reached();
        self.with_v4 += v4;
        self.with_v6 += v6;
        self.users.push(peer.user);
        self.v4.push(peer.v4);
        self.v6.push(peer.v6);
        self.sessions.push(peer.session);
    }

    pub(super) fn take(&mut self, slot: usize) -> Option<Peer> {
        let peer = (slot < self.len()).then(|| Peer {
            user: self.users.swap_remove(slot),
            v4: self.v4.swap_remove(slot),
            v6: self.v6.swap_remove(slot),
            session: self.sessions.swap_remove(slot),
        })?;
        let (v4, v6) = peer.reached();
        self.with_v4 -= v4;
        self.with_v6 -= v6;
        Some(peer)
    }

    pub(super) fn forget_before(&mut self, slot: usize, limit: Moment) {
        if self.sessions.get(slot).is_some_and(|session| session.v4_seen < limit)
            && let Some(v4) = self.v4.get_mut(slot).filter(|v4| **v4 != NOWHERE)
        {
            *v4 = NOWHERE;
            self.with_v4 -= 1;
        }
        if let Some(v6) = self.v6.get_mut(slot).filter(|v6| v6.as_ref().is_some_and(|v6| v6.seen < limit)) {
            *v6 = None;
            self.with_v6 -= 1;
        }
    }

    pub(super) fn shrink(&mut self) {
        if self.users.capacity() > 4 * self.len().max(4) {
            let room = 2 * self.len();
            self.users.shrink_to(room);
            self.v4.shrink_to(room);
            self.v6.shrink_to(room);
            self.sessions.shrink_to(room);
        }
    }

    /// Goes round the pack from a random place until `wanted` peers are handed out; each peer that may be has
    /// the same chance. Gives how many were.
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
        for slot in ring(self.len(), start).take(wanted.saturating_add(LOOKED_AT_MAX)) {
            touch::looked_at(1);
            let Some(offer) = self.offer(slot, user, handout).filter(|offer| admit(offer.user)) else {
                continue;
            };
            let id = || self.sessions.get(slot).map(|session| session.peer_id).unwrap_or_default();
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
        let draws = match self.len() {
            0 | 1 => 0,
            2 => 1,
            _ => DRAWS_MAX,
        };
        let mut slot = 0;
        for _ in 0..draws {
            slot = random.usize(..self.len());
            if self.offer(slot, user, handout).is_some() {
                break;
            }
        }
        slot
    }

    /// What of the peer in a slot may be handed out to a user, if anything.
    fn offer(&self, slot: usize, user: u32, handout: &Handout<'_>) -> Option<Offer<'_>> {
        let &known = self.users.get(slot).filter(|known| **known != user)?;
        let v4 = self.v4.get(slot).filter(|v4| handout.v4.room() > 0 && is_shown(v4));
        let v6 = self.v6.get(slot).and_then(Option::as_deref).map(|v6| &v6.wire);
        let v6 = v6.filter(|v6| handout.v6.room() > 0 && is_shown(v6));
        (v4.is_some() || v6.is_some()).then_some(Offer { user: known, v4, v6 })
    }

    /// How many have an address of each family.
    pub(super) fn reached(&self) -> (u32, u32) {
        (number(self.with_v4), number(self.with_v6))
    }

    pub(super) fn peer(&self, slot: usize) -> Option<Peer> {
        let v6 = self.v6.get(slot)?.clone();
        Some(Peer {
            user: *self.users.get(slot)?,
            v4: *self.v4.get(slot)?,
            v6,
            session: *self.sessions.get(slot)?,
        })
    }
}

/// All slots of a pack, each once, from `start` on, each of its quarters in turns: always in one order, a
/// ring, so that whoever may be handed out always follows the same peers.
fn ring(len: usize, start: usize) -> impl Iterator<Item = usize> {
    let quarter = len.div_ceil(PLACES).max(1);
    // A division would take longer than all of this for a small swarm.
    let place = (1..PLACES).filter(|place| place * quarter <= start).count();
    let turn = (start - place * quarter) * PLACES + place;
    let turns = (turn..PLACES * quarter).chain(0..turn);
    turns.map(move |turn| turn % PLACES * quarter + turn / PLACES).filter(move |&slot| slot < len)
}
