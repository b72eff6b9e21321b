//! Programs besides the daemon, as a library that the command line calls.
//!
//! | module | what is in it |
//! |---|---|
//! | [`bencode`] | readers, strict and lenient, and a writer of bencoded values (BEP 3) |
//! | [`bencode_json`] | `hayate-bencode`: bencode to JSON and back, without loss |
//! | [`cc`] | `hayate-cc`: converts the cache to JSON and back, anonymizes it, exports it |
//! | [`client`] | one request to any tracker over UDP or HTTP, its reply decoded |
//! | [`probe`] | the same by hand, printed for people or as JSON |
//! | [`e2e`] | whether a running tracker shows two peers to each other |
//! | [`json`] | a writer of JSON, piece by piece; octets as text |
//! | `percent` | percent-encoding of octets in URLs |
//! | [`load`] | `hayate-load`: loads a tracker at its limit or at a given rate, and measures its replies |
//!
//! The client and the load generator have their own code for the wire formats, on purpose: they share none
//! with the servers they test. The client is correct and slow; the generator is fast, and does not look into
//! replies.
//!
//! Absent on purpose: any server.

pub mod bencode;
pub mod bencode_json;
pub mod cc;
pub mod client;
pub mod e2e;
pub mod json;
pub mod load;
mod percent;
pub mod probe;
