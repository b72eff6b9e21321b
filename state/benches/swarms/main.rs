//! Swarms under `cargo bench -p hayate-state`: the operations of the reference's peer store, announces at
//! 10^3 to 10^7 peers, the sweep, snapshots, announces of users. Everything is in virtual time and from
//! fixed seeds.
//!
//! One kind alone: `cargo bench -p hayate-state -- store/put`. All times are of one thread; each includes
//! about what `store/nop` takes.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench may panic")]

#[path = "../../tests/kit/double.rs"]
mod double;
mod hooks;
mod kit;
mod sizes;
mod snapshot;
mod store;
mod sweep;
mod user_announce;
mod waits;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    if std::env::var_os("HAYATE_BENCH_WAITS").is_some() {
        return waits::print_table();
    }
    // Short runs, so that all benches together take minutes; the command line may ask for more.
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .nresamples(10_000)
        .configure_from_args();
    store::changes(&mut criterion);
    store::readings(&mut criterion);
    sizes::announces(&mut criterion);
    sizes::hidden(&mut criterion);
    sweep::rounds(&mut criterion);
    sweep::slices(&mut criterion);
    snapshot::writes(&mut criterion);
    snapshot::restores(&mut criterion);
    hooks::chains(&mut criterion);
    user_announce::announces(&mut criterion);
    clock(&mut criterion);
    criterion.final_summary();
}

/// What one batch of datagrams pays for the time.
fn clock(criterion: &mut Criterion) {
    let clock = hayate_state::Clock::start();
    criterion.bench_function("clock/now", |bencher| bencher.iter(|| clock.now()));
}
