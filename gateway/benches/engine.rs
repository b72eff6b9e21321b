//! One query through the gateway's engine, without hyper and the state actor's thread, and its parts alone:
//! `cargo bench -p hayate-gateway`. Fixed seeds, virtual time.
#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use std::fmt::Write;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::Criterion;
use hayate_gateway::engine::client_address::Source;
use hayate_gateway::engine::{Head, Response};
use hayate_gateway::wire::bencode;
use hayate_gateway::wire::query::{Parameters, QueryRules};
use hayate_gateway::wire::reply::{self, ReplyAddress, ReplyForm};
use hayate_gateway::{Engine, HttpConfig, TrackerRoutes};
use hayate_state::actor::PeerList;
use hayate_state::{Answer, InfoHash, Now, Policy, Published, Swarms, Tally, Tracker};

/// Peers of the swarm that the requests ask for.
const PEERS: u16 = 1000;
/// Octets of the header lines a client sends.
const HEADER_OCTETS: usize = 120;

fn main() {
    // Short runs, so that all benches together take minutes; the command line may ask for more.
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .nresamples(10_000)
        .configure_from_args();
    requests(&mut criterion);
    queries(&mut criterion);
    replies(&mut criterion);
    criterion.final_summary();
}

struct Harness {
    engine: Engine,
    tracker: Tracker,
}

impl Harness {
    fn new() -> Self {
        let config = Published::new(HttpConfig::default());
        // With peer ids, so that the list form has something to write.
        let policy = Published::new(Policy { keep_peer_ids: true, ..Policy::default() });
        let engine = Engine::new(config.subscribe(), policy.subscribe()).unwrap();
        Self { engine, tracker: Tracker::new(Swarms::new(0), &policy, 7) }
    }

    fn get(&mut self, source: IpAddr, target: &str) -> Response {
        let head = Head {
            method: b"GET",
            target: black_box(target).as_bytes(),
            source: Source::Address(source),
            headers: &[][..],
            header_octets: HEADER_OCTETS,
            has_body: false,
        };
        self.engine.handle(Now::at(0), &mut self.tracker, &head)
    }
}

/// Measures whole requests of one known peer.
fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gateway");
    let mut harness = Harness::new();
    for number in 0..PEERS {
        harness.get(address(number), &announce(number, &format!("&left={}", number % 2)));
    }
    let scrape = format!("/scrape?{}", query_of_ten());
    for (name, target, octets) in [
        ("announce-compact", announce(1, "&left=1000&compact=1"), 50 * 6),
        ("announce-list", announce(1, "&left=1000&compact=0"), 50 * 60),
        ("scrape-10", scrape, 10 * 60),
        ("failure", "/announce?info_hash=short".to_owned(), 20),
    ] {
        let reply = harness.get(address(1), &target);
        assert!(reply.status == 200 && reply.body.len() > octets, "{name}: {}", reply.body.escape_ascii());
        group.bench_function(name, |bencher| bencher.iter(|| harness.get(address(1), &target)));
    }
    group.finish();
}

/// Measures reading alone: the route, and the query.
fn queries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("query");
    let routes =
        TrackerRoutes::new(&["/announce".into(), "/:key/announce".into()], &["/scrape".into()]).unwrap();
    group.bench_function("route", |bencher| {
        bencher.iter(|| routes.find(black_box(b"/0123456789/announce")).is_some());
    });
    let target = announce(1, "&left=1000&compact=1");
    let (_, query) = target.split_once('?').unwrap();
    group.bench_function("announce", |bencher| {
        bencher.iter(|| {
            let parameters = Parameters::parse(black_box(query.as_bytes()));
            let id = |value: Option<hayate_gateway::wire::query::Escaped<'_>>| value.unwrap().id::<20>();
            (id(parameters.info_hash).unwrap(), id(parameters.peer_id).unwrap(), parameters.num_want)
        });
    });
    let query = query_of_ten();
    group.bench_function("scrape-10", |bencher| {
        bencher.iter(|| {
            Parameters::parse(black_box(query.as_bytes())).info_hashes(QueryRules::Open).flatten().count()
        });
    });
    group.finish();
}

/// Measures writing alone.
fn replies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bencode");
    let tally = Tally { seeders: 500, completed: 700, leechers: 501, paused: 0 };
    let answer = Answer { interval_seconds: 1800, min_interval_seconds: 900, tally };
    let peers = PeerList { v4: vec![7; 50 * 6], v4_ids: vec![Default::default(); 50], ..PeerList::default() };
    let address = ReplyAddress { external: Some(address(1)), over_v6: false };
    for (name, form) in [("announce-compact", ReplyForm::Compact), ("announce-list", ReplyForm::List)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| reply::announce(black_box(&answer), &peers, form, address));
        });
    }
    let rows: Vec<_> = (0..10).map(|number| (InfoHash([number; 20]), tally)).collect();
    group.bench_function("scrape-10", |bencher| {
        bencher.iter(|| reply::scrape(black_box(&rows).iter().map(|(hash, tally)| (hash, *tally)), 900));
    });
    let mut out = Vec::with_capacity(100);
    group.bench_function("integer", |bencher| {
        bencher.iter(|| {
            out.clear();
            bencode::integer(&mut out, black_box(1800));
        });
    });
    group.finish();
}

/// Returns what peer `number` sends for the torrent that all peers share.
fn announce(number: u16, more: &str) -> String {
    format!(
        "/announce?info_hash={}&peer_id=-XX0001-{number:012}&port=6881&uploaded=0&downloaded=0&corrupt=0\
         &key=A1B2C3D4&numwant=50&supportcrypto=1&redundant=0{more}",
        escaped(7)
    )
}

/// Returns a query for ten torrents, of which one is known.
fn query_of_ten() -> String {
    (0..10).map(|seed| format!("info_hash={}&", escaped(seed))).collect()
}

/// Returns a random info_hash, always the same for one seed, as clients write it: letters and digits as they
/// are, everything else as an escape.
fn escaped(seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut text = String::new();
    for octet in std::iter::repeat_with(|| random.u8(..)).take(20) {
        match octet.is_ascii_alphanumeric() {
            true => text.push(octet.into()),
            false => write!(text, "%{octet:02X}").unwrap(),
        }
    }
    text
}

fn address(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(45, 0, high, low).into()
}
