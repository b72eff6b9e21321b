//! Several trackers as one (mode open and listed): each node publishes the changes of its swarms in streams
//! of a Redis server, and applies those of the others. No announce ever waits for that server.
//!
//! | module | what is in it |
//! |---|---|
//! | [`record`] | one change of one peer, as nodes publish it |
//! | [`bus`] | the server with the streams, behind a trait |
//! | [`replica`] | what a link needs of the swarms, behind a trait |

pub mod bus;
pub mod record;
pub mod replica;
