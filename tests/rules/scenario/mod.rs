//! Scenario files, which state what a tracker does over time, in virtual time and without sockets, through
//! both engines.
//!
//! ```text
//! # what this file shows, with its BEP
//! servers udp http         which engines play it (default: both)
//! set peer_inactivity=600  a setting, before the first step
//!   0s  10.0.0.1:6881  announce A left=9 event=started  -> peers none
//!   1s  10.0.0.2:6882  announce A left=0                -> peers 10.0.0.1:6881
//!   2s  10.0.0.3:6883  scrape A B                       -> tallies 1/0/1 0/0/0
//!   3s  sweep
//! ```
//! A step begins with its time and the peer that acts. After the arrow come the expectations, separated by
//! `;`: `connected`, `peers none` or a list, `peer_count N`, `swarm SEEDERS/LEECHERS`, `tallies
//! SEEDERS/COMPLETED/LEECHERS ..`, `refused TEXT`, `silence REASON` (UDP only), `interval N`.

mod engines;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use hayate_state::address::PrivatePeers;
use hayate_state::admission::access::{Access, TorrentList};
use hayate_state::swarm::Sweeper;
use hayate_state::{Event, InfoHash, Now, Policy, Published, Swarms, Tracker};

use engines::{HttpScenario, UdpScenario};

/// What a peer does.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Connect,
    Announce { torrent: InfoHash, left: u64, event: Event, num_want: i32 },
    Scrape(Vec<InfoHash>),
}

/// The reply that the peer gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    Connected,
    Peers { interval: u32, seeders: u32, leechers: u32, peers: Vec<SocketAddr> },
    Tallies(Vec<[u32; 3]>),
    Refused(String),
    Silence(String),
}

/// One engine with its own tracker.
pub(crate) trait ScenarioEngine {
    fn perform(&mut self, now: Now, peer: SocketAddr, action: &Action) -> Answered;
}

struct Step {
    line: usize,
    second: u32,
    /// `None` = sweep.
    action: Option<(SocketAddr, Action)>,
    expected: Vec<String>,
}

struct Scenario {
    servers: Vec<String>,
    policy: Policy,
    peers_per_address: u16,
    steps: Vec<Step>,
}

fn torrent(letter: &str) -> InfoHash {
    InfoHash([letter.as_bytes()[0]; 20])
}

fn list(letters: &str) -> Arc<TorrentList> {
    Arc::new(letters.chars().map(|letter| torrent(&letter.to_string())).collect())
}

fn set(policy: &mut Policy, key: &str, value: &str) {
    match key {
        "announce" => policy.announce_seconds = value.parse().unwrap(),
        "announce_drift" => policy.announce_drift_seconds = value.parse().unwrap(),
        "peer_inactivity" => policy.peer_inactivity_seconds = value.parse().unwrap(),
        "strict_port" => policy.strict_port = value == "true",
        "denied_ports" => policy.denied_ports = value.split(',').map(|port| port.parse().unwrap()).collect(),
        "memory_max" => policy.memory_max = value.parse().unwrap(),
        "enable_scrape" => policy.enable_scrape = value == "true",
        "allow" => policy.access = Access::Allow(list(value)),
        "deny" => policy.access = Access::Deny(list(value)),
        "allow_private_peers" => {
            policy.private_peers = if value == "true" { PrivatePeers::Always } else { PrivatePeers::Never };
        }
        _ => panic!("no setting {key}"),
    }
}

fn read_action(words: &[&str]) -> Action {
    match words {
        ["connect"] => Action::Connect,
        ["scrape", torrents @ ..] => Action::Scrape(torrents.iter().map(|letter| torrent(letter)).collect()),
        ["announce", letter, options @ ..] => {
            let option =
                |name: &str| options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
            let event = match option("event") {
                None => Event::None,
                Some("started") => Event::Started,
                Some("completed") => Event::Completed,
                Some("stopped") => Event::Stopped,
                Some("paused") => Event::Paused,
                Some(other) => panic!("no event {other}"),
            };
            let left = option("left").expect("left=").parse().unwrap();
            let num_want = option("num_want").map_or(-1, |number| number.parse().unwrap());
            Action::Announce { torrent: torrent(letter), left, event, num_want }
        }
        _ => panic!("unknown action {words:?}"),
    }
}

fn read(text: &str) -> Scenario {
    let policy = Policy { announce_drift_seconds: 0, ..Policy::default() };
    let servers = vec!["udp".into(), "http".into()];
    let mut scenario = Scenario { servers, policy, peers_per_address: 0, steps: Vec::new() };
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap().trim();
        let (action, expected) = line.split_once("->").unwrap_or((line, ""));
        let words: Vec<&str> = action.split_whitespace().collect();
        match words[..] {
            [] => continue,
            ["servers", ref servers @ ..] => {
                scenario.servers = servers.iter().map(|server| (*server).to_owned()).collect()
            }
            ["set", setting] => match setting.split_once('=').unwrap() {
                ("peers_per_address", value) => scenario.peers_per_address = value.parse().unwrap(),
                (key, value) => set(&mut scenario.policy, key, value),
            },
            [moment, ref rest @ ..] => {
                let second = moment.strip_suffix('s').expect("a moment such as 30s").parse().unwrap();
                let action = match rest {
                    ["sweep"] => None,
                    [peer, action @ ..] => Some((peer.parse().unwrap(), read_action(action))),
                    [] => panic!("line {}: nothing happens", index + 1),
                };
                let expected = expected.split(';').map(|part| part.trim().to_owned()).collect();
                scenario.steps.push(Step { line: index + 1, second, action, expected });
            }
        }
    }
    scenario
}

/// Whether the reply is the expected one.
fn is_as_expected(answered: &Answered, expected: &str) -> bool {
    let (kind, rest) = expected.split_once(' ').unwrap_or((expected, ""));
    match (kind, answered) {
        ("connected", Answered::Connected) => true,
        ("silence", Answered::Silence(reason)) => reason == rest,
        ("refused", Answered::Refused(text)) => text == rest,
        ("interval", Answered::Peers { interval, .. }) => rest.parse() == Ok(*interval),
        ("peer_count", Answered::Peers { peers, .. }) => rest.parse() == Ok(peers.len()),
        ("swarm", Answered::Peers { seeders, leechers, .. }) => rest == format!("{seeders}/{leechers}"),
        ("peers", Answered::Peers { peers, .. }) => {
            let mut wanted: Vec<SocketAddr> = match rest {
                "none" => Vec::new(),
                list => list.split_whitespace().map(|peer| peer.parse().unwrap()).collect(),
            };
            wanted.sort_unstable();
            wanted == *peers
        }
        ("tallies", Answered::Tallies(tallies)) => {
            let tallies: Vec<String> = tallies.iter().map(|[s, c, l]| format!("{s}/{c}/{l}")).collect();
            rest == tallies.join(" ")
        }
        _ => false,
    }
}

fn play(path: &Path) {
    let scenario = read(&std::fs::read_to_string(path).unwrap());
    assert!(!scenario.steps.is_empty(), "{} has no step", path.display());
    for name in &scenario.servers {
        let policy = Published::new(scenario.policy.clone());
        let swarms = Swarms::new(scenario.peers_per_address);
        let tracker = Tracker::new(Arc::clone(&swarms), &policy, 7);
        let mut engine: Box<dyn ScenarioEngine> = match name.as_str() {
            "udp" => Box::new(UdpScenario::new(tracker)),
            "http" => Box::new(HttpScenario::new(tracker, &policy)),
            other => panic!("no server {other}"),
        };
        let mut sweeper = Sweeper::new(swarms);
        for step in &scenario.steps {
            let now = Now::at(step.second);
            let Some((peer, action)) = &step.action else {
                sweeper.sweep_all(now.tick, &policy.current());
                continue;
            };
            let answered = engine.perform(now, *peer, action);
            for expected in &step.expected {
                let at = format!("{}:{} over {name}", path.display(), step.line);
                assert!(is_as_expected(&answered, expected), "{at}: expected {expected:?}, got {answered:?}");
            }
        }
    }
}

#[test]
fn every_scenario_holds_over_its_servers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    assert!(paths.len() >= 10, "{}", paths.len());
    for path in paths {
        println!("{}", path.display());
        play(&path);
    }
}
