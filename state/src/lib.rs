//! The tracker itself: what a swarm is, who may announce, which peers are handed out.
//!
//! | module | what is in it |
//! |---|---|
//! | [`ids`] | `info_hash` and `peer_id` |
//! | [`announce`] | the fields of one announce or scrape, and of its answer |
//! | [`address`] | what an address is good for: who may be handed a peer there, who may claim it |
//! | [`clock`] | the one place where time is read |
//! | [`cluster`] | several trackers as one |
//! | [`swarm`] | mode open and listed: all torrents with their peers, in shards |
//! | `peer_counts` | counts of peers by family and role |
//! | `table` | how a torrent is found: shards, hashes, an index, a slab |
//! | [`admission`] | the settings of all decisions: access lists, hooks, rate limits, client statistics |
//! | [`private`] | mode private: users, registered torrents with their peers, what is credited |
//! | [`tracker`] | [`Tracker`]: the one place where an announce or scrape is decided |
//! | [`actor`] | the thread that answers the gateway's inbox and runs everything periodic |
//! | [`background`] | one way to run, wake and stop a periodic thread |
//! | [`metrics`] | counters that one thread writes and any thread reads, histograms, the board of all |
//! | [`query`] | the one splitter of targets and query strings, and percent-escapes |
//! | [`published`] | settings that are replaced as a whole while other threads read them |
//! | [`store`] | durable memory behind a trait: records, queues, spill, SQLite and MariaDB |
//! | [`report`] | the counts of all torrents, and the export of them to a file |
//! | [`snapshot`] | the swarms in a file, so that a restart is warm |
//! | [`file_identity`] | by which one notices that a path leads to another file than before |
//! | [`text`] | text files that people write, and their lines |
//! | `lock_cost` | in tests: how many peers were visited under one lock |
//!
//! A record goes to a [`Store`](store::Store) in a batch, and is kept once, however often the batch is sent:
//!
//! ```
//! use hayate_state::InfoHash;
//! use hayate_state::store::record::CompletedRow;
//! use hayate_state::store::{Backend, Batch, Channel, Record, RequiredTables};
//!
//! let folder = tempfile::tempdir()?;
//! let dsn = format!("sqlite:{}", folder.path().join("hayate.db").display());
//! let backend = Backend::new(dsn.parse()?, "", RequiredTables::Own);
//! backend.migrate()?;
//! let mut store = backend.open()?;
//!
//! let info_hash = InfoHash([7; 20]);
//! let row = CompletedRow { info_hash, completed: 3, last_completed: 1_800_000_000 };
//! let records = vec![Record::Completed(row)];
//! let batch = Batch { channel: Channel::Completed, records, sequence: 1 };
//! store.save(&batch)?;
//! store.save(&batch)?;
//! assert_eq!(store.acknowledged(Channel::Completed)?, Some(1));
//!
//! let mut completed = Vec::new();
//! store.read_completed(10, &mut |info_hash, count| completed.push((info_hash, count)))?;
//! assert_eq!(completed, [(info_hash, 3)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Tracker`] has an example of an announce.
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
pub mod cluster;
pub mod file_identity;
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

// The test double is shared with the integration tests, and names this crate from outside.
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
