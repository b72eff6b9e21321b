//! Tests of the engine in mode private: rows, forms and addresses, against a real tracker in virtual time.

use std::collections::HashMap;
use std::sync::Arc;

use hayate_state::private::section::SiteRestore;
use hayate_state::private::{Denial, Members, Site};
use hayate_state::snapshot::site::{Group, Multipliers, Record, Torrent, User};
use hayate_state::{Answer, Now, PeerId, Published, Swarms, Tracker};

use super::*;
use crate::address::Source;
use crate::engine::{Engine, Step};
use crate::wire::bencode::tests::{Value, read as bencoded};

mod replies;
mod rows;

/// Any octets may be a passkey.
const ODD: &[u8] = b"\0\xff& %?";
const PEER_ID: &str = "-TR2920-00000000000a";

struct Desk {
    engine: Engine,
    tracker: Tracker,
    site: Arc<Site>,
    config: Arc<Published<DoorConfig>>,
}

fn config() -> DoorConfig {
    DoorConfig {
        proxy_header: Some("X-Real-Ip".into()),
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        num_want: 25,
        num_want_max: 50,
        external_ip: false,
        ..DoorConfig::default()
    }
}

fn policy() -> Policy {
    Policy { announce_drift_seconds: 0, ..Policy::default() }
}

impl Desk {
    fn new(config: DoorConfig, policy: Policy) -> Self {
        let site = site();
        let (config, policy) = (Published::new(config), Published::new(policy));
        let engine = Engine::new(config.subscribe(), policy.subscribe()).unwrap();
        let engine = engine.private(site.register.subscribe());
        let tracker = Tracker::new(Swarms::new(0), &policy, 7).private(Arc::clone(&site));
        Self { engine, tracker, site, config }
    }

    fn plain() -> Self {
        Self::new(config(), policy())
    }

    fn ask(&mut self, source: &str, target: &[u8], headers: &[(&str, &[u8])]) -> Response {
        let head = head(source, target, headers);
        self.engine.handle(Now::at(0), &mut self.tracker, &head)
    }

    fn get(&mut self, target: &str) -> Value {
        self.get_from("192.0.2.7", target)
    }

    fn get_from(&mut self, source: &str, target: &str) -> Value {
        let response = self.ask(source, target.as_bytes(), &[]);
        assert_eq!((response.status, response.content_type), (200, "text/plain"), "{target}");
        bencoded(&response.body)
    }

    /// The whole failure that a target gets.
    fn failure(&mut self, target: &str) -> String {
        String::from_utf8_lossy(&self.ask("192.0.2.7", target.as_bytes(), &[]).body).into_owned()
    }
}

fn head<'r>(
    source: &str,
    target: &'r [u8],
    headers: &'r [(&'r str, &'r [u8])],
) -> Head<'r, [(&'r str, &'r [u8])]> {
    let source = Source::Address(source.parse().unwrap());
    Head { method: b"GET", target, source, headers, header_octets: 20, has_body: false }
}

/// That of `private-tracker.md` 23.1, and torrent 4 of an unknown status.
fn site() -> Arc<Site> {
    let site = Site::new();
    let mut restore = SiteRestore::new(&site.torrents);
    for (letter, id, status) in [('a', 1, 1), ('b', 2, 0), ('c', 3, 0), ('d', 4, -7)] {
        restore.record(Record::Torrent(Torrent {
            info_hash: InfoHash([letter as u8; 20]),
            id,
            group: Group { type_name: "anime".into(), id: 1 },
            snatched: 13,
            status,
            last_action: 0,
            multipliers: Multipliers::default(),
            peers: Vec::new(),
        }));
    }
    let mut members = Members::default();
    for (passkey, id, disable_download) in [(&b"one"[..], 1, false), (b"two", 2, true), (ODD, 5, false)] {
        let multipliers = Multipliers::default();
        members.put(&User {
            passkey: passkey.into(),
            id,
            disable_download,
            tracker_hide: false,
            multipliers,
        });
    }
    site.change(|register| {
        register.members = Arc::new(members);
        register.hit_and_runs = Arc::new([(2, 2)].into());
        register.clients = Arc::new([(1, "-TR2"), (3, "-DE13")].into_iter().collect());
        let deletions = HashMap::from([(InfoHash([b'x'; 20]), Arc::from("a duplicate"))]);
        register.deletions = Arc::new(deletions);
    });
    site
}

fn hash(letter: char) -> String {
    letter.to_string().repeat(20)
}

/// A whole query of an announce, but for what `more` says later or anew.
fn query(letter: char, port: u16, more: &str) -> String {
    let (hash, totals) = (hash(letter), "uploaded=7&downloaded=11&left=13");
    format!("info_hash={hash}&peer_id={PEER_ID}&port={port}&{totals}{more}")
}

fn announce(passkey: &str, letter: char, port: u16, more: &str) -> String {
    format!("/{passkey}/announce?{}", query(letter, port, more))
}

fn failed(text: &str, interval_seconds: u32) -> String {
    format!("d14:failure reason{}:{text}8:intervali{interval_seconds}ee", text.len())
}
