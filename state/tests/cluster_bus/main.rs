//! The bus on real Redis servers, and on a false one.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod access;
mod nonsense;
#[path = "../../../tests/kit/servers/redis.rs"]
mod servers;
mod streams;
mod topologies;
mod trouble;

use std::thread::sleep;
use std::time::Duration;

use hayate_state::Clock;
use hayate_state::cluster::bus::redis::RedisBus;
use hayate_state::cluster::bus::redis::settings::RedisSettings;
use hayate_state::cluster::bus::{Bus, BusError, EntryId, Exchange, Exchanged};

/// The key of a stream, as nodes name them.
const KEY: &str = "hayate:{0}";
/// Less than any entry's place.
const BEGIN: EntryId = EntryId { milliseconds: 0, number: 0 };

fn settings(url: &str) -> RedisSettings {
    RedisSettings::new(url.parse().unwrap(), "hayate-a".to_owned())
}

fn bus(url: &str) -> RedisBus {
    RedisBus::new(settings(url), Clock::start()).unwrap()
}

/// Appends entries, and reads all.
fn append(bus: &mut RedisBus, entries: &[&[u8]]) -> Result<Exchanged, BusError> {
    let append: Vec<Vec<u8>> = entries.iter().map(|entry| entry.to_vec()).collect();
    bus.exchange(&Exchange { key: KEY, append: &append, oldest: BEGIN, position: BEGIN, read_max: 64 })
}

/// Returns the entries themselves.
fn values(exchanged: &Exchanged) -> Vec<&[u8]> {
    exchanged.entries.iter().map(|(_, entry)| entry.as_slice()).collect()
}

/// Makes a call until it works, for a minute.
fn eventually<T>(mut call: impl FnMut() -> Result<T, BusError>) -> T {
    let mut last = None;
    for _ in 0..600 {
        match call() {
            Ok(answer) => return answer,
            Err(error) => last = Some(error),
        }
        sleep(Duration::from_millis(100));
    }
    panic!("{last:?}");
}

/// Asserts that a call fails with a [`BusError`] of one kind, and returns its text.
macro_rules! assert_fails {
    ($result:expr, $kind:ident) => {
        match $result {
            Err(hayate_state::cluster::bus::BusError::$kind(text)) => text,
            other => panic!("{other:?}"),
        }
    };
}
use assert_fails;
