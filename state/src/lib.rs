//! The tracker itself: what a swarm is, who may announce, who is handed out.
//!
//! | module | what is in it |
//! |---|---|
//! | [`ids`] | `info_hash` and `peer_id` |
//! | [`announce`] | the words of one announce or scrape, and of its answer |
//! | [`reach`] | which peers an asker may be handed: public, private ranges, hidden ports |
//! | [`special`] | addresses that no peer has |
//! | [`clock`] | the one place where time is read |
//! | `torrent` | one torrent, its swarm being a `pair`, a `group`, or a `crowd` of `camp`s of `pack`s |
//! | `peer`, `block`, `roster` | one peer in memory, many in a row, what can be done to them |
//! | `select` | the choice of peers |
//! | `touch` | in tests: how many peers were looked at under one lock |
//! | `index`, `keys`, `chunks`, `prefetch` | how a torrent is found, and found early |
//! | [`swarms`], `sweep`, `census`, `gauges` | all swarms, in shards; expiry in slices; counts |
//! | [`access`], [`policy`] | who may announce what; the knobs of all decisions |
//! | [`hooks`] | what an operator may put between policy and swarm |
//! | [`limiter`], [`clients`] | who asks far too often; which clients are out there |
//! | [`private`] | mode private: members, registered torrents with their peers, what is credited |
//! | [`tracker`] | [`Tracker`]: the one place where an announce or scrape is decided |
//! | [`actor`] | the thread that answers the gateway's inbox and runs everything periodic |
//! | [`counters`] | counters that one thread writes and anybody reads, and the board that lists them |
//! | [`histogram`], [`durations`] | distributions of durations and counts; how long requests took |
//! | [`published`] | settings that are swapped whole while others read them |
//! | [`store`] | durable memory behind a trait: records, queues, spill, SQLite and MariaDB |
//! | [`survey`], [`export`] | how all torrents stand, and a file with that |
//! | [`snapshot`] | the swarms in a file, so that a restart is warm |
//! | [`text`] | files that people write, and their lines |
//!
//! Invariants: one shard lock at a time, never held across a system call or a channel; every peer is in
//! exactly one place of its swarm; nothing on the announce path waits for anything but that lock.
//!
//! Absent on purpose: sockets, HTTP, BEP 15 octets, bencode, command lines, log lines per request.

pub mod access;
pub mod actor;
pub mod announce;
mod block;
mod camp;
mod census;
mod chunks;
pub mod clients;
pub mod clock;
pub mod counters;
mod crowd;
pub mod durations;
pub mod export;
mod gauges;
mod group;
pub mod histogram;
pub mod hooks;
pub mod ids;
mod index;
mod keys;
pub mod limiter;
mod pack;
mod pair;
mod peer;
pub mod policy;
mod prefetch;
pub mod private;
pub mod published;
pub mod reach;
mod roster;
mod select;
pub mod snapshot;
pub mod special;
pub mod store;
pub mod survey;
pub mod swarms;
mod sweep;
pub mod text;
mod torrent;
mod touch;
pub mod tracker;

// What tests of all kinds share names this crate from outside.
#[cfg(test)]
#[path = "../tests/kit/double.rs"]
mod double;
#[cfg(test)]
extern crate self as hayate_state;

pub use announce::{Announce, Answer, Event, Handout, Refusal, Tally};
pub use census::Census;
pub use clock::{Clock, Now, Tick};
pub use counters::{Board, Counter};
pub use histogram::Histogram;
pub use ids::{InfoHash, PeerId};
pub use policy::Policy;
pub use published::{Published, Subscriber};
pub use swarms::Swarms;
pub use tracker::Tracker;
