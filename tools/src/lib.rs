//! Programs besides the daemon, as a library that the command line calls.
//!
//! | module | what is in it |
//! |---|---|
//! | [`bencode`] | readers, strict and lenient, and a writer of bencoded values (BEP 3) |
//! | [`bencode_json`] | `hayate-bencode`: bencode to JSON and back, without loss |
//! | [`cc`] | `hayate-cc`: the cache as JSON and back, without people, and exported |
//! | [`client`] | one request to any tracker over UDP or HTTP, its reply decoded |
//! | [`probe`] | the same by hand, printed for people or as JSON |
//! | [`e2e`] | whether a running tracker shows two peers to each other |
//! | [`json`] | a writer of JSON, piece by piece; octets as text |
//! | [`load`] | `hayate-load`: loads a tracker at its limit or at a given rate, and measures its replies |
//!
//! The client and the load generator write and read the wire on their own, on purpose: they share no code
//! with the servers they test. The client is correct and slow, the generator fast and careless about what a
//! reply says.
//!
//! Absent on purpose: anything that serves.

pub mod bencode;
pub mod bencode_json;
pub mod cc;
pub mod client;
pub mod e2e;
pub mod json;
pub mod load;
pub mod probe;
