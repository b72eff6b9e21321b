//! [`Replica`]: the swarms as the link of one stream sees them: those of the shards that belong to it.

use crate::clock::Tick;
use crate::cluster::record::{PeerKey, PeerRecord};

/// A record of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedRecord {
    /// What it says.
    pub record: PeerRecord,
    /// The time of the announce, in ticks of this process; below zero where it was before the start.
    pub seen: i64,
    /// Published again after an outage: it may be older than what is known here. Otherwise the order of the
    /// stream decides alone.
    pub republished: bool,
}

/// A peer of this node, or a change of it, that is to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedRecord {
    /// What is published. Its age is set when it is sealed.
    pub record: PeerRecord,
    /// The time of the announce, in ticks of this process. It may be later than now: what another node has
    /// published of a peer may be, because the estimates of the server's clock differ, and what an announce
    /// changes then takes over that time.
    pub seen: i64,
}

/// A record of this node that was taken from its outbox, and has not been read back yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnRecord {
    /// The time of the announce, in ticks.
    pub seen: i64,
    /// No live record is under way. As in [`ReceivedRecord`].
    pub republished: bool,
}

/// Which peers a walk is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkOf {
    /// Those that announced at this time or later, in ticks of this process; below zero for those that a
    /// process before it has heard.
    Since(i64),
    /// Those in every `nodes`-th shard, beginning with the `node`-th.
    Share {
        /// Of this node.
        node: usize,
        /// Nodes in all.
        nodes: usize,
    },
}

/// What has become of received records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Records that were applied.
    pub applied: u64,
    /// Passed over: an own record about the same peer is under way, and will be behind it in the stream.
    pub in_flight: u64,
    /// Passed over: what is known is not older.
    pub old: u64,
    /// Passed over: the peer has been silent for too long.
    pub expired: u64,
    /// Passed over for lack of memory.
    pub full: u64,
}

/// What a link needs of the swarms.
pub trait Replica: Send {
    /// The position of a walk.
    type Walk: Send;

    /// Moves what the shards have to publish to the end of `into`; records of one torrent are in the order of
    /// its changes. Returns since when changes are missing because an outbox was full.
    fn take_outbox(&mut self, into: &mut Vec<TimedRecord>) -> Option<i64>;

    /// Applies records of other nodes, in their order. `own` returns the record of this node about a peer
    /// that is under way; those in an outbox the replica knows by itself, and they are live. In this order:
    ///
    /// - The count of the torrent is raised, whatever becomes of the rest: by one if the record is finished,
    ///   and at least to its total.
    /// - An own live record passes over all records about its peer. An own republished one passes over live
    ///   records that were seen earlier than itself, and republished ones that were not seen later.
    /// - A republished record is old if the peer was seen later here; seen in the same second, a present one
    ///   is applied if it says something else, because the order of the stream then decides.
    /// - A live record is old, too, if the peer was seen later here and since changes are missing from its
    ///   outbox (what [`take_outbox`](Self::take_outbox) will return): it is newer here, and a walk will
    ///   publish it.
    /// - A peer that is not known and was silent for too long is expired. All others are applied.
    ///
    /// Records passed over because of an own one go to `passed_over`.
    fn apply(
        &mut self,
        now: Tick,
        records: &[ReceivedRecord],
        own: &dyn Fn(&PeerKey) -> Option<OwnRecord>,
        passed_over: &mut Vec<ReceivedRecord>,
    ) -> Applied;

    /// Returns the peer as it is now: gone, and seen now, where it is not in its swarm.
    fn current(&mut self, now: Tick, key: &PeerKey) -> TimedRecord;

    /// Begins a walk.
    fn start_walk(&mut self, of: WalkOf) -> Self::Walk;

    /// Appends about `most` peers of a walk, or a few more. Returns false at its end.
    fn walk(&mut self, now: Tick, walk: &mut Self::Walk, most: usize, into: &mut Vec<TimedRecord>) -> bool;
}
