//! How long announces take in one private swarm of a hundred thousand users while each of the walks through
//! such a swarm is under way: `HAYATE_BENCH_WAITS=1 cargo bench -p hayate-state --bench swarms`. The time of
//! an announce includes all that it waits for, its lock, too; the row without a walk shows what the machine
//! itself adds.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use hayate_state::private::snapshot::SiteSection;
use hayate_state::private::{PeerExpiry, Site};
use hayate_state::report::{Reporter, TorrentSource};
use hayate_state::snapshot::thread::{Ending, SnapshotPlan, SnapshotThread};
use hayate_state::store::{Bounds, Queues};
use hayate_state::{Clock, Event, Policy, Swarms};

use crate::user_announce::BenchSite;

const USERS: u32 = 100_000;
/// Announces of each row, and between two times that the queues are emptied.
const ANNOUNCES: u64 = 2_000_000;
const ROUND: u64 = 5000;
/// Tokens and pauses of what goes on beside the announces.
const TOKENS: u32 = 100_000;
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) fn print_table() {
    let columns = ["announces", "p50, us", "p99.9, us", "p99.99, us", "longest, us", "above 1 ms"];
    println!("| {USERS} users in one swarm | {} |", columns.join(" | "));
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let (mut bench, clock) = (BenchSite::new(USERS, 1, 0), Clock::start());
    let tokens = (0..TOKENS).map(|id| ((id, id), ())).collect();
    bench.site.update(|site_data| site_data.tokens = Arc::new(tokens));
    let mut took = Vec::new();
    for id in 0..USERS {
        let start = clock.uptime();
        bench.announce(id, 0);
        took.push(clock.uptime() - start);
        if u64::from(id) % ROUND == 0 {
            bench.recorder.emergency_flush().flush_to_disk();
        }
    }
    print_row("while it fills", took);
    print_row("nothing else", announces(&mut bench, &clock));
    let stopping = AtomicBool::new(false);
    let site = Arc::clone(&bench.site);
    let took = thread::scope(|scope| {
        scope.spawn(|| snapshots(&site, clock, &stopping));
        scope.spawn(|| purges(&site, clock, &stopping));
        scope.spawn(|| admin_changes(&site, &stopping));
        scope.spawn(|| exports(&site, clock, &stopping));
        let took = announces(&mut bench, &clock);
        stopping.store(true, Ordering::Release);
        took
    });
    print_row("snapshots, purges, exports, admin changes", took);
    bench.recorder.stop();
}

/// Known peers, and one in eight that is new or goes.
fn announces(bench: &mut BenchSite, clock: &Clock) -> Vec<Duration> {
    let (mut random, mut took) = (fastrand::Rng::with_seed(11), Vec::new());
    for number in 0..ANNOUNCES {
        let id = random.u32(..USERS);
        let event = if number % 16 == 0 { Event::Stopped } else { Event::None };
        let start = clock.uptime();
        bench.announce_event(id, number * 1000, event);
        took.push(clock.uptime() - start);
        if number % ROUND == 0 {
            bench.recorder.emergency_flush().flush_to_disk();
        }
    }
    took
}

fn print_row(name: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let micros = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e6);
    let at = |share: usize| micros(took.get(took.len() * share / 10_000));
    let long = took.iter().filter(|time| **time > Duration::from_millis(1)).count();
    let (median, late, last, most) = (at(5000), at(9990), at(9999), micros(took.last()));
    println!("| {name} | {} | {median:.1} | {late:.1} | {last:.1} | {most:.0} | {long} |", took.len());
}

fn snapshots(site: &Arc<Site>, clock: Clock, stopping: &AtomicBool) {
    let folder = tempfile::tempdir().unwrap();
    while !stopping.load(Ordering::Acquire) {
        let queues = Arc::new(Queues::new(clock, &Bounds::default()));
        let plan = SnapshotPlan {
            path: folder.path().join("cache"),
            every_seconds: Arc::new(AtomicU32::new(1)),
            swarms: Swarms::new(0),
            sections: vec![Box::new(SiteSection::new(Arc::clone(site), queues))],
        };
        let snapshot_thread = SnapshotThread::start(plan, clock).unwrap();
        thread::sleep(Duration::from_secs(2));
        snapshot_thread.stop(Ending::Leave);
    }
}

/// As the state actor does it, but a round each second.
fn purges(site: &Arc<Site>, clock: Clock, stopping: &AtomicBool) {
    let policy = Policy { purge_seconds: 1, ..Policy::default() };
    let mut expiry = PeerExpiry::new(Arc::clone(&site.torrents), None);
    while !stopping.load(Ordering::Acquire) {
        expiry.advance(&clock, &policy, Duration::from_millis(100));
        thread::sleep(Duration::from_millis(100));
    }
}

fn admin_changes(site: &Arc<Site>, stopping: &AtomicBool) {
    for id in (0..TOKENS).cycle() {
        if stopping.load(Ordering::Acquire) {
            return;
        }
        site.update(|site_data| {
            let tokens = Arc::make_mut(&mut site_data.tokens);
            tokens.remove(&(id, id));
            tokens.insert((id, id), ());
        });
        thread::sleep(PAUSE);
    }
}

fn exports(site: &Arc<Site>, clock: Clock, stopping: &AtomicBool) {
    let reporter = Reporter::new(TorrentSource::Site(Arc::clone(&site.torrents)), clock);
    while !stopping.load(Ordering::Acquire) {
        reporter.walk(|rows| Ok(_ = black_box(rows.len()))).unwrap();
        thread::sleep(PAUSE);
    }
}
