//! The hook of `docs/HOOKS.md` compiles, and does what it says.

#[path = "../../../docs/examples/quiet_hours.rs"]
#[expect(unreachable_pub, reason = "public, because an operator copies it into a crate")]
mod quiet_hours;

use std::sync::Arc;

use hayate_state::admission::hooks::jwk::{Keyring, KeyringSource};
use hayate_state::admission::hooks::{HookInputs, Hooks, RequestUrl};
use hayate_state::{Announce, Event, Handout, InfoHash, Now, PeerId, Policy, Published, Swarms, Tracker};
use serde_json::json;

struct NoKeys;

impl KeyringSource for NoKeys {
    fn keyring(&self, _: &str, _: u64) -> Result<Arc<Keyring>, String> {
        Err("there are none".to_owned())
    }
}

fn tracker(options: &serde_json::Value) -> Tracker {
    let hook = quiet_hours::build(options.as_object().unwrap(), HookInputs { keyrings: &NoKeys }).unwrap();
    let hooks = Hooks::from_hooks(vec![("quiet hours", hook)], vec![]);
    let policy = Policy { hooks, announce_drift_seconds: 0, ..Policy::default() };
    Tracker::new(Swarms::new(0), &Published::new(policy), 7)
}

/// Returns the interval that a starting client gets at an hour of the day, or the refusal.
fn interval(tracker: &mut Tracker, hour: u64, query: &str) -> Result<u32, &'static str> {
    let announce = Announce {
        info_hash: InfoHash([7; 20]),
        peer_id: PeerId::default(),
        address: [192, 0, 2, 7].into(),
        port: 7001,
        uploaded: 0,
        downloaded: 0,
        left: 9,
        event: Event::Started,
        num_want: 0,
    };
    let now = Now { unix_seconds: 86_400 * 20_000 + 3600 * hour, ..Now::at(0) };
    let request_url = RequestUrl::parse(announce.address, query.as_bytes());
    let answer =
        tracker.announce_with_hooks(now, &announce, request_url, &mut Handout::new(&mut [], &mut []));
    answer.map(|answer| answer.interval_seconds).map_err(|refusal| refusal.text())
}

#[test]
fn the_example_of_the_documentation_works() {
    let mut tracker = tracker(&json!({"from": 22, "to": 6, "owls_only": true}));
    assert_eq!(interval(&mut tracker, 12, "/announce"), Ok(1800));
    assert_eq!(interval(&mut tracker, 23, "/announce?owl=1"), Ok(3600));
    assert_eq!(interval(&mut tracker, 5, "/announce?owl=0"), Err("we sleep; come back in the morning"));
    assert_eq!(interval(&mut tracker, 6, "/announce"), Ok(1800));
    let bad = quiet_hours::build(
        json!({"from": 24, "to": 6}).as_object().unwrap(),
        HookInputs { keyrings: &NoKeys },
    );
    assert_eq!(bad.unwrap_err().to_string(), "from and to are hours, 0 to 23");
}
