//! Load over HTTP/1.1, without TLS and pipelining.
//!
//! | module | what is in it |
//! |---|---|
//! | [`wire`] | text of requests; status, length and failure of replies |
//! | [`connection`] | one connection, one request at a time |
//! | `work` | the loop over all connections |

pub mod connection;
pub mod wire;
mod work;

pub(super) use work::load;
