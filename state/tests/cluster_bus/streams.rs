//! What a bus does with streams.

use hayate_state::cluster::bus::{Bus, EntryId, Exchange, StreamState};

use crate::servers::RedisServer;
use crate::{BEGIN, KEY, append, assert_fails, bus, values};

#[test]
fn entries_are_read_back_in_the_same_exchange() {
    let server = RedisServer::new();
    let mut bus = bus(&server.url(""));
    let first = append(&mut bus, &[b"a", b"", b"\r\n\0"]).unwrap();
    assert_eq!(values(&first), [&b"a"[..], b"", b"\r\n\0"]);
    let places: Vec<EntryId> = first.entries.iter().map(|(id, _)| *id).collect();
    assert_eq!(first.appended, places);
    assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
    assert!(first.round_trip > std::time::Duration::ZERO);
    assert!(u128::from(places[0].milliseconds) >= first.server_time.as_millis());
    assert!(u128::from(places[0].milliseconds) < first.server_time.as_millis() + 60_000);

    let read = |position, read_max| Exchange { key: KEY, append: &[], oldest: BEGIN, position, read_max };
    let second = bus.exchange(&read(places[0], 64)).unwrap();
    assert_eq!((second.appended.len(), values(&second)), (0, vec![&b""[..], b"\r\n\0"]));
    assert_eq!(values(&bus.exchange(&read(BEGIN, 2)).unwrap()), [&b"a"[..], b""]);
    assert!(bus.exchange(&read(places[2], 64)).unwrap().entries.is_empty());
    assert!(bus.exchange(&read(BEGIN, 0)).unwrap().entries.is_empty());
}

#[test]
fn each_append_drops_what_is_too_old() {
    let server = RedisServer::new();
    let mut bus = bus(&server.url(""));
    let entries: Vec<Vec<u8>> = (0..350_u32).map(|number| number.to_le_bytes().to_vec()).collect();
    let all = Exchange { key: KEY, append: &entries, oldest: BEGIN, position: BEGIN, read_max: 1000 };
    let before = bus.exchange(&all).unwrap();
    assert_eq!(before.entries.len(), 350);
    let oldest = before.appended[349];
    let last = bus.exchange(&Exchange { append: &entries[..1], oldest, ..all }).unwrap();
    let state = bus.stream_state(KEY).unwrap().unwrap();
    assert!(state.len < 350, "{state:?}");
    assert!(state.first.unwrap() > before.appended[0], "{state:?}");
    assert_eq!(state.last, last.appended[0]);
}

#[test]
fn a_trim_goes_by_age_and_by_number() {
    let server = RedisServer::new();
    let mut bus = bus(&server.url(""));
    let entries = vec![vec![7]; 550];
    let all = Exchange { key: KEY, append: &entries, oldest: BEGIN, position: BEGIN, read_max: 1000 };
    let before = bus.exchange(&all).unwrap();
    bus.trim(KEY, before.appended[200], 1_000_000).unwrap();
    let by_age = bus.stream_state(KEY).unwrap().unwrap();
    assert_eq!((by_age.len, by_age.first), (350, Some(before.appended[200])));
    bus.trim(KEY, BEGIN, 100).unwrap();
    assert!(bus.stream_state(KEY).unwrap().unwrap().len < 350);
    bus.trim("hayate:{1}", BEGIN, 100).unwrap();
}

#[test]
fn a_stream_may_be_missing_or_empty() {
    let server = RedisServer::new();
    let mut bus = bus(&server.url(""));
    assert_eq!(bus.stream_state(KEY).unwrap(), None);
    assert!(append(&mut bus, &[]).unwrap().entries.is_empty());
    let last = append(&mut bus, &[b"a"]).unwrap().appended[0];
    let one = StreamState { last, first: Some(last), len: 1 };
    assert_eq!(bus.stream_state(KEY).unwrap(), Some(one));
    server.cli(&format!("XTRIM {KEY} MAXLEN 0"));
    assert_eq!(bus.stream_state(KEY).unwrap(), Some(StreamState { last, first: None, len: 0 }));
}

#[test]
fn a_key_of_another_type_is_named() {
    let server = RedisServer::new();
    let mut bus = bus(&server.url(""));
    server.cli(&format!("SET {KEY} text"));
    assert_eq!(assert_fails!(bus.stream_state(KEY), WrongType), KEY);
    assert_eq!(assert_fails!(append(&mut bus, &[b"a"]), WrongType), KEY);
    assert_eq!(assert_fails!(append(&mut bus, &[]), WrongType), KEY);
    assert_eq!(assert_fails!(bus.trim(KEY, BEGIN, 1), WrongType), KEY);
    server.cli(&format!("DEL {KEY}"));
    append(&mut bus, &[b"a"]).unwrap();
}

#[test]
fn entries_of_other_programs_are_passed_over() {
    let server = RedisServer::new();
    let mut bus = bus(&server.url(""));
    for fields in ["x y", "b y c d", "c d b y"] {
        server.cli(&format!("XADD {KEY} * {fields}"));
    }
    let long = vec![7; 3_000_000];
    let longest = vec![11; 64 * 1024];
    let read = append(&mut bus, &[&long, &longest, b"a"]).unwrap();
    assert_eq!(values(&read), [b"", b"", b"", b"", longest.as_slice(), b"a"]);
}

#[test]
fn a_socket_and_a_database_are_used() {
    let server = RedisServer::new();
    let mut bus = bus(&format!("unix://{}?db=7", server.socket().display()));
    append(&mut bus, &[b"a"]).unwrap();
    assert_eq!(server.cli(&format!("EXISTS {KEY}")), "0");
    assert!(server.cli("INFO keyspace").contains("db7:keys=1"));
    assert!(server.cli("CLIENT LIST").contains("name=hayate-a"));
    let mut none = crate::bus(&format!("{}/999", server.url("")));
    assert!(assert_fails!(none.stream_state(KEY), Unsuitable).contains("out of range"));
}
