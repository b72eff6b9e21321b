//! How a torrent is found: by a keyed hash that names its shard, in an index of fingerprints there, its
//! header in a slab, fetched into the processor's cache before it is needed.
//!
//! | module | what is in it |
//! |---|---|
//! | `keyed_hash` | hashes that no client can steer |
//! | `sharded` | many small locks, and an estimate of the memory behind them |
//! | `index` | from a hash to a slot |
//! | `slab` | slots that do not move |
//! | `prefetch` | fetches what will be read |

pub(crate) mod index;
pub(crate) mod keyed_hash;
pub(crate) mod prefetch;
pub(crate) mod sharded;
pub(crate) mod slab;
