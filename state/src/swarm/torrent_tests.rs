//! Tests: the groups of a large swarm by scope, and what a choice among them costs.

use std::net::Ipv4Addr;

use super::*;
use crate::ids::PeerId;
use crate::lock_cost;
use crate::swarm::scope_group::ScopeGroup;

/// A torrent alone, and the sweep over it.
struct LoneTorrent {
    hasher: KeyedHash,
    policy: Policy,
    torrent: Torrent,
}

impl LoneTorrent {
    fn new() -> Self {
        let torrent = Torrent::new(InfoHash([7; 20]));
        Self { hasher: KeyedHash::new(0), policy: Policy::default(), torrent }
    }

    fn announce(&mut self, address: Ipv4Addr, port: u16, left: u64, event: Event) {
        self.announce_wanting(address, port, left, event, 0);
    }

    /// Announces and returns the peers that are handed out.
    fn announce_wanting(
        &mut self,
        address: Ipv4Addr,
        port: u16,
        left: u64,
        event: Event,
        num_want: u16,
    ) -> Vec<[u8; 6]> {
        let announce = Announce {
            info_hash: self.torrent.info_hash,
            peer_id: PeerId::default(),
            address: address.into(),
            port,
            uploaded: 0,
            downloaded: 0,
            left,
            event,
            num_want,
        };
        let scope = crate::address::AddressScope::of(announce.address).unwrap();
        let context = AnnounceContext {
            now: Tick(1),
            policy: &self.policy,
            hasher: &self.hasher,
            scope,
            announce: &announce,
            may_grow: true,
            outbox_max: 0,
        };
        let change = self.torrent.apply_announce(&context);
        let (PeerChange::Kept { pos, .. }, true) = (change, num_want > 0) else { return Vec::new() };
        let (mut room, mut random) = ([0; 6 * 200], fastrand::Rng::with_seed(7));
        let mut handout = Handout::new(&mut room, &mut []);
        self.torrent.hand_out(&context, Some(pos), &mut random, &mut handout);
        let used = handout.v4.used();
        room[..used].as_chunks().0.to_vec()
    }

    /// Sweeps one bucket; returns whether the round is done.
    fn sweep_bucket(&mut self, cursor: &mut SweepCursor) -> bool {
        self.torrent.expire(Tick(2), &self.policy, cursor, 1, &self.hasher).1
    }

    /// Sweeps a whole round.
    fn sweep(&mut self) {
        let mut cursor = SweepCursor::default();
        while !self.sweep_bucket(&mut cursor) {}
    }

    /// Returns the numbers of peers of each scope, by the groups that they are in.
    fn group_lens(&self) -> Vec<(AddressScope, usize)> {
        let SwarmForm::Large(swarm) = &self.torrent.peers else { panic!("not a large swarm") };
        let all_buckets = || swarm.v4.groups().flat_map(ScopeGroup::roles);
        let sum = |role| {
            all_buckets()
                .filter(|(_, seeder)| *seeder == role)
                .map(|(buckets, _)| buckets.len())
                .sum::<usize>()
        };
        assert_eq!(swarm.v4.role_counts(), (count_u32(sum(true)), count_u32(sum(false))));
        let heap: usize = all_buckets().map(|(buckets, _)| buckets.heap()).sum();
        assert!((heap..heap + 9 * size_of::<ScopeGroup<6>>()).contains(&swarm.v4.heap()));
        swarm.v4.groups().map(|group| (group.scope(), group.len())).collect()
    }
}

fn public(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x2D00_0000 + number)
}

fn private(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0A00_0000 + number)
}

#[test]
fn however_many_are_hidden_a_choice_looks_at_as_many_as_it_hands_out() {
    let mut lone = LoneTorrent::new();
    for number in 0..30_000 {
        // Of each thousand 900 have port 1 and 98 are in a network of their own.
        let (address, port) = match number % 1000 {
            0 | 1 => (public(number), 6881),
            2..900 => (public(number), 1),
            _ => (private(number), 6881),
        };
        lone.announce(address, port, u64::from(number % 2), Event::None);
    }
    assert_eq!(
        lone.group_lens(),
        [(AddressScope::Public, 60), (AddressScope::Private10, 3000), (AddressScope::Hidden, 26_940)],
        "each in its group"
    );
    for (requester, expected) in [(public(1), 50), (public(2), 50), (private(999), 50), (public(0), 31)] {
        // The second is another peer now: its port is not 1.
        lock_cost::take_max();
        let left = u64::from(requester != public(0));
        let got = lone.announce_wanting(requester, 6881, left, Event::None, 50);
        let looked = lock_cost::take_max();
        assert_eq!(got.len(), expected, "{requester}");
        // Some draws of a place from which to go on, for each role and group.
        assert!(looked <= 50 + 2 * 2 * 64, "{looked} for {requester}");
        let own = |peer: &[u8; 6]| peer[0] == 10;
        assert_eq!(got.iter().any(own), requester == private(999), "{requester}");
        assert!(!got.iter().any(|peer| peer[4..] == [0, 1]));
    }
}

#[test]
fn where_ids_are_kept_a_choice_looks_at_a_few_for_each_that_is_wanted() {
    let mut lone = LoneTorrent::new();
    lone.policy.keep_peer_ids = true;
    // All have the requester's id.
    (0..5000).for_each(|number| lone.announce(public(number), 6881, 9, Event::None));
    lock_cost::take_max();
    assert_eq!(lone.announce_wanting(public(7), 6881, 9, Event::None, 50).len(), 0);
    let looked = lock_cost::take_max();
    assert!(looked <= 50 * 8 * 8, "{looked}");
}

#[test]
fn ports_denied_by_a_reload_and_allowed_by_the_next_change_their_group_with_the_sweep_or_by_announcing() {
    let mut lone = LoneTorrent::new();
    for number in 0..300 {
        lone.announce(
            public(number),
            if number % 3 == 0 { 25 } else { 6881 },
            u64::from(number % 2),
            Event::None,
        );
    }
    // Partial seeds, of which one changes its group.
    lone.announce(private(7), 6881, 9, Event::Paused);
    lone.announce(public(9), 25, 9, Event::Paused);
    lone.policy.denied_ports = vec![25];
    lone.announce(public(3), 25, 1, Event::None);
    assert_eq!(
        lone.group_lens(),
        [(AddressScope::Public, 299), (AddressScope::Private10, 1), (AddressScope::Hidden, 1)]
    );
    lone.sweep();
    assert_eq!(
        lone.group_lens(),
        [(AddressScope::Public, 200), (AddressScope::Private10, 1), (AddressScope::Hidden, 100)]
    );
    let tally = lone.torrent.tally_with_paused();
    assert_eq!((tally.seeders, tally.leechers, tally.paused), (150, 151, 2));
    lone.policy.denied_ports = Vec::new();
    lone.announce(private(7), 6881, 9, Event::Stopped);
    lone.sweep();
    assert_eq!(lone.group_lens(), [(AddressScope::Public, 300)], "a group that is empty goes");
    assert_eq!(lone.torrent.tally_with_paused().paused, 1);
}

#[test]
fn peers_of_every_group_expire_and_are_found_again() {
    let mut lone = LoneTorrent::new();
    for number in 0..300 {
        let (address, port) = if number % 3 == 0 {
            (private(number), 6881)
        } else {
            (public(number), u16::from(number % 2 == 0))
        };
        lone.announce(address, if port == 1 { 1 } else { 6881 }, 9, Event::None);
        lone.announce(address, if port == 1 { 1 } else { 6881 }, 0, Event::None);
    }
    assert_eq!((lone.torrent.tally().seeders, lone.torrent.tally().leechers), (300, 0));
    lone.policy.peer_inactivity_seconds = 0;
    lone.sweep();
    assert_eq!(lone.torrent.peer_counts().total(), 0);
}
