//! Several trackers as one (mode open and listed): each node publishes the changes of its swarms in streams
//! of a Redis server, and applies those of the others. No announce ever waits for that server.
//!
//! | module | what is in it |
//! |---|---|
//! | [`record`] | one change of one peer, as nodes publish it |
//! | [`bus`] | the server with the streams, behind a trait |
//! | [`codec`] | what a link needs of entries, behind a trait |
//! | [`sealed`] | entries that only nodes with the same secret can write or read |
//! | [`encoding`] | records as octets |
//! | [`hello`] | what a node says about itself, and its octets |
//! | [`link`] | the engine of one stream: what is published, read back, applied and published again |
//! | [`replica`] | what a link needs of the swarms, behind a trait |
//! | [`swarm_replica`] | the swarms of one stream, as its link sees them |
//! | [`running`] | the threads of all links |
//! | `metrics` | the metrics of the links |
//! | `report` | what links have to say, as log lines |
//! | [`saved`] | what is saved of a cluster in the snapshot |
//! | `apply` | a record of another node, applied to its torrent |
//! | `own_change` | what an announce at this node means for the others |
//! | `outbox` | the records that a shard has to publish |

mod apply;
pub mod bus;
pub mod codec;
pub mod encoding;
pub mod hello;
pub mod link;
mod metrics;
pub(crate) mod outbox;
mod own_change;
pub mod record;
pub mod replica;
mod report;
pub mod running;
pub mod saved;
pub mod sealed;
pub mod swarm_replica;
