//! Any target and headers for the gateway's engine: no panic, a canonical body, and a failure always has an
//! interval.
#![no_main]

use std::cell::RefCell;

use hayate_gateway::engine::client_address::Source;
use hayate_gateway::engine::{Engine, Head};
use hayate_gateway::{HttpConfig, TrackerRoutes};
use hayate_state::{Now, Policy, Published, Swarms, Tracker};
use hayate_tools::bencode::Value;
use libfuzzer_sys::fuzz_target;

fn engine_and_tracker() -> (Engine, Tracker) {
    let policy = Published::new(Policy { memory_max: 64 << 20, keep_peer_ids: true, ..Policy::default() });
    let config = Published::new(HttpConfig {
        announce_routes: vec!["/announce".into(), "/:key/announce".into(), "/x/*rest".into()],
        proxy_header: Some("X-Real-IP".into()),
        trusted_proxies: vec!["10.0.0.0/8".parse().expect("a network")],
        spoofing_sources: vec!["10.0.0.0/8".parse().expect("a network")],
        ..HttpConfig::default()
    });
    assert!(TrackerRoutes::new(&config.current().announce_routes, &[]).is_ok());
    let engine = Engine::new(config.subscribe(), policy.subscribe()).expect("good routes");
    (engine, Tracker::new(Swarms::new(8), &policy, 7))
}

thread_local! {
    static ENGINE: RefCell<(Engine, Tracker)> = RefCell::new(engine_and_tracker());
}

fuzz_target!(|input: &[u8]| {
    let Some((&[host, len], rest)) = input.split_first_chunk::<2>() else { return };
    let (header, target) = rest.split_at(usize::from(len).min(rest.len()));
    // What is not a whole target is the query of an announce.
    let target = match target.first() {
        Some(b'/' | b'h') => target.to_vec(),
        _ => [b"/announce?", target].concat(),
    };
    let headers: &[(&str, &[u8])] = &[("X-Real-IP", header)];
    let source = if host & 1 == 0 { Source::Unix } else { Source::Address([10, 0, 0, host].into()) };
    let head = Head { method: b"GET", target: &target, source, headers, header_octets: 20, has_body: false };
    ENGINE.with_borrow_mut(|(engine, tracker)| {
        let response = engine.handle(Now::at(0), tracker, &head);
        if response.status == 200 {
            let value = Value::decode(&response.body).expect("bencode");
            assert_eq!(value.encode(), &response.body[..], "canonical");
            let failed = value.at("failure reason").is_some();
            assert!(value.at("files").is_some() || value.at("interval").is_some());
            assert!(!failed || value.at("peers").is_none());
        }
    });
});
