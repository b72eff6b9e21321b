//! The file that keeps the swarms over a restart, beside the store.
//!
//! | module | what is in it |
//! |---|---|
//! | [`container`] | a file of tagged blocks with checksums, replaced whole |
//! | [`swarms`] | the swarms in such blocks: written, and restored |
//! | `entry`, `walk`, `restore` | one torrent, encoded; the walk through all of them; their restore |
//! | `octets` | numbers and octets taken from a slice |
//! | [`plain`] | the swarms in such blocks as plain values, for tools |
//! | [`thread`] | the thread that writes the file while the tracker serves, and at its stop |
//! | [`load`] | the start from such a file |
//! | [`delta`] | what changes while a snapshot goes to a successor |
//! | [`site`] | the contents in mode private: torrents with their peers, users, pending un-prunes |
//! | [`reference`](mod@reference) | the cache files of the reference tracker, read and written |

pub mod container;
pub mod delta;
pub(crate) mod entry;
pub mod load;
mod octets;
pub mod plain;
pub mod reference;
mod restore;
pub mod site;
pub mod swarms;
pub mod thread;
mod walk;
