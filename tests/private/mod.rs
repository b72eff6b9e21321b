//! Mode private as a whole daemon: both doors, both stores, real clients.

mod clients;
mod doors;
mod kit;
mod office;
