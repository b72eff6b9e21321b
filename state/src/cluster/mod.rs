//! Several trackers as one (mode open and listed): each node publishes the changes of its swarms in streams
//! of a Redis server, and applies those of the others. No announce ever waits for that server.
//!
//! Not finished: the real swarms are no replica, and nothing in the daemon or its configuration uses this.
//!
//! | module | what is in it |
//! |---|---|
//! | [`record`] | one change of one peer, as nodes publish it |
//! | [`bus`] | the server with the streams, behind a trait; [`bus::redis`] is the real one |
//! | [`codec`] | what a link needs of entries, behind a trait |
//! | [`sealed`] | entries that only nodes with the same secret can write or read |
//! | `encoding` | records and hellos as octets |
//! | [`link`] | the engine of one stream: what is published, read back, applied and published again |
//! | [`replica`] | what a link needs of the swarms, behind a trait |

pub mod bus;
pub mod codec;
mod encoding;
pub mod link;
pub mod record;
pub mod replica;
pub mod sealed;
