//! The programs besides the daemon.

mod cache_and_bencode;
pub(crate) mod import;
mod load;
