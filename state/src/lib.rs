//! The tracker itself: what a swarm is, who may announce, who is handed out.
//!
//! | module | what is in it |
//! |---|---|
//! | [`ids`] | `info_hash` and `peer_id` |
//! | [`announce`] | the fields of one announce or scrape, and of its answer |
//! | [`address`] | which peers a requester may be handed: public, private ranges, hidden ports |
//! | [`clock`] | the one place where time is read |
//! | [`swarm`] | mode open and listed: all torrents with their peers, in shards |
//! | `peer_counts` | how many peers there are, by family and role |
//! | `table` | how a torrent is found, and found early |
//! | [`admission`] | the settings of all decisions: lists, hooks, rate limits, clients |
//! | [`private`] | mode private: users, registered torrents with their peers, what is credited |
//! | [`tracker`] | [`Tracker`]: the one place where an announce or scrape is decided |
//! | [`actor`] | the thread that answers the gateway's inbox and runs everything periodic |
//! | [`background`] | one way to run, wake and stop a periodic thread |
//! | [`metrics`] | counters that one thread writes and anybody reads, distributions, the board of all |
//! | [`query`] | the one splitter of targets and query strings, and percent-escapes |
//! | [`published`] | settings that are swapped whole while others read them |
//! | [`store`] | durable memory behind a trait: records, queues, spill, SQLite and MariaDB |
//! | [`report`] | how all torrents stand, and a file with that |
//! | [`snapshot`] | the swarms in a file, so that a restart is warm |
//! | [`text`] | files that people write, and their lines |
//! | `lock_cost` | in tests: how many peers were looked at under one lock |
//!
//! Invariants: one shard lock at a time, never held across a system call or a channel; every peer is in
//! exactly one place of its swarm; nothing on the announce path waits for anything but that lock.
//!
//! Absent on purpose: sockets, HTTP, BEP 15 octets, bencode, command lines, log lines per request.

pub mod actor;
pub mod address;
pub mod admission;
pub mod announce;
pub mod background;
pub mod clock;
pub mod ids;
mod lock_cost;
pub mod metrics;
mod peer_counts;
pub mod private;
pub mod published;
pub mod query;
pub mod report;
pub mod snapshot;
pub mod store;
pub mod swarm;
mod table;
pub mod text;
pub mod tracker;

// What tests of all kinds share names this crate from outside.
#[cfg(test)]
#[path = "../tests/kit/double.rs"]
mod double;
#[cfg(test)]
extern crate self as hayate_state;

pub use admission::Policy;
pub use announce::{Announce, Answer, Event, Handout, Refusal, Tally};
pub use clock::{Clock, Now, Tick};
pub use ids::{InfoHash, PeerId};
pub use metrics::histogram::Histogram;
pub use metrics::{Board, Counter};
pub use peer_counts::PeerCounts;
pub use published::{Published, Subscriber};
pub use swarm::Swarms;
pub use tracker::Tracker;
