//! Single facts about links, each with a few nodes and a few announces.

use std::time::Duration;

use hayate_state::InfoHash;
use hayate_state::cluster::bus::BusError;
use hayate_state::cluster::codec::{EntryBody, ReadEntry};
use hayate_state::cluster::link::events::LinkEvent;
use hayate_state::cluster::link::{Pause, SavedLink};
use hayate_state::cluster::record::{PeerKey, PeerRecord, Presence};

use super::shared::{Shared, World};
use super::simulation::{SimulatedLink, make_link};
use super::toy_codec::octets_of;

pub(super) struct Links {
    pub(super) shared: Shared,
    pub(super) links: Vec<SimulatedLink>,
}

pub(super) fn key(peer: u8) -> PeerKey {
    PeerKey { info_hash: InfoHash([7; 20]), peer: ([192, 0, 2, peer], 6881).into() }
}

pub(super) const LEECHER: Option<(bool, bool)> = Some((false, false));
pub(super) const SEEDER: Option<(bool, bool)> = Some((true, false));

impl Links {
    /// Nodes that have caught up and serve, unless they are `idle`.
    pub(super) fn new(nodes: usize, idle: usize) -> Self {
        let shared = Shared::new(World::new(nodes, 1));
        let links = (0..nodes)
            .map(|node| make_link(&shared, node, u8::try_from(node).unwrap(), SavedLink::default()));
        let mut links = Self { links: links.collect(), shared };
        for link in links.links.iter_mut().take(nodes - idle) {
            link.serve();
        }
        links.run(nodes - idle, 1000);
        links
    }

    pub(super) fn turn(&mut self, node: usize) -> Pause {
        let uptime = {
            let world = &mut *self.shared.lock();
            world.server.append_late(world.now);
            Duration::from_millis(world.now - world.swarms[node].booted_at)
        };
        self.links[node].turn(uptime)
    }

    /// Turns of the first `nodes` nodes, every 250 ms.
    pub(super) fn run(&mut self, nodes: usize, milliseconds: u64) {
        for _ in 0..milliseconds / 250 {
            (0..nodes).for_each(|node| _ = self.turn(node));
            self.shared.lock().now += 250;
        }
    }

    pub(super) fn announce(&self, node: usize, key: PeerKey, present: Option<(bool, bool)>, finishes: bool) {
        let world = &mut *self.shared.lock();
        let uptime = world.now - world.swarms[node].booted_at;
        world.swarms[node].announce(uptime, key, present, finishes);
    }

    fn role(&self, node: usize, key: PeerKey) -> Option<(bool, bool)> {
        self.shared.lock().swarms[node].peers.get(&key).map(|peer| (peer.seeder, peer.paused))
    }

    fn completed(&self, node: usize) -> u32 {
        self.shared.lock().swarms[node].completed.get(&key(0).info_hash).copied().unwrap_or_default()
    }

    /// Another node seals a record that much later than the server says, and appends it now.
    fn append_foreign(&self, seq: u64, later: i64, record: PeerRecord) {
        let world = &mut *self.shared.lock();
        let now = world.server.time(world.now).saturating_add_signed(later);
        let body = EntryBody::Records { republished: false, records: vec![record] };
        let sealed_at = Duration::from_millis(now);
        world.sealed.push(ReadEntry { incarnation: [77; 16], seq, sealed_at, body });
        let octets = octets_of(world.sealed.len() as u64 - 1);
        world.server.append(world.now, octets);
    }
}

fn record(key: PeerKey, presence: Presence, completed: Option<u32>) -> PeerRecord {
    PeerRecord { key, age_seconds: 0, presence, completed, peer_id: None }
}

const PRESENT: Presence = Presence::Present { seeder: false, paused: false, finished: false };

#[test]
fn a_change_is_known_to_all_after_two_turns() {
    let mut links = Links::new(3, 0);
    links.announce(1, key(1), LEECHER, false);
    links.run(3, 500);
    assert!((0..3).all(|node| links.role(node, key(1)) == LEECHER));
    links.announce(2, key(1), None, false);
    links.run(3, 500);
    assert!((0..3).all(|node| links.role(node, key(1)).is_none()));
}

#[test]
fn a_download_that_finishes_before_the_peer_leaves_is_counted_everywhere() {
    let mut links = Links::new(2, 0);
    links.announce(0, key(1), LEECHER, false);
    links.announce(0, key(1), SEEDER, true);
    links.announce(0, key(1), None, false);
    links.announce(0, key(2), SEEDER, true);
    links.run(2, 500);
    assert_eq!((links.completed(0), links.completed(1)), (2, 2));
    assert_eq!(links.role(1, key(1)), None);
}

#[test]
fn a_replay_raises_counts_to_totals_and_adds_nothing() {
    let mut links = Links::new(2, 1);
    let finished = Presence::Present { seeder: true, paused: false, finished: true };
    links.append_foreign(1, 0, record(key(1), finished, Some(5)));
    links.append_foreign(2, 0, record(key(2), finished, Some(5)));
    links.run(2, 500);
    assert_eq!((links.completed(0), links.completed(1)), (6, 5));
    assert!(links.links[1].is_caught_up());
    assert_eq!(links.links[1].counts().octets_out, 0);
}

#[test]
fn a_time_in_the_future_becomes_the_time_of_the_server() {
    let mut links = Links::new(1, 0);
    let before = links.shared.lock().now;
    links.append_foreign(1, 300_000, record(key(1), PRESENT, None));
    links.run(1, 500);
    let (_, at) = links.shared.lock().peers(0)[&key(1)];
    assert!(u64::try_from(at).unwrap().abs_diff(before / 1000) <= 1, "{at}");
    assert_eq!(links.links[0].counts().future, 1);
}

#[test]
fn a_live_entry_that_is_appended_late_does_not_undo_what_is_newer() {
    let mut links = Links::new(2, 0);
    links.announce(0, key(1), SEEDER, false);
    links.run(2, 500);
    links.append_foreign(1, -6000, record(key(1), Presence::Gone, None));
    links.run(2, 500);
    assert!((0..2).all(|node| links.role(node, key(1)) == SEEDER));
    // What is merely a little slow is live.
    links.append_foreign(2, -3000, record(key(1), Presence::Gone, None));
    links.run(2, 500);
    assert!((0..2).all(|node| links.role(node, key(1)).is_none()));
}

#[test]
fn a_new_node_learns_after_a_flush_what_all_others_share() {
    let mut links = Links::new(4, 1);
    (0..50).for_each(|peer| links.announce(0, key(peer), LEECHER, false));
    links.run(3, 20_000);
    links.shared.lock().server.flush();
    links.run(3, 20_000);
    assert!((0..3).all(|node| links.links[node].counts().flushes == 1));
    let walked: Vec<u64> = (0..3).map(|node| links.links[node].counts().republished_walk).collect();
    assert_eq!(walked.iter().sum::<u64>(), 50, "each peer by one node: {walked:?}");
    links.run(4, 500);
    assert_eq!(links.shared.lock().peers(3).len(), 50);
}

#[test]
fn entries_that_were_trimmed_before_they_were_read_are_noticed() {
    let mut links = Links::new(2, 0);
    links.shared.lock().server.cut[1] = u64::MAX;
    links.run(2, 100_000);
    {
        let world = &mut *links.shared.lock();
        world.server.cut[1] = 0;
        let half = world.server.entries.len() / 2;
        world.server.entries.drain(..half);
    }
    links.run(2, 10_000);
    let counts = links.links[1].counts();
    assert_eq!((counts.history_gaps, counts.flushes), (1, 0));
    assert!(links.links[1].take_events().contains(&LinkEvent::HistoryGap));
}

#[test]
fn a_full_server_shortens_the_history_which_recovers_slowly() {
    let mut links = Links::new(1, 0);
    let full_until = links.shared.lock().now + 30_000;
    links.shared.lock().server.full_until = full_until;
    links.announce(0, key(1), LEECHER, false);
    links.run(1, 30_000);
    assert_eq!(links.links[0].counts().retention_seconds, 60);
    assert_eq!(links.links[0].counts().up, 0);
    let away = |event: &LinkEvent| matches!(event, LinkEvent::Away(BusError::OutOfMemory(_)));
    assert_eq!(links.links[0].take_events().iter().filter(|event| away(event)).count(), 1);
    links.run(1, 70_000);
    assert_eq!(links.links[0].counts().retention_seconds, 66);
    assert_eq!(links.links[0].counts().up, 1);
    links.run(1, 3_000_000);
    assert_eq!(links.links[0].counts().retention_seconds, 600);
}

#[test]
fn pauses_after_errors_grow_to_five_seconds_and_a_refused_login_waits_longer() {
    let mut links = Links::new(1, 0);
    links.shared.lock().server.away_until = u64::MAX;
    let mut pauses = Vec::new();
    for _ in 0..20 {
        let Pause::For(pause) = links.turn(0) else { panic!("finished") };
        pauses.push(pause);
        links.shared.lock().now += u64::try_from(pause.as_millis()).unwrap() + 1;
    }
    assert!(pauses[0] <= Duration::from_millis(100), "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(5)), "{pauses:?}");
    assert!(pauses[10..].iter().all(|pause| *pause >= Duration::from_millis(2500)), "{pauses:?}");
    links.shared.lock().server.denies = true;
    assert_eq!(links.turn(0), Pause::For(Duration::from_secs(30)));
    links.shared.lock().server.denies = false;
    links.shared.lock().server.away_until = 0;
    links.shared.lock().now += 30_000;
    links.run(1, 1000);
    let events = links.links[0].take_events();
    let aways = events.iter().filter(|event| matches!(event, LinkEvent::Away(_))).count();
    assert_eq!(aways, 2, "one line for each kind: {events:?}");
    assert!(matches!(events.last(), Some(LinkEvent::Back { .. })), "{events:?}");
}

#[test]
fn a_stop_publishes_what_waits_and_ends_in_time_without_a_server() {
    let mut links = Links::new(2, 0);
    links.announce(0, key(1), LEECHER, false);
    let until = Duration::from_millis(links.shared.lock().now + 5000);
    links.links[0].finish(until);
    assert_eq!(links.turn(0), Pause::Finished);
    links.turn(1);
    assert_eq!(links.role(1, key(1)), LEECHER);
    assert_eq!(links.links[0].saved().unpublished_since, None);

    links.announce(1, key(2), LEECHER, false);
    links.turn(1);
    links.shared.lock().server.away_until = u64::MAX;
    links.announce(1, key(1), SEEDER, false);
    links.links[1].finish(until);
    while links.turn(1) != Pause::Finished {
        links.shared.lock().now += 50;
        assert!(Duration::from_millis(links.shared.lock().now) <= until);
    }
}
