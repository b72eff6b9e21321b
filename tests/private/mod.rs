//! Mode private as a whole daemon: both doors, both stores, real clients.

mod clients;
mod doors;
pub(crate) mod kit;
mod office;
