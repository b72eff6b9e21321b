//! What the parts of a simulation share: the time, the server, the swarms of all nodes, and what is true.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use hayate_state::InfoHash;
use hayate_state::cluster::codec::ReadEntry;
use hayate_state::cluster::hello::Hello;
use hayate_state::cluster::record::PeerKey;

use super::simulated_bus::Server;
use super::toy_codec::toy_hello;
use super::toy_replica::{Noted, ToyPeer, ToySwarms};

/// One peer as its last announce left it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Act {
    pub(super) at: u64,
    pub(super) node: usize,
    pub(super) present: Option<(bool, bool)>,
    /// It may have been lost with a node, or with what an outbox had no room for.
    pub(super) uncertain: bool,
}

/// Everything but the links.
pub(super) struct World {
    pub(super) random: fastrand::Rng,
    /// Milliseconds.
    pub(super) now: u64,
    pub(super) server: Server,
    pub(super) swarms: Vec<ToySwarms>,
    pub(super) truth: BTreeMap<PeerKey, Act>,
    /// What each node says about itself.
    pub(super) hellos: Vec<Hello>,
    /// Seconds that the clock of each node is ahead of the server's.
    pub(super) clocks_ahead: Vec<i64>,
    /// All entries that were sealed, for the codec; `None` where one was not sealed by a node.
    pub(super) sealed: Vec<ReadEntry>,
    /// Announces of one peer at several nodes within a moment.
    pub(super) close_announces: bool,
    /// Records may be republished, and then two of one second have no order.
    pub(super) has_faults: bool,
    pub(super) announcing: bool,
    /// When each node was killed last: what it had appended may still get into the stream.
    pub(super) killed_at: Vec<u64>,
    pub(super) tags: u64,
    pub(super) trace: Option<PeerKey>,
}

#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(super) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }
}

const TORRENTS: u8 = 4;
const PEERS: u8 = 8;
/// Clocks of nodes agree on whole seconds but for two.
const APART_MILLISECONDS: u64 = 4000;
/// Milliseconds of the world when a simulation begins.
pub(super) const START_MILLISECONDS: u64 = 5_000_000;
/// A live entry may reach the stream so much later than another node's.
const LATE_MILLISECONDS: u64 = 8000;

impl World {
    pub(super) fn new(nodes: usize, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let swarms = || ToySwarms { outbox_max: 1000, ..ToySwarms::default() };
        Self {
            random,
            now: START_MILLISECONDS,
            server: Server::new(nodes),
            swarms: (0..nodes).map(|_| swarms()).collect(),
            truth: BTreeMap::new(),
            hellos: (0..nodes).map(toy_hello).collect(),
            clocks_ahead: vec![0; nodes],
            sealed: Vec::new(),
            close_announces: false,
            has_faults: true,
            announcing: false,
            killed_at: vec![0; nodes],
            tags: 0,
            trace: None,
        }
    }

    /// A random peer announces at a node.
    pub(super) fn announce(&mut self, node: usize) {
        let key = PeerKey {
            info_hash: InfoHash([self.random.u8(..TORRENTS); 20]),
            peer: ([192, 0, 2, self.random.u8(..PEERS)], 6881).into(),
        };
        let before = self.truth.get(&key).copied();
        let is_close = before.is_some_and(|act| act.node != node && self.now < act.at + APART_MILLISECONDS);
        if is_close && !self.close_announces || self.swarms[node].is_down {
            return;
        }
        let present = (self.random.u8(..10) < 7).then(|| (self.random.bool(), self.random.u8(..8) == 0));
        let uptime = self.now - self.swarms[node].booted_at;
        let noted = self.swarms[node].announce(uptime, key, present, self.random.u8(..5) == 0);
        self.trace(&key, || format!("node {node} announce {present:?} noted {noted:?}"));
        let is_as_before = before.is_some_and(|act| act.present == present);
        if noted == Noted::Unchanged && is_as_before {
            return;
        }
        // Without a record, others may know something else of the peer.
        let clear = |act: Act| if act.node == node { 2000 } else { LATE_MILLISECONDS };
        let is_quick = before.is_some_and(|act| self.now < act.at + clear(act));
        let is_just_killed = self.now < self.killed_at[node] + LATE_MILLISECONDS;
        let uncertain = noted != Noted::Yes || is_just_killed || (is_quick && self.has_faults);
        self.truth.insert(key, Act { at: self.now, node, present, uncertain });
    }

    pub(super) fn trace(&self, key: &PeerKey, text: impl Fn() -> String) {
        if self.trace.as_ref() == Some(key) {
            println!("{:>7} {}", self.now, text());
        }
    }

    /// Returns the state of all peers at a node, with the time of their announce in seconds of the world.
    pub(super) fn peers(&self, node: usize) -> BTreeMap<PeerKey, (ToyPeer, i64)> {
        let swarms = &self.swarms[node];
        let start = i64::try_from(swarms.booted_at).unwrap();
        let at = |peer: &ToyPeer| (peer.seen * 1000 + start).div_euclid(1000);
        swarms.peers.iter().map(|(key, peer)| (*key, (*peer, at(peer)))).collect()
    }

    pub(super) fn completed(&self, node: usize) -> BTreeMap<InfoHash, u32> {
        self.swarms[node].completed.iter().map(|(key, count)| (*key, *count)).collect()
    }

    /// Compares all nodes with each other and with what is true.
    pub(super) fn check(&self, nodes: &[usize], what: &str) {
        let Some((&first, others)) = nodes.split_first() else { return };
        // Times are the server's: what was published before a step of its clock is older or younger by it.
        let ages = 2 + self.server.clock_steps.div_ceil(1000);
        let all: HashMap<usize, _> = nodes.iter().map(|&node| (node, self.peers(node))).collect();
        let keys: BTreeSet<PeerKey> = all.values().flat_map(|peers| peers.keys().copied()).collect();
        for key in keys.iter().chain(self.truth.keys()) {
            let role = |node: &usize| all[node].get(key).map(|(peer, _)| (peer.seeder, peer.paused));
            let act = self.truth.get(key);
            // Nobody else was told of what an outbox dropped.
            if self.swarms.iter().any(|swarms| swarms.dropped.contains(key)) {
                continue;
            }
            for node in others {
                assert_eq!(role(&first), role(node), "{what}: {key:?} at nodes {first} and {node}: {act:?}");
                if let (Some((_, at)), Some((_, there))) = (all[&first].get(key), all[node].get(key)) {
                    assert!(at.abs_diff(*there) <= ages, "{what}: ages of {key:?}: {at} and {there}");
                }
            }
            if let Some(act) = act
                && !act.uncertain
                && !self.close_announces
            {
                assert_eq!(role(&first), act.present, "{what}: {key:?} is not what it is: {act:?}");
            }
        }
    }
}
