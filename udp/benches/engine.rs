//! One datagram through the engine, without a socket, and the connection ids alone:
//! `cargo bench -p hayate-udp`. Fixed seeds, virtual time. Before anything is measured it must have been
//! answered without an allocation.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench may panic")]

#[path = "../tests/server/kit.rs"]
#[expect(dead_code, reason = "the kit of the tests, of which little is needed here")]
mod kit;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use hayate_state::Now;
use hayate_udp::Outcome;
use hayate_udp::config::REPLY_MAX;
use hayate_udp::connection_id::ConnectionIds;

use kit::{CONNECT, Harness, TestAnnounce, scrape, udp_config};

/// More sources than there are remembered ids.
const SOURCES: u16 = 10_000;

/// A datagram and where it comes from.
type Sent = (SocketAddr, Vec<u8>);

fn main() {
    // Short runs, so that all benches together take minutes; the command line may ask for more.
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .nresamples(10_000)
        .configure_from_args();
    datagrams(&mut criterion);
    connection_ids(&mut criterion);
    criterion.final_summary();
}

fn datagrams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    let connect = |number| (source(number), CONNECT.to_vec());
    engine(&mut group, "connect", &mut Harness::open(), &[connect(0)]);
    engine(
        &mut group,
        "connect/10k-sources",
        &mut Harness::open(),
        &(0..SOURCES).map(connect).collect::<Vec<_>>(),
    );
    let forged = (source(0), TestAnnounce::leecher(6881).datagram([7; 8]));
    engine(&mut group, "forged", &mut Harness::open(), &[forged]);
    for peers in [2, 20, 1000] {
        let mut harness = Harness::open();
        let announces = swarm(&mut harness, peers);
        engine(&mut group, &format!("announce/swarm-of-{peers}"), &mut harness, &announces[1..2]);
        if peers == 1000 {
            engine(&mut group, "announce/swarm-of-1000/each-peer", &mut harness, &announces);
        }
    }
    let mut harness = Harness::open();
    swarm(&mut harness, 20);
    let id = harness.connect(&source(0).to_string());
    let of_ten = (source(0), scrape(id, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]));
    engine(&mut group, "scrape-10", &mut harness, &[of_ten]);
    group.finish();
}

/// Measures `sent` in turns.
fn engine(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, harness: &mut Harness, sent: &[Sent]) {
    let now = Now::at(harness.seconds);
    let mut reply = [0; REPLY_MAX];
    let engine = &mut harness.engine;
    let mut handle = |(source, datagram): &Sent| {
        matches!(engine.handle(now, *source, black_box(datagram), &mut reply), Outcome::Reply(_))
    };
    let counted = allocation_counter::measure(|| {
        sent.iter().for_each(|sent| _ = handle(sent));
    });
    assert_eq!(counted.count_total, 0, "{name} allocates");
    let mut turns = sent.iter().cycle();
    group.bench_function(name, |bencher| bencher.iter(|| handle(turns.next().unwrap())));
}

fn connection_ids(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("connection-id");
    let now = Now::at(0).unix_seconds;
    let mut ids = ConnectionIds::new(&udp_config());
    // "Again" is an id that is remembered; all others take an HMAC each.
    for (name, sources) in [("make", SOURCES), ("make-again", 1)] {
        let mut turns = (0..sources).map(address).cycle();
        group.bench_function(name, |bencher| bencher.iter(|| ids.make(now, turns.next().unwrap())));
    }
    for (name, sources) in [("verify", SOURCES), ("verify-again", 1)] {
        let mut make = |number| (address(number), ids.make(now, address(number)));
        let made: Vec<_> = (0..sources).map(&mut make).collect();
        let mut turns = made.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (source, id) = *turns.next().unwrap();
                ids.verify(now, source, black_box(id)).unwrap()
            });
        });
    }
    group.finish();
}

/// A swarm of this many peers, every other one a seeder: the announces of all of them.
fn swarm(harness: &mut Harness, peers: u16) -> Vec<Sent> {
    let announce = |number: u16| {
        let words =
            if number.is_multiple_of(2) { TestAnnounce::seeder(6881) } else { TestAnnounce::leecher(6881) };
        let (source, words) = (source(number), TestAnnounce { event: 0, num_want: 50, ..words });
        let datagram = words.datagram(harness.connect(&source.to_string()));
        harness.send(&source.to_string(), &datagram).unwrap();
        (source, datagram)
    };
    (0..peers).map(announce).collect()
}

fn source(number: u16) -> SocketAddr {
    SocketAddr::new(address(number), 6881)
}

fn address(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(45, 0, high, low).into()
}
