//! Programs beside the daemon, as a library that the command line calls.
//!
//! | module | what is in it |
//! |---|---|
//! | [`bencode`] | a strict reader and a writer of bencoded values (BEP 3) |
//! | [`client`] | one request to any tracker over UDP or HTTP, its reply decoded |
//! | [`probe`] | the same by hand, printed for people or as JSON |
//! | [`e2e`] | does a running tracker show two peers to each other? |
//!
//! The client writes and reads the wire on its own, on purpose: it shares no code with the doors it tests.
//!
//! Absent on purpose: anything that serves; many requests at once (that is the load generator's business).

pub mod bencode;
pub mod client;
pub mod e2e;
pub mod probe;
