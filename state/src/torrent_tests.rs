//! What a crowd knows about where its peers can be reached, while a sweep goes through it.

use std::net::Ipv4Addr;

use super::*;
use crate::ids::PeerId;

/// A torrent alone, and the sweep over it.
struct Bench {
    keys: Keys,
    policy: Policy,
    torrent: Torrent,
}

impl Bench {
    fn new() -> Self {
        let torrent = Torrent::new(InfoHash([7; 20]));
        Self { keys: Keys::new(0), policy: Policy::default(), torrent }
    }

    fn announce(&mut self, address: Ipv4Addr, left: u64, event: Event) {
        let announce = Announce {
            info_hash: self.torrent.info_hash,
            peer_id: PeerId::default(),
            address: address.into(),
            port: 6881,
            uploaded: 0,
            downloaded: 0,
            left,
            event,
            num_want: 0,
        };
        let reach = crate::reach::of_address(announce.address).unwrap();
        let (keys, policy) = (&self.keys, &self.policy);
        let context = Context { now: Tick(1), policy, keys, reach, announce: &announce, may_grow: true };
        self.torrent.change(&context);
    }

    /// Looks at one bucket; true when the round is done.
    fn look(&mut self, cursor: &mut PeerCursor) -> bool {
        self.torrent.expire(Tick(2), &self.policy, cursor, 1, &self.keys).1
    }

    fn reach(&self) -> ReachSet {
        let Peers::Crowd(swarm) = &self.torrent.peers else { panic!("not a crowd") };
        swarm.v4.reach()
    }
}

fn public(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xC633_0000 + number)
}

const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// The private peer moves in the one way that `event` makes it move, at a random step of each round.
fn assert_known_as_private(mut event: impl FnMut(&mut Bench, &mut fastrand::Rng, u32)) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let mut bench = Bench::new();
        bench.announce(PRIVATE, 9, Event::None);
        (0..200).for_each(|number| bench.announce(public(number), 9, Event::None));
        let (mut cursor, mut step) = (PeerCursor::default(), 0);
        while !bench.look(&mut cursor) {
            event(&mut bench, &mut random, step);
            step += 1;
        }
        assert!(bench.reach().has(Reach::Private10));
        bench.announce(PRIVATE, 9, Event::Stopped);
        let mut cursor = PeerCursor::default();
        while !bench.look(&mut cursor) {}
        assert_eq!(bench.reach(), ReachSet::NONE.with(Reach::Public), "a full look narrows it");
    }
}

#[test]
fn a_known_peer_that_changes_its_role_is_seen_by_the_sweep_that_has_passed_its_new_place() {
    // Seeders are looked at first.
    assert_known_as_private(|bench, random, _| {
        if random.u8(..3) == 0 {
            bench.announce(PRIVATE, 0, Event::None);
        }
    });
}

#[test]
fn a_peer_moved_by_a_split_is_seen_by_the_sweep_that_has_passed_its_new_place() {
    assert_known_as_private(|bench, _, step| {
        (0..60).for_each(|number| bench.announce(public(1000 + 60 * step + number), 9, Event::None));
    });
}
