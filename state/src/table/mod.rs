//! How a torrent is found: by a keyed hash in an index of fingerprints, its header in a slab, fetched into
//! the processor's cache before it is needed.
//!
//! | module | what is in it |
//! |---|---|
//! | `keyed_hash` | hashes that no client can steer |
//! | `index` | from a hash to a place |
//! | `slab` | places that do not move |
//! | `prefetch` | fetches what will be read |

pub(crate) mod index;
pub(crate) mod keyed_hash;
pub(crate) mod prefetch;
pub(crate) mod slab;
