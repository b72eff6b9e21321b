//! [`ShardVisit`]: a walk through the peers of a shard, in slices, so that no announce waits for it: about a
//! thousand torrents and peers are visited under one lock.
//!
//! Every peer that is in its swarm from the beginning of the walk to its end is visited:
//! - In a shard the last torrent comes first, so that the one that fills a hole has been visited already, or
//!   will be.
//! - In a large swarm the peers come in the order of their position (`swarm/buckets.rs`), which
//!   neither announces nor sweeps change.
//! - All other swarms are visited at once.
//!
//! A torrent that fills a hole while the walk is in it is visited again from its first peer on.

use crate::announce::Endpoint;
use crate::ids::InfoHash;
use crate::swarm::block::Block;
use crate::swarm::large::{LargeFamily, LargeSwarm};
use crate::swarm::peer::StoredPeer;
use crate::swarm::peer_set::PeerArray;
use crate::swarm::shard::Shard;
use crate::swarm::torrent::{SwarmForm, Torrent};
use crate::table::keyed_hash::KeyedHash;

/// Torrents and peers that are visited under one lock.
pub(crate) const SLICE: usize = 1024;

/// Takes what a walk meets.
pub(crate) trait SwarmVisitor {
    /// Called before the peers of a torrent, or some of them.
    fn begin(&mut self, torrent: &Torrent);

    fn visit_v4(&mut self, peer: &StoredPeer<6>, seeder: bool);

    fn visit_v6(&mut self, peer: &StoredPeer<18>, seeder: bool);

    /// Called after them. Returns whether the walk goes on under this lock.
    fn end(&mut self, torrent: &Torrent) -> bool;
}

/// The position of a walk in one shard.
#[derive(Debug, Default)]
pub(crate) struct ShardVisit {
    /// The torrent before which to continue; `None` = the shard has not begun.
    torrent: Option<usize>,
    cursor: SwarmCursor,
    /// The torrent whose peers the cursor is in; another torrent may have taken its slot since.
    cursor_torrent: Option<InfoHash>,
}

/// The position of a walk inside a large swarm.
#[derive(Clone, Copy, Debug)]
enum SwarmCursor {
    V4(u32),
    /// IPv4 is done.
    V6(u32),
}

impl Default for SwarmCursor {
    fn default() -> Self {
        Self::V4(0)
    }
}

impl ShardVisit {
    /// Visits up to `most` torrents and peers, or a few more; returns how many.
    pub(crate) fn visit(
        &mut self,
        shard: &Shard,
        most: usize,
        hasher: &KeyedHash,
        visitor: &mut impl SwarmVisitor,
    ) -> usize {
        let mut looked = 0;
        let mut slot = self.torrent.unwrap_or(usize::MAX).min(shard.len());
        while looked < most {
            let Some(torrent) = slot.checked_sub(1).and_then(|slot| shard.torrent(slot)) else {
                slot = 0;
                break;
            };
            let known = self.cursor_torrent.take() == Some(torrent.info_hash);
            let at = if known { self.cursor } else { SwarmCursor::default() };
            visitor.begin(torrent);
            let (seen, rest) = visit_torrent(torrent, at, most - looked, hasher, visitor);
            looked += seen + 1;
            match rest {
                Some(at) => (self.cursor, self.cursor_torrent) = (at, Some(torrent.info_hash)),
                None => slot -= 1,
            }
            if !visitor.end(torrent) {
                break;
            }
        }
        self.torrent = Some(slot);
        looked
    }

    /// Whether the whole shard has been visited.
    pub(crate) fn is_done(&self) -> bool {
        self.torrent == Some(0)
    }
}

/// Visits up to `most` peers of a torrent, or a few more. Returns how many, and where to continue.
fn visit_torrent(
    torrent: &Torrent,
    at: SwarmCursor,
    most: usize,
    hasher: &KeyedHash,
    visitor: &mut impl SwarmVisitor,
) -> (usize, Option<SwarmCursor>) {
    match &torrent.peers {
        SwarmForm::Idle(_) => (0, None),
        SwarmForm::Pair(pair) => (visit_array(pair, |peer, seeder| visitor.visit_v4(peer, seeder)), None),
        SwarmForm::One(one) => (visit_array(one, |peer, seeder| visitor.visit_v6(peer, seeder)), None),
        SwarmForm::Small(small) => {
            let v4 = visit_array(small, |peer, seeder| visitor.visit_v4(peer, seeder));
            (v4 + visit_array(small, |peer, seeder| visitor.visit_v6(peer, seeder)), None)
        }
        SwarmForm::Large(swarm) => visit_large(swarm, at, most, hasher, visitor),
    }
}

/// Visits all peers of one family in a swarm that is not large; returns how many.
fn visit_array<const LEN: usize>(
    array: &impl PeerArray<LEN>,
    mut visit: impl FnMut(&StoredPeer<LEN>, bool),
) -> usize {
    let peers = (0..array.octets().len()).filter_map(|place| array.peer_at(place));
    for (place, peer) in peers.enumerate() {
        visit(&peer, place < array.seeders());
    }
    array.octets().len()
}

fn visit_large(
    swarm: &LargeSwarm,
    at: SwarmCursor,
    most: usize,
    hasher: &KeyedHash,
    visitor: &mut impl SwarmVisitor,
) -> (usize, Option<SwarmCursor>) {
    let (mut looked, mut v6_at) = (0, Some(0));
    match at {
        SwarmCursor::V4(at) => {
            let mut at = Some(at);
            let visit = |peer: &StoredPeer<6>, seeder| visitor.visit_v4(peer, seeder);
            looked = visit_family(&swarm.v4, &mut at, most, hasher, visit);
            if let Some(at) = at {
                return (looked, Some(SwarmCursor::V4(at)));
            }
        }
        SwarmCursor::V6(at) => v6_at = Some(at),
    }
    if let Some(v6) = swarm.v6.as_deref() {
        let most = most.saturating_sub(looked);
        let visit = |peer: &StoredPeer<18>, seeder| visitor.visit_v6(peer, seeder);
        looked += visit_family(v6, &mut v6_at, most, hasher, visit);
        return (looked, v6_at.map(SwarmCursor::V6));
    }
    (looked, None)
}

fn visit_family<const LEN: usize>(
    large: &LargeFamily<LEN>,
    at: &mut Option<u32>,
    most: usize,
    hasher: &KeyedHash,
    mut visit: impl FnMut(&StoredPeer<LEN>, bool),
) -> usize
where
    [u8; LEN]: Endpoint,
{
    large.walk(at, most, hasher, |block: &Block<LEN>, place, seeder| {
        if let Some(peer) = block.peer_at(place) {
            visit(&peer, seeder);
        }
    })
}
