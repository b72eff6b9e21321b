//! Load over UDP.
//!
//! | module | what is in it |
//! |---|---|
//! | [`wire`] | octets of requests, the head of replies |
//! | [`in_flight`] | requests of a socket that wait for their reply |
//! | [`socket`] | many datagrams in one system call, both ways |
//! | `work` | the loop over all sockets |

pub mod in_flight;
pub mod socket;
pub mod wire;
mod work;

pub(super) use work::load;
