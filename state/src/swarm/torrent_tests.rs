//! What a crowd knows about where its peers can be reached, and what a choice among them costs.

use std::net::Ipv4Addr;

use super::*;
use crate::ids::PeerId;
use crate::swarm::camp::Camp;
use crate::touch;

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

    fn announce(&mut self, address: Ipv4Addr, port: u16, left: u64, event: Event) {
        self.say(address, port, left, event, 0);
    }

    /// Gives the peers that are handed out.
    fn say(&mut self, address: Ipv4Addr, port: u16, left: u64, event: Event, num_want: u16) -> Vec<[u8; 6]> {
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
        let reach = crate::address::of_address(announce.address).unwrap();
        let (keys, policy) = (&self.keys, &self.policy);
        let context = Context { now: Tick(1), policy, keys, reach, announce: &announce, may_grow: true };
        let change = self.torrent.change(&context);
        let (Change::Kept { spot, .. }, true) = (change, num_want > 0) else { return Vec::new() };
        let (mut room, mut random) = ([0; 6 * 200], fastrand::Rng::with_seed(7));
        let mut handout = Handout::new(&mut room, &mut []);
        self.torrent.hand_out(&context, Some(spot), &mut random, &mut handout);
        let used = handout.v4.used();
        room[..used].as_chunks().0.to_vec()
    }

    /// Looks at one bucket; true when the round is done.
    fn look(&mut self, cursor: &mut PeerCursor) -> bool {
        self.torrent.expire(Tick(2), &self.policy, cursor, 1, &self.keys).1
    }

    /// A whole round.
    fn sweep(&mut self) {
        let mut cursor = PeerCursor::default();
        while !self.look(&mut cursor) {}
    }

    /// How many peers there are of each reach, by the camps that they are in.
    fn camps(&self) -> Vec<(Reach, usize)> {
        let Peers::Crowd(swarm) = &self.torrent.peers else { panic!("not a crowd") };
        let packs = || swarm.v4.camps().flat_map(Camp::packs);
        let sum =
            |role| packs().filter(|(_, seeder)| *seeder == role).map(|(pack, _)| pack.len()).sum::<usize>();
        assert_eq!(swarm.v4.roles(), (count(sum(true)), count(sum(false))));
        let heap: usize = packs().map(|(pack, _)| pack.heap()).sum();
        assert!((heap..heap + 9 * size_of::<Camp<6>>()).contains(&swarm.v4.heap()));
        swarm.v4.camps().map(|camp| (camp.reach(), camp.len())).collect()
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
    let mut bench = Bench::new();
    for number in 0..30_000 {
        // Of each thousand 900 have port 1 and 98 are in a network of their own.
        let (address, port) = match number % 1000 {
            0 | 1 => (public(number), 6881),
            2..900 => (public(number), 1),
            _ => (private(number), 6881),
        };
        bench.announce(address, port, u64::from(number % 2), Event::None);
    }
    assert_eq!(
        bench.camps(),
        [(Reach::Public, 60), (Reach::Private10, 3000), (Reach::Hidden, 26_940)],
        "each in its camp"
    );
    for (asker, expected) in [(public(1), 50), (public(2), 50), (private(999), 50), (public(0), 31)] {
        // The second is another peer now: its port is not 1.
        touch::most();
        let left = u64::from(asker != public(0));
        let got = bench.say(asker, 6881, left, Event::None, 50);
        let looked = touch::most();
        assert_eq!(got.len(), expected, "{asker}");
        // Some draws of a place from which to go on, for each role and camp.
        assert!(looked <= 50 + 2 * 2 * 64, "{looked} for {asker}");
        let own = |peer: &[u8; 6]| peer[0] == 10;
        assert_eq!(got.iter().any(own), asker == private(999), "{asker}");
        assert!(!got.iter().any(|peer| peer[4..] == [0, 1]));
    }
}

#[test]
fn where_ids_are_kept_a_choice_looks_at_a_few_for_each_that_is_wanted() {
    let mut bench = Bench::new();
    bench.policy.keep_peer_ids = true;
    // All have the asker's id.
    (0..5000).for_each(|number| bench.announce(public(number), 6881, 9, Event::None));
    touch::most();
    assert_eq!(bench.say(public(7), 6881, 9, Event::None, 50).len(), 0);
    let looked = touch::most();
    assert!(looked <= 50 * 8 * 8, "{looked}");
}

#[test]
fn ports_denied_by_a_reload_and_allowed_by_the_next_change_their_camp_with_the_sweep_or_by_announcing() {
    let mut bench = Bench::new();
    for number in 0..300 {
        bench.announce(
            public(number),
            if number % 3 == 0 { 25 } else { 6881 },
            u64::from(number % 2),
            Event::None,
        );
    }
    // Partial seeds, of which one changes its camp.
    bench.announce(private(7), 6881, 9, Event::Paused);
    bench.announce(public(9), 25, 9, Event::Paused);
    bench.policy.denied_ports = vec![25];
    bench.announce(public(3), 25, 1, Event::None);
    assert_eq!(bench.camps(), [(Reach::Public, 299), (Reach::Private10, 1), (Reach::Hidden, 1)]);
    bench.sweep();
    assert_eq!(bench.camps(), [(Reach::Public, 200), (Reach::Private10, 1), (Reach::Hidden, 100)]);
    let tally = bench.torrent.tally_with_paused();
    assert_eq!((tally.seeders, tally.leechers, tally.paused), (150, 151, 2));
    bench.policy.denied_ports = Vec::new();
    bench.announce(private(7), 6881, 9, Event::Stopped);
    bench.sweep();
    assert_eq!(bench.camps(), [(Reach::Public, 300)], "a camp that is empty goes");
    assert_eq!(bench.torrent.tally_with_paused().paused, 1);
}

#[test]
fn peers_of_every_camp_expire_and_are_found_again() {
    let mut bench = Bench::new();
    for number in 0..300 {
        let (address, port) = if number % 3 == 0 {
            (private(number), 6881)
        } else {
            (public(number), u16::from(number % 2 == 0))
        };
        bench.announce(address, if port == 1 { 1 } else { 6881 }, 9, Event::None);
        bench.announce(address, if port == 1 { 1 } else { 6881 }, 0, Event::None);
    }
    assert_eq!((bench.torrent.tally().seeders, bench.torrent.tally().leechers), (300, 0));
    bench.policy.peer_inactivity_seconds = 0;
    bench.sweep();
    assert_eq!(bench.torrent.census().peers(), 0);
}
